//! Chooses N, the maximum number of rows per batch, before each claim: the policy decides from
//! batch times, load, memory and the published target.

mod load;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use batchfleet_broker::{
    BatchBound, BatchWish, Batching, Delivery, Guidance, RecentBatch, Release,
};
use batchfleet_policy::{BatchChoice, BatchMode, BatchPolicy, Bound, CostModel, QueueLoad, doomed};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tracing::info;

use self::load::LoadEstimate;
use crate::ceiling::Ceiling;

/// After this long without a batch, the measured batch times may be out of date.
const BLIND: Duration = Duration::from_secs(1);
/// Number of recent batches in the announcement.
const RECENT: usize = 8;
/// A batch of a part of a large request may take this long, whatever N is.
const SHORT: Duration = Duration::from_millis(5);

/// One model's tuner, shared by the pipeline, which needs N, and by the tasks that update the tuner
/// or announce its choices.
#[derive(Clone, Debug)]
pub(crate) struct SharedTuner(Arc<Mutex<Tuner>>);

impl SharedTuner {
    /// Starts with the measured batch times and an unknown load.
    pub(crate) fn new(policy: BatchPolicy, cost: CostModel) -> Self {
        Self(Arc::new(Mutex::new(Tuner::new(policy, cost))))
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
    cost: CostModel,
    ceiling: Ceiling,
    /// Whether rows of a batch were found to influence each other, so that N is 1.
    mixes_rows: bool,
    load: LoadEstimate,
    choice: BatchChoice,
    last_ran: Option<Instant>,
    /// Latest first.
    recent: VecDeque<RecentBatch>,
}

impl Tuner {
    fn new(policy: BatchPolicy, cost: CostModel) -> Self {
        let choice = policy.choose(&cost, &QueueLoad::unknown(1));
        Self {
            own: policy,
            policy,
            epoch: 0,
            cost,
            ceiling: Ceiling::default(),
            mixes_rows: false,
            load: LoadEstimate::new(),
            choice,
            last_ran: None,
            recent: VecDeque::with_capacity(RECENT),
        }
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
        let rows = deliveries.iter().map(|job| job.job.rows).sum::<u32>();
        let takes = self.cost.latency(rows.min(self.n()).max(1));
        self.load.claimed(deliveries, full, takes);
    }

    /// Chooses N for the next batch. `overhead` is the broker's part of the latency target.
    pub(crate) fn limit(&mut self, overhead: Duration) -> u32 {
        self.policy.overhead = overhead;
        let load = self.load.demand(self.choice.bound == Bound::Backlog);
        self.choice = self.policy.choose(&self.cost, &load);
        self.n()
    }

    /// N as last chosen.
    pub(crate) fn n(&self) -> u32 {
        self.bounded(self.choice.n)
    }

    /// The maximum rows of a batch with a part of a request that has more rows than N.
    ///
    /// N may be smaller, so that waiting requests are left to other workers, or because batches gain
    /// nothing. The rows of one request stay with this worker, and a short batch delays nothing.
    pub(crate) fn most(&self) -> u32 {
        let upper = match self.choice.bound {
            Bound::Fixed | Bound::Published => return self.n(),
            Bound::RateMatched => self.choice.interval.1,
            _ => self.choice.n,
        };
        let is_short =
            |&(rows, took): &(u32, Duration)| took <= SHORT && rows <= self.policy.max_batch;
        let short = self.cost.sizes().filter(is_short).map(|(rows, _)| rows).max();
        self.bounded(upper.max(short.unwrap_or(1)))
    }

    /// How many of the `held` rows to run now: at most N, or fewer if they exactly fill a size that
    /// the engine runs and more rows would need padding. `oldest` is the longest wait of a held
    /// job, and `largest` the most rows of one job, which may exceed N.
    pub(crate) fn take(&self, held: u32, oldest: Duration, largest: u32) -> u32 {
        let n = if largest > self.n() { self.most() } else { self.n() };
        let rows = self.policy.take(&self.cost, n, held, oldest);
        if rows < held.min(n) { rows } else { n }
    }

    /// How many of the held jobs, with `rows` rows in total, can no longer meet their deadlines.
    /// `left` is the time until each job's deadline, oldest job first.
    ///
    /// If no batch has run recently, at least one job is spared, because only a run corrects L(b).
    pub(crate) fn doomed(&self, rows: u32, left: impl ExactSizeIterator<Item = Duration>) -> usize {
        let jobs = left.len();
        let doomed = usize::try_from(doomed(&self.cost, self.n(), rows, left)).unwrap_or(jobs);
        let is_blind = self.last_ran.is_none_or(|at| at.elapsed() >= BLIND);
        if is_blind { doomed.min(jobs.saturating_sub(1)) } else { doomed }
    }

    /// The rows that the engine runs for a batch of `rows`.
    pub(crate) fn padded(&self, rows: u32) -> u32 {
        self.cost.padded(rows)
    }

    /// L(b), the expected time of a batch of `rows` rows.
    pub(crate) fn expected(&self, rows: u32) -> Duration {
        self.cost.latency(rows)
    }

    /// Records a successful batch.
    pub(crate) fn ran(&mut self, rows: u32, padding: u32, took: Duration, release: Release) {
        self.cost.observe(rows + padding, took);
        self.ceiling.ran(rows + padding);
        self.last_ran = Some(Instant::now());
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(RecentBatch {
            rows,
            padding,
            limit: self.n(),
            ms: took.as_secs_f64() * 1e3,
            release: release.name().to_owned(),
        });
    }

    /// Records a batch that ran out of memory; returns the new maximum of rows per batch.
    pub(crate) fn out_of_memory(&mut self, rows: u32) -> u32 {
        self.ceiling.out_of_memory(rows);
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

    /// Rows per second under full load.
    pub(crate) fn capacity(&self) -> f64 {
        self.cost.rate(self.full_load_n())
    }

    /// N and the values it was chosen from, for the announcement.
    pub(crate) fn report(&self) -> Batching {
        let BatchChoice { n_star, b_eq, overloaded, interval, bound, .. } = self.choice;
        let bound = match bound {
            _ if self.mixes_rows => BatchBound::Mismatch,
            _ if self.ceiling.rows() < self.choice.n => BatchBound::Memory,
            bound => announced(bound),
        };
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        Batching {
            n: self.n(),
            bound,
            interval,
            full_load_n: self.full_load_n(),
            slo_n: n_star,
            keep_up_rows: b_eq,
            overloaded,
            slo_ms: ms(self.policy.slo),
            overhead_ms: ms(self.policy.overhead),
            workers: self.load.workers(),
            rows_per_second: self.load.rows_per_second(),
            epoch: self.epoch,
            curve: self.cost.sizes().map(|(rows, took)| (rows, ms(took))).collect(),
            fixed_sizes: self.cost.has_fixed_sizes(),
            gain: self.cost.gain(),
            recent: self.recent.iter().cloned().collect(),
        }
    }

    fn full_load_n(&self) -> u32 {
        let full_load = self.policy.choose(&self.cost, &QueueLoad::unknown(self.load.workers()));
        self.bounded(full_load.n)
    }

    /// N within the bounds that the policy does not know.
    fn bounded(&self, n: u32) -> u32 {
        if self.mixes_rows { 1 } else { n.min(self.ceiling.rows()) }
    }
}

/// Converts the bound for the announcement.
const fn announced(bound: Bound) -> BatchBound {
    match bound {
        Bound::Slo => BatchBound::Slo,
        Bound::MaxBatch => BatchBound::MaxBatch,
        Bound::MaxBatchTime => BatchBound::MaxBatchTime,
        Bound::Untried => BatchBound::Untried,
        Bound::NoGain => BatchBound::NoGain,
        Bound::RateMatched => BatchBound::RateMatched,
        Bound::Backlog => BatchBound::Backlog,
        Bound::SloInfeasible => BatchBound::SloInfeasible,
        Bound::Fixed => BatchBound::Fixed,
        Bound::Published => BatchBound::Published,
    }
}

#[cfg(test)]
mod tests;
