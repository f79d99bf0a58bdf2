//! How many rows to take next and when to claim them, from the tuner's knowledge of batches and load
//! and from the time that the broker takes to answer.

use std::time::Duration;

use batchfleet_broker::Delivery;
use tokio::time::Instant;

use super::held::HeldJobs;
use crate::{settle::RoundTrip, tuner::SharedTuner};

/// How long a batch that could leave waits at least for a claim that is to fill it.
pub(super) const TOP_UP: Duration = Duration::from_millis(2);
/// During a run of less than this many round trips to the broker, the next batch is claimed at once.
const CLAIM_AHEAD_BELOW: u32 = 5;
/// How exact timers are.
const TICK: Duration = Duration::from_millis(1);

/// The sizes and times of claims and batches.
pub(super) struct BatchPace {
    tuner: SharedTuner,
    round_trip: RoundTrip,
}

impl BatchPace {
    /// Decides by `tuner` and `round_trip`.
    pub(super) fn new(tuner: SharedTuner, round_trip: RoundTrip) -> Self {
        Self { tuner, round_trip }
    }

    /// Takes in the jobs of a claim; `full` if the claim got as many as it asked for.
    pub(super) fn claimed(&self, deliveries: &[Delivery], full: bool) {
        self.tuner.lock().claimed(deliveries, full);
    }

    /// N just now: 1 for a model that does not batch.
    pub(super) fn limit(&self) -> u32 {
        self.tuner.lock().limit(self.round_trip.get())
    }

    /// How many rows of the jobs held to run now, at most N.
    pub(super) fn rows_now(&self, held: &HeldJobs) -> u32 {
        let waits = held.iter().map(|job| job.waited + job.claimed_at.elapsed());
        let oldest = waits.max().unwrap_or_default();
        self.tuner.lock().take(held.rows(), oldest)
    }

    /// How many of the oldest jobs held can no longer be in time.
    pub(super) fn doomed(&self, held: &HeldJobs) -> usize {
        let now = Instant::now();
        let left = held.iter().map(|job| job.deadline.saturating_duration_since(now));
        self.tuner.lock().doomed(held.rows(), left)
    }

    /// A job with an earlier deadline has no time to wait for another batch of `limit` rows.
    pub(super) fn soon(&self, limit: u32) -> Instant {
        Instant::now() + self.tuner.lock().expected(limit) * 2
    }

    /// Time for the broker to answer a claim, if it has jobs.
    pub(super) fn claim_patience(&self) -> Duration {
        TOP_UP.max(self.round_trip.get() * 2)
    }

    /// How long after the begin of a run of `rows` rows to claim the next batch: so that the jobs are
    /// here when the run ends, but hardly earlier, because another worker may be free before. `None`
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
