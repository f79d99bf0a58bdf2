//! Decides when freed memory returns to the system, and counts allocated memory for tests.
//!
//! Left alone, the allocator of glibc does both wrongly. Freed memory at the end of a heap goes back at
//! once, and the next tensor pays for fresh pages: the kernel clears them, which takes longer than
//! reading the tensor. Freed memory below a live allocation stays, so that a process would keep the
//! largest size of a burst for good.

mod counting;

pub use counting::CountingAllocator;

/// The largest block that the heaps take, in bytes: the most that glibc allows. Larger blocks are mapped
/// and unmapped one by one.
#[cfg(target_env = "gnu")]
const LARGEST_BLOCK: libc::c_int = 32 << 20;
/// Freed memory at the end of a heap that the heap keeps, in bytes. Twice the largest block, which glibc
/// would choose by itself after such a block.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 2 * LARGEST_BLOCK;
/// The same for all heaps of a process with many threads that free memory.
#[cfg(target_env = "gnu")]
const KEPT_BY_ALL: libc::c_int = 32 << 20;
/// The least that each of them keeps.
#[cfg(target_env = "gnu")]
const LEAST_KEPT: libc::c_int = 1 << 20;

/// Lets the allocator keep freed memory for the next tensors, until [`release`] returns it. To be called
/// at the start of a process.
#[cfg(target_env = "gnu")]
pub fn keep_freed() {
    for (parameter, bytes) in
        [(libc::M_MMAP_THRESHOLD, LARGEST_BLOCK), (libc::M_TRIM_THRESHOLD, KEPT)]
    {
        // SAFETY: `mallopt` takes no pointer, and locks the allocator while it works.
        unsafe { libc::mallopt(parameter, bytes) };
    }
}

/// Does nothing: only the allocator of glibc has these settings.
#[cfg(not(target_env = "gnu"))]
pub fn keep_freed() {}

/// Limits what the heaps of `threads` threads keep together. [`release`] returns the freed memory at the end of the
/// first heap only, so the others keep theirs for good.
#[cfg(target_env = "gnu")]
pub fn keep_less(threads: usize) {
    let each = KEPT_BY_ALL / libc::c_int::try_from(threads.max(1)).unwrap_or(libc::c_int::MAX);
    // SAFETY: `mallopt` takes no pointer, and locks the allocator while it works.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, each.max(LEAST_KEPT)) };
}

/// Does nothing: only the allocator of glibc has this setting.
#[cfg(not(target_env = "gnu"))]
pub fn keep_less(_threads: usize) {}

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

/// The memory of this process that the allocator has got from the system and no allocation uses, in bytes. Stacks
/// of threads count as well. Locks each heap while it counts the heap's free blocks.
#[cfg(target_env = "gnu")]
pub fn unused() -> usize {
    // SAFETY: `mallinfo2` takes no pointer, and locks each heap while it works.
    let heaps = unsafe { libc::mallinfo2() };
    resident().unwrap_or(0).saturating_sub(heaps.uordblks + heaps.hblkhd)
}

/// Returns 0: only the allocator of glibc tells what is used.
#[cfg(not(target_env = "gnu"))]
pub fn unused() -> usize {
    0
}

/// Resident memory of this process in bytes, without the pages of files; `None` where the system is not Linux.
#[cfg(any(test, target_env = "gnu"))]
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse::<usize>().ok()?.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    #[test]
    fn freed_memory_below_a_live_allocation_is_returned() {
        let mut pieces: Vec<Vec<u8>> = (0..10_000).map(|_| vec![1; 8 << 10]).collect();
        // The last piece stays, so that no heap ends with free memory.
        pieces.drain(..pieces.len() - 1);
        let (before, unused) = (super::resident().unwrap(), super::unused());
        super::release();
        let released = before.saturating_sub(super::resident().unwrap());
        assert!(released > 60 << 20, "{released} of {before} bytes");
        assert!(unused > super::unused() + (60 << 20), "{unused} bytes before");
        assert_eq!(pieces.len(), 1);
    }

    /// Page faults of this thread.
    fn faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // The name of the thread, in brackets, may contain spaces; the faults are the eighth field after it.
        stat.rsplit(')').next().unwrap().split_whitespace().nth(7).unwrap().parse().unwrap()
    }

    #[test]
    fn memory_of_freed_tensors_is_used_again_without_page_faults() {
        super::keep_freed();
        let tensors = || drop((0..20).map(|_| vec![1_u8; 600 << 10]).collect::<Vec<_>>());
        tensors();
        let before = faults();
        (0..10).for_each(|_| tensors());
        let pages = faults() - before;
        assert!(pages < 1000, "{pages} page faults, 150 for each fresh tensor");
    }
}
