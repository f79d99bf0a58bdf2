//! The body of an answer, on its way out.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    body::{BodySize, MessageBody},
    web::Bytes,
};

use crate::body::Share;

/// How much is handed to the connection at a time.
const PIECE: usize = 64 << 10;

/// An answer that is handed out piece by piece.
///
/// The server copies what it is given into its own buffer and keeps it for as long as the caller
/// does not take it. So it is given little at a time, and the answer's share of the budget is held
/// until the last piece: callers that read slowly cannot fill the memory.
#[derive(Debug)]
pub(super) struct Answer {
    /// Not empty, unless nothing is left.
    pieces: VecDeque<Bytes>,
    _share: Share,
}

impl Answer {
    /// An answer of these pieces, which holds so much of the budget.
    pub(super) fn new(pieces: Vec<Bytes>, share: Share) -> Self {
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self { pieces, _share: share }
    }
}

impl MessageBody for Answer {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.pieces.iter().map(|piece| piece.len() as u64).sum())
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let pieces = &mut self.get_mut().pieces;
        let Some(first) = pieces.front_mut() else { return Poll::Ready(None) };
        let piece = first.split_to(first.len().min(PIECE));
        if first.is_empty() {
            pieces.pop_front();
        }
        Poll::Ready(Some(Ok(piece)))
    }
}
