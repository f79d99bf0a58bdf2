//! Returns freed memory to the system, and counts allocated memory for tests.
//!
//! The allocator of glibc keeps the memory that a program frees, unless it is the last part of a
//! heap. After an attack or a burst, a process would keep its largest size for good.

mod counting;

pub use counting::CountingAllocator;

/// Returns the freed memory of the whole process to the system. Takes some milliseconds, during
/// which other threads wait for memory.
#[cfg(target_env = "gnu")]
pub fn release() {
    // SAFETY: `malloc_trim` takes no pointer, and locks each heap while it works.
    unsafe { libc::malloc_trim(0) };
}

/// Does nothing: only the allocator of glibc keeps freed memory.
#[cfg(not(target_env = "gnu"))]
pub fn release() {}

#[cfg(test)]
mod tests {
    /// Resident memory of this process, in bytes.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    #[test]
    fn freed_memory_below_a_live_allocation_is_returned() {
        let mut pieces: Vec<Vec<u8>> = (0..10_000).map(|_| vec![1; 8 << 10]).collect();
        // The last piece stays, so that no heap ends with free memory.
        pieces.drain(..pieces.len() - 1);
        let before = resident();
        super::release();
        let released = before.saturating_sub(resident());
        assert!(released > 60 << 20, "{released} of {before} bytes");
        assert_eq!(pieces.len(), 1);
    }
}
