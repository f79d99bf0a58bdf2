//! Where the bytes of a body come from, and where they are collected.

use std::{
    fmt::Display,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;

/// Maximum memory for a body before its first byte, in bytes. With less, the gateway would start to read many more
/// large bodies and refuse most of them later, while small requests wait.
pub(super) const HEAD_START: usize = 1 << 20;

/// A body that arrives in pieces.
pub(crate) trait Source {
    /// Why the body broke off.
    type Error: Display;

    /// Waits for the next bytes of the body, and adds them to `into`. `None` at the end of the body.
    fn poll_more(
        &mut self,
        context: &mut Context<'_>,
        into: &mut Buffer,
    ) -> Poll<Option<Result<(), Self::Error>>>;

    /// Waits for the next bytes of the body, and drops them. Returns their number; `None` at the end of the body.
    fn poll_skip(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<usize, Self::Error>>>;
}

impl<S, E> Source for S
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    type Error = E;

    fn poll_more(
        &mut self,
        context: &mut Context<'_>,
        into: &mut Buffer,
    ) -> Poll<Option<Result<(), E>>> {
        let piece = ready!(Pin::new(self).poll_next(context));
        Poll::Ready(piece.map(|piece| piece.map(|piece| into.add(&piece))))
    }

    fn poll_skip(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<usize, E>>> {
        let piece = ready!(Pin::new(self).poll_next(context));
        Poll::Ready(piece.map(|piece| piece.map(|piece| piece.len())))
    }
}

/// The bytes of a body that have arrived.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: BytesMut,
    /// The length of the whole body in bytes; 0 if it is not known.
    announced: usize,
}

impl Buffer {
    pub(super) fn new(announced: Option<usize>) -> Self {
        Self { bytes: BytesMut::new(), announced: announced.unwrap_or(0) }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }

    /// Adds bytes at the end.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes so far, with room at the end for more.
    pub(crate) fn with_room(&mut self) -> &mut BytesMut {
        self.reserve(1);
        &mut self.bytes
    }

    /// Makes room for `more` bytes: up to 1 MiB first, and then for the whole announced length. Growing in steps
    /// would copy.
    fn reserve(&mut self, more: usize) {
        let length = self.bytes.len() + more;
        if length > self.bytes.capacity() {
            let room = self.announced;
            let room = if length > HEAD_START { room } else { room.min(HEAD_START) };
            self.bytes.reserve(room.max(length) - self.bytes.len());
        }
    }
}
