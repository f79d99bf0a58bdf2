//! Memory for the joined inputs of batches, which stays between batches.
//!
//! The kernel has to clear fresh memory before a batch can be written to it, which takes several times
//! as long as the copy of the inputs.

use std::{mem, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

/// Maximum number of buffers of one input that are kept while no batch uses them: for the batch that
/// runs, the next batch, and the batch before, whose outputs may be parts of its inputs.
const MOST_FREE: usize = 3;
/// Maximum number of bytes that are kept while no batch uses them.
const MOST_BYTES: usize = 256 << 20;

/// The buffers of one model, shared by its batches.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeptBuffers(Arc<Mutex<FreeBuffers>>);

/// The buffers that no batch uses, by the index of the input.
#[derive(Debug, Default)]
struct FreeBuffers(Vec<Vec<Vec<u8>>>);

/// A buffer for one input of a batch. It is kept for another batch when it is dropped.
#[derive(Debug)]
pub(crate) struct KeptBuffer {
    bytes: Vec<u8>,
    input: usize,
    buffers: KeptBuffers,
}

impl KeptBuffers {
    /// An empty buffer with room for `bytes` bytes of the input at this index.
    pub(crate) fn take(&self, input: usize, bytes: usize) -> KeptBuffer {
        let free = self.0.lock().take(input).filter(|free| free.capacity() >= bytes);
        // Memory that is reserved but not written costs nothing, and batches grow.
        let new = || Vec::with_capacity(bytes.checked_next_power_of_two().unwrap_or(bytes));
        KeptBuffer { bytes: free.unwrap_or_else(new), input, buffers: self.clone() }
    }

    /// Returns the buffers that no batch uses to the allocator.
    pub(crate) fn release(&self) {
        // Returning many megabytes takes a while.
        let free = mem::take(&mut *self.0.lock());
        drop(free);
    }
}

impl FreeBuffers {
    fn take(&mut self, input: usize) -> Option<Vec<u8>> {
        self.0.get_mut(input)?.pop()
    }

    /// Keeps a buffer, unless enough are kept. Returns the buffer that is not kept.
    fn keep(&mut self, input: usize, mut buffer: Vec<u8>) -> Option<Vec<u8>> {
        let kept: usize = self.0.iter().flatten().map(Vec::capacity).sum();
        if self.0.len() <= input {
            self.0.resize_with(input + 1, Vec::new);
        }
        let of_input = &mut self.0[input];
        if of_input.len() >= MOST_FREE || kept.saturating_add(buffer.capacity()) > MOST_BYTES {
            return Some(buffer);
        }
        buffer.clear();
        of_input.push(buffer);
        None
    }
}

impl KeptBuffer {
    /// The bytes so far.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The bytes, without a copy. The buffer is kept for another batch when all parts are dropped.
    pub(crate) fn share(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for KeptBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for KeptBuffer {
    fn drop(&mut self) {
        let buffer = mem::take(&mut self.bytes);
        let left = self.buffers.0.lock().keep(self.input, buffer);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(buffers: &KeptBuffers, input: usize, bytes: usize) -> Bytes {
        let mut buffer = buffers.take(input, bytes);
        buffer.bytes().resize(bytes, 7);
        buffer.share()
    }

    #[test]
    fn a_buffer_is_used_again_once_no_part_of_it_is_in_use() {
        let buffers = KeptBuffers::default();
        let first = filled(&buffers, 0, 100);
        let part = first.slice(10..20);
        let place = first.as_ptr();
        drop(first);
        assert_ne!(filled(&buffers, 0, 100).as_ptr(), place, "a part is in use");
        drop(part);
        let again = buffers.take(0, 80);
        assert_eq!(again.as_ref().len(), 0);
        assert_eq!(again.share().len(), 0);
        let places = [filled(&buffers, 0, 100), filled(&buffers, 0, 100)].map(|b| b.as_ptr());
        assert!(places.contains(&place), "{places:?}");
    }

    #[test]
    fn each_input_has_buffers_of_its_own() {
        let buffers = KeptBuffers::default();
        let place = filled(&buffers, 1, 100).as_ptr();
        let other = filled(&buffers, 0, 100);
        assert_ne!(other.as_ptr(), place);
        assert_eq!(filled(&buffers, 1, 100).as_ptr(), place);
    }

    #[test]
    fn few_buffers_are_kept_and_none_after_a_release() {
        let buffers = KeptBuffers::default();
        let free = |buffers: &KeptBuffers| buffers.0.lock().0.iter().map(Vec::len).sum::<usize>();
        let batches: Vec<Bytes> = (0..9).map(|_| filled(&buffers, 0, 100)).collect();
        drop(batches);
        assert_eq!(free(&buffers), MOST_FREE);
        drop(buffers.take(1, MOST_BYTES + 1));
        assert_eq!(free(&buffers), MOST_FREE, "too large");
        buffers.release();
        assert_eq!(free(&buffers), 0);
    }
}
