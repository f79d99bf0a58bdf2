//! Chooses how many rows to claim and run, and when to claim, from the tuner's estimates of batch
//! times and load and from the broker's round-trip time.

use std::{iter::once, time::Duration};

use batchfleet_broker::Delivery;
use tokio::time::Instant;

use super::held::HeldJobs;
use crate::{job::HeldJob, settle::RoundTrip, tuner::SharedTuner};

/// Minimum time that a batch waits for a claim to fill it up.
pub(super) const TOP_UP: Duration = Duration::from_millis(2);
/// If a run is shorter than this many round trips to the broker, the next batch is claimed
/// immediately.
const CLAIM_AHEAD_BELOW: u32 = 5;
/// Resolution of timers.
const TICK: Duration = Duration::from_millis(1);

/// Chooses the sizes and times of claims and batches.
pub(super) struct BatchPace {
    tuner: SharedTuner,
    round_trip: RoundTrip,
}

impl BatchPace {
    /// Bases decisions on `tuner` and `round_trip`.
    pub(super) fn new(tuner: SharedTuner, round_trip: RoundTrip) -> Self {
        Self { tuner, round_trip }
    }

    /// Records the jobs of a claim; `full` if the claim returned as many jobs as requested.
    pub(super) fn claimed(&self, deliveries: &[Delivery], full: bool) {
        self.tuner.lock().claimed(deliveries, full);
    }

    /// Chooses N for the next batch; 1 for a model that does not batch.
    pub(super) fn limit(&self) -> u32 {
        self.tuner.lock().limit(self.round_trip.get())
    }

    /// How many rows of the held jobs to run now: at most N, or [`most`](Self::most) if a job has
    /// more rows than N.
    pub(super) fn rows_now(&self, held: &HeldJobs) -> u32 {
        let waits = held.iter().map(|job| job.delivery.age());
        let oldest = waits.max().unwrap_or_default();
        let largest = held.iter().map(HeldJob::rows_left).max().unwrap_or_default();
        self.tuner.lock().take(held.rows(), oldest, largest)
    }

    /// The maximum rows of a batch with a part of a job that has more rows than N.
    pub(super) fn most(&self) -> u32 {
        self.tuner.lock().most()
    }

    /// Whether each job runs alone and whole, because rows of a batch influence each other.
    pub(super) fn has_ended_batching(&self) -> bool {
        self.tuner.lock().has_ended_batching()
    }

    /// N as last chosen.
    pub(super) fn n(&self) -> u32 {
        self.tuner.lock().n()
    }

    /// The indices of the held jobs that can no longer meet their deadlines, in ascending order.
    /// Batches have at most `limit` rows; the parts of a large job run one after the other.
    pub(super) fn doomed(&self, held: &HeldJobs, limit: u32) -> Vec<usize> {
        let now = Instant::now();
        let left = |job: &HeldJob| job.delivery.deadline.saturating_duration_since(now);
        let tuner = self.tuner.lock();
        let (large, whole): (Vec<_>, Vec<_>) =
            held.iter().enumerate().partition(|(_, job)| job.is_large(limit));
        let count = tuner.doomed(held.whole_rows(limit), whole.iter().map(|(_, job)| left(job)));
        let mut doomed: Vec<usize> = whole[..count].iter().map(|&(index, _)| index).collect();
        for (index, job) in large {
            let rows = job.rows_left();
            let parts_before_last = rows.saturating_sub(1) / limit.max(1);
            let left = left(job).saturating_sub(tuner.expected(limit) * parts_before_last);
            if tuner.doomed(rows.min(limit), once(left)) > 0 {
                doomed.push(index);
            }
        }
        doomed.sort_unstable();
        doomed
    }

    /// Deadlines before this time are urgent: the jobs cannot wait for another batch of `limit`
    /// rows.
    pub(super) fn soon(&self, limit: u32) -> Instant {
        Instant::now() + self.tuner.lock().expected(limit) * 2
    }

    /// How long to wait for the broker to answer a claim if jobs are available.
    pub(super) fn claim_patience(&self) -> Duration {
        TOP_UP.max(self.round_trip.get() * 2)
    }

    /// How long after the start of a run of `rows` rows to claim the next batch. The jobs should
    /// arrive just before the run ends: earlier, another worker might be free to run them. `None`
    /// if no more jobs seem to wait, unless the run is too short to tell.
    pub(super) fn claim_ahead(&self, rows: u32, more_waits: bool) -> Option<Duration> {
        let run_takes = self.tuner.lock().expected(rows);
        let round_trip = self.round_trip.get();
        if run_takes < round_trip * CLAIM_AHEAD_BELOW {
            return Some(Duration::ZERO);
        }
        let early = round_trip * 2 + TICK;
        more_waits.then(|| run_takes.saturating_sub(early))
    }
}
