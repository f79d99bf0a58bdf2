//! An allocator that counts, for tests of how often data is copied.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering},
};

static ALLOCATED: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, which counts the bytes that it hands out to the whole process.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

impl CountingAllocator {
    /// Returns the bytes handed out so far, including those that have been freed again.
    pub fn allocated() -> u64 {
        ALLOCATED.load(Ordering::Relaxed)
    }
}

fn count(bytes: usize) {
    ALLOCATED.fetch_add(bytes as u64, Ordering::Relaxed);
}

// SAFETY: every call is passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_handed_out() {
        let before = CountingAllocator::allocated();
        let layout = Layout::new::<[u64; 100]>();
        // SAFETY: the layout is not empty.
        let pointer = unsafe { CountingAllocator.alloc(layout) };
        assert!(CountingAllocator::allocated() - before >= 800);
        // SAFETY: the pointer comes from this allocator with this layout.
        unsafe { CountingAllocator.dealloc(pointer, layout) };
    }
}
