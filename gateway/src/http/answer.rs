//! The body of an answer, on its way out.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    body::{BodySize, MessageBody},
    web::Bytes,
};

use crate::body::Body;

/// How much is handed to the connection at a time.
const PIECE: usize = 64 << 10;

/// An answer that is handed out piece by piece.
///
/// The server copies what it is given into its own buffer and keeps it for as long as the caller
/// does not take it. So it is given little at a time, and the answer's share of the budget is held
/// until the last piece: callers that read slowly cannot fill the memory.
pub(super) struct Answer(pub(super) Body);

impl MessageBody for Answer {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0.bytes.len() as u64)
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let left = &mut self.get_mut().0.bytes;
        let piece = left.split_to(left.len().min(PIECE));
        Poll::Ready((!piece.is_empty()).then_some(Ok(piece)))
    }
}
