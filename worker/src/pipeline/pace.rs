//! Chooses how many rows to claim and run, and when to claim, from the tuner's estimates of batch
//! times and load and from the times of claims.

use std::{iter::once, time::Duration};

use batchfleet_policy::{TransferTime, WaitingRows};
use tokio::time::Instant;

use super::{
    claim::{ClaimAhead, Forming, Waiting},
    held::{HeldJobs, Urgency},
    joins::JoinTimes,
};
use crate::{
    intake::ClaimedJobs,
    job::HeldJob,
    limit::{BatchLimit, whole_units},
    settle::RoundTrip,
    tuner::SharedTuner,
};

/// Minimum time that a batch waits for a claim to fill it up.
pub(super) const TOP_UP: Duration = Duration::from_millis(2);
/// If a run is shorter than this many round trips to the broker, the next batch is claimed
/// immediately. If it is shorter than this many ticks of a timer, the time of a claim cannot be chosen.
const CLAIM_AHEAD_BELOW: u32 = 5;
/// More jobs are claimed for the next batch if the run takes this many claims longer.
const CLAIMS_BELOW: u32 = 3;
/// During a shorter run, the next batch is not formed: after the run it has more jobs, and each run
/// costs less than the smaller batches would.
const SHORT_RUN: Duration = Duration::from_micros(500);
/// Weight of the latest claim in the moving average of bytes per unit.
const SMOOTHING: f64 = 0.2;
/// Resolution of timers.
const TICK: Duration = Duration::from_millis(1);

/// Chooses the sizes and times of claims and batches.
pub(super) struct BatchPace {
    tuner: SharedTuner,
    round_trip: RoundTrip,
    /// The times of claims that found waiting jobs.
    claims: TransferTime,
    /// The times of joins of large inputs.
    joins: JoinTimes,
    /// Bytes of inputs for each unit, on average.
    bytes_per_unit: f64,
}

impl BatchPace {
    /// Bases decisions on `tuner`, on claims and `joins`, and on `round_trip`, which also stands for
    /// claims until they have been timed.
    pub(super) fn new(tuner: SharedTuner, round_trip: RoundTrip, joins: JoinTimes) -> Self {
        Self { tuner, round_trip, claims: TransferTime::default(), joins, bytes_per_unit: 0.0 }
    }

    /// Records a claim, whose jobs cost `units` units.
    pub(super) fn claimed(&mut self, claimed: &ClaimedJobs, units: f64) {
        let ClaimedJobs { deliveries, full, took, fetching, .. } = claimed;
        self.tuner.lock().claimed(deliveries, *full);
        let Some(longest) = deliveries.iter().map(|delivery| delivery.waited).max() else { return };
        let inputs = deliveries.iter().flat_map(|delivery| &delivery.job.inputs);
        let bytes: u64 = inputs.map(|input| input.data.len() as u64).sum();
        self.bytes_per_unit += (float(bytes) / units.max(1.0) - self.bytes_per_unit) * SMOOTHING;
        // A gateway that does not answer says nothing of the next claims.
        if deliveries.iter().any(|delivery| delivery.job.lacks_inputs()) {
            return;
        }
        // Otherwise the claim may have waited for the first job.
        if longest >= took.saturating_sub(*fetching) {
            self.claims.observe(bytes, *took);
        }
    }

    /// The time within which nearly all batches of `units` units can be claimed and joined.
    fn preparation_time(&self, units: f64) -> Duration {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let bytes = (self.bytes_per_unit * units) as u64;
        let claim = self.claims.within(bytes).unwrap_or(self.round_trip.get() * 2);
        claim + self.joins.within(bytes)
    }

    /// Chooses N for the next batch; 1 for a model that does not batch.
    pub(super) fn limit(&self) -> BatchLimit {
        self.tuner.lock().limit(self.round_trip.get())
    }

    /// How much of the held jobs to run now: at most N, or [`most`](Self::most) if a job exceeds N.
    pub(super) fn size_now(&self, held: &HeldJobs) -> BatchLimit {
        let waits = held.iter().map(|job| job.delivery.age());
        let oldest = waits.max().unwrap_or_default();
        let limit = self.n();
        let exceeds = |job: &HeldJob| job.rows_left() > limit.rows_of(job.row_units());
        self.tuner.lock().take(held.units(), oldest, held.iter().any(exceeds))
    }

    /// The maximum size of a batch with a part of a job that exceeds N.
    pub(super) fn most(&self) -> BatchLimit {
        self.tuner.lock().most()
    }

    /// Whether each job runs alone and whole, because rows of a batch influence each other.
    pub(super) fn has_ended_batching(&self) -> bool {
        self.tuner.lock().has_ended_batching()
    }

    /// N as last chosen.
    pub(super) fn n(&self) -> BatchLimit {
        self.tuner.lock().batch_limit()
    }

    /// The indices of the `waiting` requests, of different lengths, that run together with the first
    /// in a batch of at most `limit`.
    pub(super) fn companions(&self, limit: BatchLimit, waiting: &[WaitingRows]) -> Vec<usize> {
        self.tuner.lock().companions(limit, waiting, 0)
    }

    /// What a batch of `limit` usually costs, in units.
    pub(super) fn full(&self, limit: BatchLimit) -> f64 {
        self.tuner.lock().full(limit)
    }

    /// This worker's share of all units that wait or run.
    pub(super) fn share(&self) -> f64 {
        self.tuner.lock().share()
    }

    /// Whether no other worker serves the queue.
    pub(super) fn is_alone(&self) -> bool {
        self.tuner.lock().workers() == 1
    }

    /// N in rows of the usual length, as announced.
    pub(super) fn usual_rows(&self) -> u32 {
        self.tuner.lock().usual_rows()
    }

    /// The indices of the held jobs that can no longer meet their deadlines, in ascending order.
    /// Batches are at most as large as `limit`; the parts of a large job run one after the other.
    pub(super) fn doomed(&self, held: &HeldJobs, limit: BatchLimit) -> Vec<usize> {
        let now = Instant::now();
        let left = |job: &HeldJob| job.delivery.deadline.saturating_duration_since(now);
        let tuner = self.tuner.lock();
        let (large, whole): (Vec<_>, Vec<_>) =
            held.iter().enumerate().partition(|(_, job)| job.is_large(limit));
        let count = tuner.doomed(held.whole_units(limit), whole.iter().map(|(_, job)| left(job)));
        let mut doomed: Vec<usize> = whole[..count].iter().map(|&(index, _)| index).collect();
        for (index, job) in large {
            let part = limit.rows_of(job.row_units());
            let units = |rows: u32| whole_units(f64::from(rows) * job.row_units());
            let parts_before_last = job.rows_left().saturating_sub(1) / part;
            let left = left(job).saturating_sub(tuner.expected(units(part)) * parts_before_last);
            if tuner.doomed(units(job.rows_left().min(part)), once(left)) > 0 {
                doomed.push(index);
            }
        }
        doomed.sort_unstable();
        doomed
    }

    /// Which deadlines are near: the jobs cannot wait for another batch as large as `limit`.
    pub(super) fn urgency(&self, limit: BatchLimit) -> Urgency {
        let takes = self.tuner.lock().expected(whole_units(limit.units));
        let unit = takes.div_f64(limit.units.max(1.0));
        Urgency { soon: Instant::now() + takes * 2, unit }
    }

    /// Until when, and up to how many units, to wait for requests that follow the last answers before the
    /// held jobs run. `None` to run them at once, as if the deadline of one is near.
    pub(super) fn follow_ups(&self, held: &HeldJobs) -> Option<(Instant, f64)> {
        let (until, units) = self.tuner.lock().follow_ups(held.units())?;
        let soon = until + self.tuner.lock().expected(whole_units(units)) * 2;
        held.iter().all(|job| job.delivery.deadline > soon).then_some((until, units))
    }

    /// Whether the engine will wait in this way after a run of `running` units.
    pub(super) fn awaits_follow_ups(&self, running: u32, held: &HeldJobs) -> bool {
        self.tuner.lock().awaits_follow_ups(running, held.units())
    }

    /// How long to wait for the broker to answer a claim if jobs are available.
    pub(super) fn claim_patience(&self) -> Duration {
        TOP_UP.max(self.round_trip.get() * 2)
    }

    /// When to claim the next batch during a run of `units` units that `began`, and how to form it if
    /// it `may_form` meanwhile. The jobs should arrive just before the run ends: earlier, another
    /// worker might be free to run them. `None` to claim after the run.
    ///
    /// If no more jobs seem to wait, a worker that shares the queue claims after the run, unless the
    /// run is too short to tell: the batch then has all jobs that have arrived until the engine is
    /// free. No other worker could run what an only worker claims during a run. So an only worker claims
    /// at once during a short run, which may end before a timer, and the engine has a batch in any case.
    /// It claims the jobs that come later together. If the run is less than half full, few jobs come
    /// during a run, and the next batch is larger if the engine waits for them.
    pub(super) fn claim_ahead(
        &self,
        (units, began): (u32, Instant),
        waiting: Waiting,
        may_form: bool,
    ) -> Option<ClaimAhead> {
        let (ends, next, is_alone) = {
            let tuner = self.tuner.lock();
            (tuner.expected(units), tuner.full(tuner.batch_limit()), tuner.workers() == 1)
        };
        let claims_ahead = waiting != Waiting::Nothing || is_alone;
        let is_quick = ends < self.round_trip.get() * CLAIM_AHEAD_BELOW;
        if is_quick && (!claims_ahead || ends < SHORT_RUN) {
            return Some(ClaimAhead { at: began, forming: None });
        }
        if !claims_ahead {
            return None;
        }
        let lead = self.preparation_time(next) + TICK;
        let is_short = ends < TICK * CLAIM_AHEAD_BELOW;
        let late = began + ends.saturating_sub(lead);
        // Where jobs wait in the queue, the claim finds enough of them at any time.
        let is_in_queue = waiting == Waiting::InQueue;
        let is_half_full = f64::from(units) * 2.0 >= next;
        let can_begin = is_alone && is_half_full && may_form && waiting != Waiting::Mixed;
        let is_early = is_short && (is_in_queue || can_begin);
        let at = if is_early { began } else { late };
        let tops_up_at = if is_in_queue { at } else { late };
        let forming = may_form.then(|| Forming { tops_up_at, until: began + ends });
        Some(ClaimAhead { at, forming })
    }

    /// Whether another claim can return before a run ends that is expected to take `left` longer. A
    /// claim may reach into the next run if no other worker could run its jobs.
    pub(super) fn can_claim_within(&self, left: Duration) -> bool {
        let claims = if self.is_alone() { 1 } else { CLAIMS_BELOW };
        left > self.preparation_time(1.0) * claims
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes far below 2^52")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::Delivery;
    use batchfleet_policy::{BatchMode, BatchPolicy, CostModel};

    use super::*;
    use crate::{batch::examples::delivery, lengths::RowLengths};

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_claim_of_large_rows_leaves_time_to_join_them() {
        let cost = CostModel::from_profile(&[(1, MS * 10), (8, MS * 10)]).unwrap();
        let policy = BatchPolicy::new(BatchMode::Fixed(8), 8, MS * 100);
        let tuner = SharedTuner::new(policy, cost, RowLengths::default());
        tuner.lock().limit(Duration::ZERO);
        let joins = JoinTimes::default();
        let mut pace = BatchPace::new(tuner, RoundTrip::default(), joins.clone());
        for _ in 0..100 {
            let deliveries = vec![Delivery { waited: MS * 9, ..delivery(0, 1, 100_000) }];
            pace.claimed(
                &ClaimedJobs {
                    deliveries,
                    full: true,
                    idle: false,
                    took: MS / 4,
                    fetching: Duration::ZERO,
                },
                1.0,
            );
        }
        let began = Instant::now();
        let claims_at = |pace: &BatchPace| {
            pace.claim_ahead((8, began), Waiting::InQueue, true).unwrap().at.duration_since(began)
        };
        let without = claims_at(&pace);
        for _ in 0..100 {
            joins.observe(100_000, MS / 4);
            joins.observe(800_000, MS * 2);
        }
        let joined = without.saturating_sub(claims_at(&pace));
        assert!(joined.abs_diff(MS * 2) < MS / 10, "{joined:?}");
        assert!(pace.can_claim_within(MS) && !pace.can_claim_within(MS / 4));
    }
}
