//! What was read from a connection ahead of h2.
//!
//! h2 asks for a part of a request at a time: it makes room for a frame once it has read the frame's head.
//! Each read would be a system call.

use std::{cell::Cell, ops::Range};

use tokio::io::ReadBuf;

/// Maximum number of bytes that are read ahead. A small request arrives in one piece.
pub(super) const PIECE: usize = 16 << 10;
/// How much of a piece h2 gets first if it has no room for all of it: the heads of the next frames. h2 then
/// makes room, and need not move what it already has.
const FIRST: usize = 512;

thread_local! {
    /// A free buffer of this thread. The same buffer for one connection after the other stays in the cache
    /// of the processor.
    static FREE: Cell<Buffer> = const { Cell::new(None) };
}

type Buffer = Option<Box<[u8]>>;

/// A buffer of [`PIECE`] bytes.
pub(super) fn buffer() -> Box<[u8]> {
    FREE.take().unwrap_or_else(|| vec![0; PIECE].into())
}

/// Bytes read ahead of h2.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    buffer: Buffer,
    rest: Range<usize>,
}

impl Ahead {
    /// The first `length` bytes of a buffer.
    pub(super) fn new(buffer: Box<[u8]>, length: usize) -> Self {
        let mut ahead = Self { buffer: Some(buffer), rest: 0..length };
        ahead.free_if_empty();
        ahead
    }

    /// Whether h2 has everything.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Hands over all bytes, or the first few if `into` has no room for all.
    pub(super) fn hand_over(&mut self, into: &mut ReadBuf<'_>) {
        let (left, room) = (self.rest.len(), into.remaining());
        let length = if left <= room { left } else { FIRST.min(room) };
        let end = self.rest.start + length;
        if let Some(buffer) = &self.buffer {
            into.put_slice(&buffer[self.rest.start..end]);
        }
        self.rest.start = end;
        self.free_if_empty();
    }

    fn free_if_empty(&mut self) {
        if self.is_empty() && self.buffer.is_some() {
            FREE.set(self.buffer.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heads_of_frames_are_handed_over_first_and_a_free_buffer_is_used_again() {
        let mut bytes = buffer();
        bytes[0] = 1;
        bytes[FIRST] = 2;
        let place = bytes.as_ptr();
        let mut ahead = Ahead::new(bytes, PIECE);
        let (mut small, mut large) = ([0; PIECE - 1], [0; PIECE]);
        let mut into = ReadBuf::new(&mut small);
        ahead.hand_over(&mut into);
        assert_eq!((into.filled().len(), into.filled()[0]), (FIRST, 1));
        let other = buffer();
        assert_ne!(other.as_ptr(), place, "the buffer is in use");
        let mut into = ReadBuf::new(&mut large);
        ahead.hand_over(&mut into);
        assert_eq!((into.filled().len(), into.filled()[0]), (PIECE - FIRST, 2));
        assert!(ahead.is_empty());
        let same = buffer();
        assert_eq!(same.as_ptr(), place);
    }
}
