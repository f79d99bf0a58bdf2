//! Chooses N, the maximum number of rows per batch, before each claim: the policy decides from
//! batch times, load, memory and the published target.
//!
//! Where rows differ in length, the policy counts [units](batchfleet_policy::LengthCost) instead of
//! rows. Announcements speak of rows of the usual length.

mod announced;
mod load;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use batchfleet_broker::{BatchBound, BatchWish, Batching, Delivery, Guidance, RecentBatch};
use batchfleet_policy::{
    BatchChoice, BatchMode, BatchPolicy, Bound, ComposedBatch, CorrectedCosts, CostModel,
    FollowUps, LargestBatch, LengthSample, LengthTimes, QueueLoad, SizeChange, UsualRow,
    WaitingRows, companions, doomed,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tracing::info;

use self::load::LoadEstimate;
use crate::{
    batch::Batch,
    ceiling::Ceiling,
    lengths::RowLengths,
    limit::{BatchLimit, whole_units},
};

/// After this long without a batch, the measured batch times may be out of date.
const BLIND: Duration = Duration::from_secs(1);
/// Number of recent batches in the announcement.
const RECENT: usize = 8;
/// The rows that batches lose to shapes are an average over about as many batches.
const LOST_OVER: f64 = 50.0;
/// A batch of a part of a large request may take this long, whatever N is.
const SHORT: Duration = Duration::from_millis(5);

/// One model's tuner, shared by the pipeline, which needs N, and by the tasks that update the tuner
/// or announce its choices.
#[derive(Clone, Debug)]
pub(crate) struct SharedTuner(Arc<Mutex<Tuner>>);

impl SharedTuner {
    /// Starts with the measured batch times and an unknown load.
    pub(crate) fn new(policy: BatchPolicy, cost: CostModel, lengths: RowLengths) -> Self {
        Self(Arc::new(Mutex::new(Tuner::new(policy, cost, lengths))))
    }

    /// Locks the tuner. The guard must not be held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Tuner> {
        self.0.lock()
    }
}

/// Chooses N.
#[derive(Debug)]
pub(crate) struct Tuner {
    /// The policy from the settings.
    own: BatchPolicy,
    /// The policy from the settings, with the published target applied.
    policy: BatchPolicy,
    /// The epoch of the published target in effect; 0 for none.
    epoch: u64,
    /// L of units.
    cost: CostModel,
    lengths: RowLengths,
    /// Times of recent batches, by which the cost of rows is corrected.
    times: LengthTimes,
    size_change: SizeChange,
    /// The row of the usual length.
    usual: UsualRow,
    /// Rows of other shapes that batches had room for, on average.
    lost_to_shapes: f64,
    /// The most units that fit into memory.
    ceiling: Ceiling,
    /// Whether rows of a batch were found to influence each other, so that N is 1.
    mixes_rows: bool,
    load: LoadEstimate,
    follow_ups: FollowUps,
    /// The start of the time of `follow_ups`.
    started: Instant,
    choice: BatchChoice,
    last_ran: Option<Instant>,
    /// Latest first.
    recent: VecDeque<RecentBatch>,
}

impl Tuner {
    fn new(policy: BatchPolicy, cost: CostModel, lengths: RowLengths) -> Self {
        let usual = UsualRow::new(lengths.expected_units());
        let choice = policy.in_units(usual.units()).choose(&cost, &QueueLoad::unknown(1));
        Self {
            own: policy,
            policy,
            epoch: 0,
            cost,
            times: LengthTimes::new(lengths.measured()),
            lengths,
            size_change: SizeChange::default(),
            usual,
            lost_to_shapes: 0.0,
            ceiling: Ceiling::default(),
            mixes_rows: false,
            load: LoadEstimate::new(),
            follow_ups: FollowUps::default(),
            started: Instant::now(),
            choice,
            last_ran: None,
            recent: VecDeque::with_capacity(RECENT),
        }
    }

    /// Sets what a change of the size of batches costs.
    pub(crate) fn set_size_change(&mut self, size_change: SizeChange) {
        self.size_change = size_change;
    }

    /// Adopts the number of workers and the published target. Targets that are not newer than the
    /// current target are ignored.
    pub(crate) fn adopt(&mut self, guidance: Guidance) {
        if let Some(workers) = guidance.workers {
            self.load.set_workers(workers);
        }
        let Some(target) = guidance.target.filter(|target| target.epoch > self.epoch) else {
            return;
        };
        self.epoch = target.epoch;
        let (mode, published) = match target.wish.batch {
            BatchWish::Own => (self.own.mode, None),
            BatchWish::Auto => (BatchMode::Auto, None),
            BatchWish::Rows(rows) => (self.own.mode, Some(rows)),
        };
        let slo = target.wish.slo().unwrap_or(self.own.slo);
        self.policy = BatchPolicy { mode, published, slo, ..self.own };
        let (batch, slo_ms) = (target.wish.batch, target.wish.slo_ms);
        self.limit(self.policy.overhead);
        info!(epoch = self.epoch, ?batch, slo_ms, "adopted batch target");
    }

    /// Records the jobs of a claim; `full` if the claim returned as many jobs as requested.
    pub(crate) fn claimed(&mut self, deliveries: &[Delivery], full: bool) {
        let units: Vec<f64> =
            deliveries.iter().map(|delivery| self.lengths.units(&delivery.job)).collect();
        for (delivery, &units) in deliveries.iter().zip(&units) {
            self.usual.arrived(delivery.job.rows, units);
            let since = delivery.claimed_at.saturating_duration_since(self.started);
            self.follow_ups.arrived(since.saturating_sub(delivery.waited), units);
        }
        let takes = self.cost.latency(whole_units(units.iter().sum()).min(self.n()).max(1));
        self.load.claimed(deliveries, &units, full, takes);
    }

    /// Chooses N for the next batch. `overhead` is the broker's part of the latency target.
    pub(crate) fn limit(&mut self, overhead: Duration) -> BatchLimit {
        self.policy.overhead = overhead;
        let load = self.load.demand(self.choice.bound == Bound::Backlog);
        self.choice = self.unit_policy().choose(&self.cost, &load);
        self.batch_limit()
    }

    /// N as last chosen.
    pub(crate) fn batch_limit(&self) -> BatchLimit {
        self.limit_of(self.n())
    }

    /// What a batch of `limit` costs in units, if its rows have the usual length.
    pub(crate) fn full(&self, limit: BatchLimit) -> f64 {
        limit.units.min(f64::from(limit.rows) * self.usual.units())
    }

    /// This worker's share of all units that wait or run.
    pub(crate) fn share(&self) -> f64 {
        self.load.share()
    }

    /// N as last chosen, in rows of the usual length.
    pub(crate) fn usual_rows(&self) -> u32 {
        self.in_rows(self.n())
    }

    /// N as last chosen, in units.
    fn n(&self) -> u32 {
        self.bounded(self.choice.n)
    }

    /// The limit of a batch of `units`. A number of rows that was set by hand holds whatever the
    /// rows cost, unless the batch might count as hung.
    fn limit_of(&self, units: u32) -> BatchLimit {
        let by_hand = match self.choice.bound {
            Bound::Fixed | Bound::Published if !self.lengths.are_free() => {
                Some(self.in_rows(self.choice.n))
            }
            _ => None,
        };
        let (rows, units) = match by_hand {
            _ if self.mixes_rows => (1, 1.0),
            Some(rows) => (rows, f64::from(self.policy.safe(&self.cost).min(self.ceiling.rows()))),
            None => (self.policy.max_batch.max(1), f64::from(units)),
        };
        BatchLimit { rows, units }
    }

    /// The maximum rows of a batch with a part of a request that has more rows than N.
    ///
    /// N may be smaller, so that waiting requests are left to other workers, or because batches gain
    /// nothing. The rows of one request stay with this worker, and a short batch delays nothing.
    pub(crate) fn most(&self) -> BatchLimit {
        let upper = match self.choice.bound {
            Bound::Fixed | Bound::Published => return self.batch_limit(),
            Bound::RateMatched => self.choice.interval.1,
            _ => self.choice.n,
        };
        let is_short =
            |&(rows, took): &(u32, Duration)| took <= SHORT && rows <= self.unit_policy().max_batch;
        let short = self.cost.sizes().filter(is_short).map(|(rows, _)| rows).max();
        self.limit_of(self.bounded(upper.max(short.unwrap_or(1))))
    }

    /// How much of the `held` units to run now: at most N, or fewer rows if these exactly fill a
    /// size that the engine runs and more rows would need padding. `oldest` is the longest wait of a
    /// held job, and `is_large` tells that a job exceeds N.
    pub(crate) fn take(&self, held: u32, oldest: Duration, is_large: bool) -> BatchLimit {
        let limit = if is_large { self.most() } else { self.batch_limit() };
        if !self.cost.has_fixed_sizes() {
            return limit;
        }
        // An engine with fixed sizes counts rows.
        let n = whole_units(limit.units);
        let rows = self.policy.take(&self.cost, n, held, oldest);
        if rows < held.min(n) { self.limit_of(rows) } else { limit }
    }

    /// How many of the held jobs, with `units` units in total, can no longer meet their deadlines.
    /// `left` is the time until each job's deadline, oldest job first.
    ///
    /// If no batch has run recently, at least one job is spared, because only a run corrects L(b).
    pub(crate) fn doomed(
        &self,
        units: u32,
        left: impl ExactSizeIterator<Item = Duration>,
    ) -> usize {
        let jobs = left.len();
        let doomed = usize::try_from(doomed(&self.cost, self.n(), units, left)).unwrap_or(jobs);
        let is_blind = self.last_ran.is_none_or(|at| at.elapsed() >= BLIND);
        if is_blind { doomed.min(jobs.saturating_sub(1)) } else { doomed }
    }

    /// The indices of the `waiting` requests, of different lengths, that run together with the one at
    /// `lead` in a batch of at most `limit`.
    pub(crate) fn companions(
        &self,
        limit: BatchLimit,
        waiting: &[WaitingRows],
        lead: usize,
    ) -> Vec<usize> {
        let largest = LargestBatch { rows: limit.rows, units: limit.units };
        companions(&self.cost, &self.lengths.cost(), largest, waiting, lead)
    }

    /// The rows that the engine should run for a batch of `rows`.
    pub(crate) fn padded(&mut self, rows: u32) -> u32 {
        // L is of units; rows of one length cost one each.
        if !self.lengths.are_free() {
            return self.cost.padded(rows);
        }
        let most = self.n();
        self.size_change.size(&self.cost, rows, most)
    }

    /// Number of workers of the queue, this worker included.
    pub(crate) fn workers(&self) -> u32 {
        self.load.workers()
    }

    /// L of `units`, the expected time of a batch.
    pub(crate) fn expected(&self, units: u32) -> Duration {
        self.cost.latency(units)
    }

    /// Records a batch that succeeded with `padding` rows added.
    pub(crate) fn ran(&mut self, batch: &Batch, padding: u32, took: Duration) {
        let length = batch.length();
        let took = self.size_change.without(batch.rows + padding, length, took);
        self.correct_lengths(LengthSample { rows: batch.rows + padding, length, took });
        if self.lengths.cost().is_new(length) {
            // The time of rows longer than all before tells what they cost.
            let units = f64::from(self.cost.rows_in(took)) / f64::from(batch.rows.max(1));
            self.lengths.learn(length, units);
        } else {
            self.cost.observe(batch.units + padding, took);
        }
        let composed = ComposedBatch {
            units: batch.units + padding,
            own_units: batch.own_units(),
            chosen_from: batch.chosen_from,
        };
        self.usual.ran(&self.cost, self.n(), &composed);
        self.lost_to_shapes += (f64::from(batch.lost_to_shapes) - self.lost_to_shapes) / LOST_OVER;
        self.ceiling.ran(batch.units + padding);
        self.last_ran = Some(Instant::now());
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(RecentBatch {
            rows: batch.rows,
            padding,
            limit: self.usual_rows(),
            ms: took.as_secs_f64() * 1e3,
            release: batch.release.name().to_owned(),
        });
    }

    /// Records that requests of this many units are answered.
    pub(crate) fn answered(&mut self, units: f64) {
        self.follow_ups.answered(self.started.elapsed(), units);
    }

    /// Until when, and up to how many units, the engine waits for requests that follow the last answers
    /// before it begins with the `held` units. `None` if it begins at once, and if other workers could
    /// run those requests.
    pub(crate) fn follow_ups(&self, held: u32) -> Option<(Instant, f64)> {
        let held = self.alone_below_n(held)?;
        let wait = self.follow_ups.wait(self.started.elapsed(), held, &self.cost)?;
        Some((self.started + wait.until, wait.rows))
    }

    /// Whether the engine will wait in this way after a run of `running` units, with the `held` ones.
    pub(crate) fn awaits_follow_ups(&self, running: u32, held: u32) -> bool {
        let held = self.alone_below_n(held);
        held.is_some_and(|held| self.follow_ups.waits_after(running.into(), held, &self.cost))
    }

    /// The `held` units and N, for an only worker of a model that batches.
    fn alone_below_n(&self, held: u32) -> Option<(f64, f64)> {
        let may_wait = self.load.workers() == 1 && !self.mixes_rows;
        may_wait.then(|| (held.into(), self.batch_limit().units))
    }

    /// Records that the engine waited although rows waited, from the end of a batch to the start of the
    /// next.
    pub(crate) fn waited(&mut self, outside: Duration) {
        self.load.waited(outside);
    }

    /// Corrects what rows cost by their length, if recent batches contradict it.
    fn correct_lengths(&mut self, batch: LengthSample) {
        if !self.lengths.vary() || self.cost.has_fixed_sizes() {
            return;
        }
        let costs = self.lengths.cost();
        let Some(corrected) = self.times.add(batch, &self.cost, &costs) else { return };
        let CorrectedCosts { lengths, cost, per_unit } = corrected;
        let workers = self.load.workers();
        self.lengths.correct(lengths);
        self.cost = cost;
        self.usual.rescale(per_unit);
        self.ceiling = self.ceiling.scaled(per_unit);
        // The load was counted in the units before.
        (self.load, self.follow_ups) = (LoadEstimate::new(), FollowUps::default());
        self.load.set_workers(workers as usize);
        self.limit(self.policy.overhead);
        info!(per_unit, n = self.usual_rows(), "corrected the cost of rows by their length");
    }

    /// Records a batch of `units` that ran out of memory; returns the new maximum of units per batch.
    pub(crate) fn out_of_memory(&mut self, units: u32) -> u32 {
        self.ceiling.out_of_memory(units);
        self.ceiling.rows()
    }

    /// Makes N 1 from now on, because rows of a batch were found to influence each other.
    pub(crate) fn end_batching(&mut self) {
        self.mixes_rows = true;
    }

    /// Whether each request runs alone and whole from now on.
    pub(crate) fn has_ended_batching(&self) -> bool {
        self.mixes_rows
    }

    /// Rows of the usual length per second under full load.
    pub(crate) fn capacity(&self) -> f64 {
        self.cost.rate(self.full_load_n()) / self.usual.units_at_full_load()
    }

    /// N and the values it was chosen from, for the announcement, in rows of the usual length.
    pub(crate) fn report(&self) -> Batching {
        let BatchChoice { n_star, b_eq, overloaded, interval, bound, .. } = self.choice;
        let bound = match bound {
            _ if self.mixes_rows => BatchBound::Mismatch,
            _ if self.ceiling.rows() < self.choice.n => BatchBound::Memory,
            bound => announced::bound(bound),
        };
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let curve = if self.lengths.are_free() {
            self.cost.sizes().collect()
        } else {
            announced::curve_of_lengths(&self.cost, &self.usual, self.policy.max_batch)
        };
        Batching {
            n: self.usual_rows(),
            bound,
            interval: (self.in_rows(interval.0), self.in_rows(interval.1)),
            full_load_n: self.in_rows(self.full_load_n()),
            slo_n: n_star.map(|n_star| self.in_rows(n_star)),
            keep_up_rows: b_eq.map(|units| units / self.usual.units()),
            overloaded,
            slo_ms: ms(self.policy.slo),
            overhead_ms: ms(self.policy.overhead),
            workers: self.load.workers(),
            rows_per_second: self.load.units_per_second().map(|units| units / self.usual.units()),
            epoch: self.epoch,
            curve: curve.into_iter().map(|(rows, took)| (rows, ms(took))).collect(),
            fixed_sizes: self.cost.has_fixed_sizes(),
            gain: self.cost.gain(),
            size_change_ms: ms(self.size_change.takes()),
            padding_share: self.usual.padding(),
            rows_lost_to_shapes: self.lost_to_shapes,
            row_units: self.usual.units(),
            units_by_length: announced::units_by_length(&self.lengths.cost()),
            recent: self.recent.iter().cloned().collect(),
        }
    }

    /// The rows of the usual length that cost `units`; at least 1.
    fn in_rows(&self, units: u32) -> u32 {
        announced::in_rows(units, &self.usual)
    }

    fn full_load_n(&self) -> u32 {
        let full_load =
            self.unit_policy().choose(&self.cost, &QueueLoad::unknown(self.load.workers()));
        self.bounded(full_load.n)
    }

    /// The policy in units instead of rows.
    fn unit_policy(&self) -> BatchPolicy {
        self.policy.in_units(self.usual.units())
    }

    /// N within the bounds that the policy does not know.
    fn bounded(&self, n: u32) -> u32 {
        if self.mixes_rows { 1 } else { n.min(self.ceiling.rows()) }
    }
}

#[cfg(test)]
mod tests;
