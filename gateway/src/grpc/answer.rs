//! The bodies of answers on their way to the client.

use std::{
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use tonic::Status;

use super::{connection::Call, stream::Answers};
use crate::memory::MemoryShare;

/// Maximum number of bytes handed to HTTP/2 at a time.
const PIECE: usize = 64 << 10;

/// The body of an answer.
pub(super) struct AnswerBody {
    content: Content,
    /// Counts the call as open; `None` only before the answer is complete.
    call: Option<Rc<Call>>,
}

enum Content {
    /// No body: the head holds the status.
    Empty,
    /// One message.
    One(Parts),
    /// The answers of a stream.
    Many(Box<Answers>),
    /// An answer of the generated code.
    Generated(tonic::body::Body),
}

/// A message in pieces, handed over piece by piece. The message keeps its share of the budget until the
/// last piece is handed over, so that clients that read slowly cannot fill the memory.
pub(super) struct Parts {
    /// The bytes still to hand over; no piece is empty.
    pieces: VecDeque<Bytes>,
    _share: MemoryShare,
}

impl Parts {
    pub(super) fn new(pieces: Vec<Bytes>, share: MemoryShare) -> Self {
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self { pieces, _share: share }
    }

    /// The next piece; `None` if all were handed over.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let first = self.pieces.front_mut()?;
        let piece = first.split_to(first.len().min(PIECE));
        if first.is_empty() {
            self.pieces.pop_front();
        }
        Some(piece)
    }
}

impl Default for AnswerBody {
    fn default() -> Self {
        Self { content: Content::Empty, call: None }
    }
}

impl AnswerBody {
    /// One message, and the status that the call succeeded.
    pub(super) fn one(parts: Parts) -> Self {
        Self { content: Content::One(parts), call: None }
    }

    /// The answers of a stream.
    pub(super) fn many(answers: Answers) -> Self {
        Self { content: Content::Many(Box::new(answers)), call: None }
    }

    /// An answer of the generated code.
    pub(super) fn generated(body: tonic::body::Body) -> Self {
        Self { content: Content::Generated(body), call: None }
    }

    /// Counts the call as open until the answer was sent.
    pub(super) fn of(self, call: Rc<Call>) -> Self {
        Self { call: Some(call), ..self }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some(call) = &this.call {
            call.moved();
        }
        let polled = match &mut this.content {
            Content::Empty => Poll::Ready(None),
            Content::One(parts) => {
                let frame = if let Some(piece) = parts.next() {
                    Frame::data(piece)
                } else {
                    this.content = Content::Empty;
                    Frame::trailers(succeeded())
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Content::Many(answers) => answers.poll(context).map(|frame| frame.map(Ok)),
            Content::Generated(body) => Pin::new(body).poll_frame(context),
        };
        if let (Some(call), Poll::Pending) = (&this.call, &polled) {
            // The client has read everything so far.
            call.rests();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Generated(body) => body.is_end_stream(),
            Content::One(_) | Content::Many(_) => false,
        }
    }
}

/// The trailers of a call that succeeded.
fn succeeded() -> HeaderMap {
    HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))])
}

/// The trailers of a call that ended with this status.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // The text of the status is no header.
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("13"));
    }
    trailers
}

#[cfg(test)]
mod tests {
    use prometheus::IntGauge;

    use super::*;
    use crate::memory::MemoryBudget;

    #[test]
    fn a_message_is_handed_over_in_small_pieces_and_holds_its_memory_until_then() {
        let gauge = IntGauge::new("held", "for tests").unwrap();
        let mut share = MemoryBudget::new(1 << 30, gauge.clone()).share();
        share.resize(100).unwrap();
        let large = Bytes::from(vec![1; PIECE + 1]);
        let mut parts = Parts::new(vec![Bytes::from("a"), Bytes::new(), large], share);
        let lengths: Vec<_> =
            std::iter::from_fn(|| parts.next()).map(|piece| piece.len()).collect();
        assert_eq!(lengths, [1, PIECE, 1]);
        assert_eq!(gauge.get(), 100);
        drop(parts);
        assert_eq!(gauge.get(), 0);
    }
}
