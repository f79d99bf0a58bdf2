//! Messages on their way to the client, and the trailers after them.

use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tonic::Status;

use crate::memory::MemoryShare;

/// Maximum number of bytes handed to HTTP/2 at a time.
const PIECE: usize = 64 << 10;

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

/// The trailers of a call that succeeded.
pub(super) fn succeeded() -> HeaderMap {
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
