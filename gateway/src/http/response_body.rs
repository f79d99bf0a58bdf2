//! The body of an inference response on its way to the client.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    body::{BodySize, BoxBody, MessageBody},
    web::Bytes,
};

use crate::memory::MemoryShare;

/// The bytes of an answer's body; 0 if it is a stream.
pub(super) fn sent_bytes(body: &BoxBody) -> u64 {
    match body.size() {
        BodySize::Sized(bytes) => bytes,
        BodySize::None | BodySize::Stream => 0,
    }
}

/// Maximum number of bytes handed to the server at a time.
const PIECE: usize = 64 << 10;

/// A response body that is handed to the server piece by piece.
///
/// The server copies each piece to its own buffer, where the piece stays until the client has read
/// it. Small pieces keep the buffer small, and the body keeps its share of the budget until the
/// last piece is handed over. Clients that read slowly therefore cannot fill the memory.
#[derive(Debug)]
pub(super) struct ResponseBody {
    /// The bytes still to hand over; no piece is empty.
    pieces: VecDeque<Bytes>,
    _share: MemoryShare,
}

impl ResponseBody {
    /// A body of `pieces` that holds `share` of the budget.
    pub(super) fn new(pieces: Vec<Bytes>, share: MemoryShare) -> Self {
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self { pieces, _share: share }
    }
}

impl MessageBody for ResponseBody {
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
