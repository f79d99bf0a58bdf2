//! How long a worker waits for jobs to arrive.
//!
//! The size of a job is known only once the job has arrived, and a network may be slow. A fixed timeout
//! would end the transfer of large jobs again and again, and each time Redis would send them anew.

use std::time::Duration;

use parking_lot::Mutex;

use super::large_values::transfer_time;

/// The longest time to wait. The connection to Redis is watched meanwhile, so that an outage ends the
/// wait.
const LONGEST: Duration = Duration::from_mins(1);
/// The factor by which the patience grows with each transfer that took too long.
const LONGER: u32 = 4;

/// What the transfers of a queue's jobs to one worker have shown.
#[derive(Default)]
pub(super) struct Transfers(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// The size of the jobs that arrived last, in bytes: the largest one counts, and is forgotten by
    /// tenths.
    size: usize,
    /// The number of transfers in a row that took too long.
    too_slow: u32,
}

impl Transfers {
    /// At how many jobs to ask for at once, if `wanted` are. After a transfer that took too long, only
    /// one.
    pub(super) fn jobs(&self, wanted: usize) -> usize {
        if self.0.lock().too_slow > 0 { wanted.min(1) } else { wanted }
    }

    /// How long to wait for up to `jobs` jobs; `usual` for small jobs.
    pub(super) fn patience(&self, usual: Duration, jobs: usize) -> Duration {
        let seen = self.0.lock();
        let usual = usual.saturating_mul(LONGER.saturating_pow(seen.too_slow));
        (usual + transfer_time(seen.size.saturating_mul(jobs))).min(LONGEST)
    }

    /// Jobs of these sizes have arrived.
    pub(super) fn arrived(&self, sizes: impl Iterator<Item = usize>) {
        let Some(largest) = sizes.max() else { return };
        let mut seen = self.0.lock();
        *seen = Seen { size: largest.max(seen.size / 10 * 9), too_slow: 0 };
    }

    /// Jobs have not arrived in time, although Redis could be reached.
    pub(super) fn took_too_long(&self) {
        let mut seen = self.0.lock();
        seen.too_slow = seen.too_slow.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_secs(1);

    #[test]
    fn the_patience_follows_the_size_of_the_last_jobs() {
        let transfers = Transfers::default();
        assert_eq!(transfers.patience(USUAL, 64), USUAL);
        transfers.arrived([600_000, 2_000_000].into_iter());
        assert_eq!(transfers.patience(USUAL, 4), Duration::from_secs(9));
        assert_eq!(transfers.patience(USUAL, 64), LONGEST);
        for _ in 0..100 {
            transfers.arrived([100].into_iter());
        }
        assert!(transfers.patience(USUAL, 64) < USUAL * 2);
    }

    #[test]
    fn jobs_that_took_too_long_come_one_by_one_until_one_has_arrived() {
        let transfers = Transfers::default();
        for patience in [4, 16, 60, 60] {
            transfers.took_too_long();
            assert_eq!(transfers.patience(USUAL, 1), Duration::from_secs(patience));
            assert_eq!(transfers.jobs(64), 1);
        }
        assert_eq!(transfers.jobs(0), 0);
        transfers.arrived(std::iter::empty());
        assert_eq!(transfers.jobs(64), 1);
        transfers.arrived([3_000_000].into_iter());
        assert_eq!(
            (transfers.jobs(64), transfers.patience(USUAL, 2)),
            (64, Duration::from_secs(7))
        );
    }
}
