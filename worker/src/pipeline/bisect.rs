//! Finds the jobs that make a batch fail: a failed batch runs again in halves, down to single jobs
//! that fail alone. Pure.

use std::collections::VecDeque;

use crate::{batch::Batch, fault::RunFault, job::HeldJob};

/// The parts of failed batches that are still to run.
///
/// Halves are appended to the queue, so that with one bad job the larger good parts are answered
/// first. If the first half of a part succeeds, the second half must contain the bad job and is
/// split without another run: one bad job among N takes 1.5 log2 N more runs on average, 2 log2 N
/// at most.
#[derive(Debug, Default)]
pub(super) struct Bisection(VecDeque<BatchPart>);

/// A batch, or a part of a failed batch.
#[derive(Debug)]
pub(super) struct BatchPart {
    /// The jobs.
    pub(super) batch: Batch,
    /// Whether the part is the first of two halves; the second half is next in the queue.
    pub(super) is_first_half: bool,
    /// Whether the part must contain a bad job, because a larger part failed but its other half
    /// succeeded.
    pub(super) is_guilty: bool,
}

impl Bisection {
    /// Takes the next part.
    pub(super) fn next(&mut self) -> Option<BatchPart> {
        self.0.pop_front()
    }

    /// Whether no parts are left to run.
    pub(super) fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// Records that a first half succeeded: the second half, which is the next part, is guilty.
    pub(super) fn first_half_ran(&mut self) {
        if let Some(second) = self.0.front_mut() {
            second.is_guilty = true;
        }
    }

    /// Queues the halves of a part that failed with `fault`. If memory ran out, either half may
    /// fail again, regardless of the other.
    pub(super) fn failed(&mut self, [first, second]: [Batch; 2], fault: RunFault) {
        let is_first_half = fault == RunFault::Model;
        self.0.push_back(BatchPart { batch: first, is_first_half, is_guilty: false });
        self.0.push_back(BatchPart { batch: second, is_first_half: false, is_guilty: false });
    }

    /// The jobs that have not run.
    pub(super) fn into_jobs(self) -> Vec<HeldJob> {
        self.0.into_iter().flat_map(|part| part.batch.jobs).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use batchfleet_broker::Release;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::examples::{delivery, held_job};

    /// Bisects a batch of `jobs` jobs, in which every part with a job from `bad` fails. Returns the
    /// jobs that failed alone, and the number of runs.
    fn bisect(jobs: usize, bad: &BTreeSet<u128>) -> (BTreeSet<u128>, usize) {
        let jobs = (0..jobs).map(|index| held_job(delivery(index, 1, 1))).collect();
        let whole = Batch::new(jobs, Release::Full);
        let mut bisection = Bisection::default();
        bisection.0.push_back(BatchPart { batch: whole, is_first_half: false, is_guilty: false });
        let (mut failed, mut runs) = (BTreeSet::new(), 0);
        while let Some(BatchPart { batch, is_first_half, is_guilty }) = bisection.next() {
            let batch = match if is_guilty { batch.halves() } else { Err(batch) } {
                Ok(halves) => {
                    bisection.failed(halves, RunFault::Model);
                    continue;
                }
                Err(batch) => batch,
            };
            runs += 1;
            let ids: Vec<u128> = batch.jobs.iter().map(|job| job.delivery.job.id.0).collect();
            if ids.iter().any(|id| bad.contains(id)) {
                match batch.halves() {
                    Ok(halves) => bisection.failed(halves, RunFault::Model),
                    Err(_) => failed.extend(ids),
                }
            } else if is_first_half {
                bisection.first_half_ran();
            }
        }
        (failed, runs)
    }

    proptest! {
        #[test]
        fn exactly_the_bad_jobs_fail(
            jobs in 1_usize..40,
            bad in prop::collection::btree_set(0_u128..40, 0..6),
        ) {
            let bad: BTreeSet<u128> = bad.into_iter().filter(|&id| id < jobs as u128).collect();
            prop_assert_eq!(bisect(jobs, &bad).0, bad);
        }
    }

    #[test]
    fn one_bad_job_among_64_takes_at_most_twelve_more_runs() {
        let runs = (0..64).map(|bad| bisect(64, &BTreeSet::from([bad])).1);
        assert!(runs.max() <= Some(1 + 12));
    }
}
