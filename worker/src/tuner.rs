//! N: what this worker knows (batch times, load, memory, what is published), put before the policy
//! whenever it is about to claim.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use batchfleet_broker::{
    BatchBound, BatchWish, Batching, Delivery, Guidance, RecentBatch, Release,
};
use batchfleet_policy::{
    ArrivalRate, BatchMode, BatchPolicy, Bound, Choice, CostModel, Demand, doomed,
};
use tokio::time::Instant;

use crate::ceiling::Ceiling;

/// After so long without a batch, what is believed of their time is in doubt.
const BLIND: Duration = Duration::from_secs(1);
/// How many batches are remembered for whoever asks.
const RECENT: usize = 8;

/// One model's tuner: its pipeline asks it for N, others tell it what they know, or ask what it
/// knows.
#[derive(Clone, Debug)]
pub(crate) struct SharedTuner(Arc<Mutex<Tuner>>);

impl SharedTuner {
    /// Knows the measured costs, and nothing of the load.
    pub(crate) fn new(policy: BatchPolicy, cost: CostModel) -> Self {
        Self(Arc::new(Mutex::new(Tuner::new(policy, cost))))
    }

    /// Never held across anything that waits.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Tuner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chooses N.
#[derive(Debug)]
pub(crate) struct Tuner {
    /// As it was started.
    own: BatchPolicy,
    /// The same, with what was published since.
    policy: BatchPolicy,
    epoch: u64,
    cost: CostModel,
    ceiling: Ceiling,
    /// That share the queue, this one included.
    workers: u32,
    started: Instant,
    /// Of the rows that came here; the other workers get as many.
    arrivals: ArrivalRate,
    arrived: u64,
    queue: QueueSeen,
    choice: Choice,
    last_ran: Option<Instant>,
    /// Latest first.
    recent: VecDeque<RecentBatch>,
}

/// What the last claim told about the queue it left behind.
#[derive(Clone, Copy, Debug)]
struct QueueSeen {
    at: Instant,
    /// How long its head had waited then; `None` if nothing was left.
    head: Option<Duration>,
}

impl QueueSeen {
    /// How long the head has waited by now.
    fn oldest(&self, now: Instant) -> Duration {
        self.head.map_or(Duration::ZERO, |waited| waited + (now - self.at))
    }
}

impl Tuner {
    fn new(policy: BatchPolicy, cost: CostModel) -> Self {
        let now = Instant::now();
        let choice = policy.choose(&cost, &Demand::unknown(1));
        Self {
            own: policy,
            policy,
            epoch: 0,
            cost,
            ceiling: Ceiling::default(),
            workers: 1,
            started: now,
            arrivals: ArrivalRate::default(),
            arrived: 0,
            queue: QueueSeen { at: now, head: None },
            choice,
            last_ran: None,
            recent: VecDeque::with_capacity(RECENT),
        }
    }

    /// Takes in what others tell. An older word than the last one says nothing.
    pub(crate) fn hear(&mut self, guidance: Guidance) {
        if let Some(workers) = guidance.workers {
            self.workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
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
        tracing::info!(epoch = self.epoch, ?batch, slo_ms, "goes by a new target");
    }

    /// Takes in a claim of at most as many jobs as were asked for; `full` if it got that many.
    pub(crate) fn claimed(&mut self, deliveries: &[Delivery], full: bool) {
        self.arrived += deliveries.iter().map(|job| u64::from(job.job.rows)).sum::<u64>();
        // Within a class the youngest of the claimed is about as old as who comes next.
        let head = deliveries.iter().map(|job| job.waited).min().filter(|_| full);
        self.queue = QueueSeen { at: Instant::now(), head };
    }

    /// N for the next batch. `overhead` is what of the latency target goes to the broker.
    pub(crate) fn limit(&mut self, overhead: Duration) -> u32 {
        let now = Instant::now();
        self.arrivals.observe(now - self.started, self.arrived);
        self.policy.overhead = overhead;
        let oldest = self.queue.oldest(now);
        let rate = self.rows_per_second();
        // Little's law: whoever waits has arrived since the oldest did.
        let waiting = rate.unwrap_or(0.0) * oldest.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let waiting = waiting as u32;
        let demand = Demand { workers: self.workers, rate, waiting, oldest };
        self.choice = self.policy.choose(&self.cost, &demand);
        self.n()
    }

    /// N, as it was last chosen.
    pub(crate) fn n(&self) -> u32 {
        self.choice.n.min(self.ceiling.rows())
    }

    /// How many of `held` rows to run now; all up to N, unless fewer fill a size the engine runs
    /// and more would be padded. `oldest` is the longest wait among them.
    pub(crate) fn take(&self, held: u32, oldest: Duration) -> u32 {
        let n = self.n();
        let rows = self.policy.take(&self.cost, n, held, oldest);
        if rows < held.min(n) { rows } else { n }
    }

    /// How many of the jobs held, so many rows, cannot be in time any more, oldest first; `left` is
    /// the time that each has until its deadline.
    ///
    /// Not all of them where no batch has run for a while: only batches that run correct what is
    /// believed of L(b).
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

    /// L(b).
    pub(crate) fn expected(&self, rows: u32) -> Duration {
        self.cost.latency(rows)
    }

    /// A batch ran well.
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

    /// A batch found no memory; the most rows that are tried now.
    pub(crate) fn out_of_memory(&mut self, rows: u32) -> u32 {
        self.ceiling.out_of_memory(rows);
        self.ceiling.rows()
    }

    /// Rows per second in batches as large as they would be with all the load there can be.
    pub(crate) fn capacity(&self) -> f64 {
        self.cost.rate(self.full_load_n())
    }

    /// Everything, for whoever wants to understand it.
    pub(crate) fn report(&self) -> Batching {
        let Choice { n_star, b_eq, overloaded, interval, bound, .. } = self.choice;
        let is_memory = self.ceiling.rows() < self.choice.n;
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        Batching {
            n: self.n(),
            bound: if is_memory { BatchBound::Memory } else { announced(bound) },
            interval,
            full_load_n: self.full_load_n(),
            slo_n: n_star,
            keep_up_rows: b_eq,
            overloaded,
            slo_ms: ms(self.policy.slo),
            overhead_ms: ms(self.policy.overhead),
            workers: self.workers,
            rows_per_second: self.rows_per_second(),
            epoch: self.epoch,
            curve: self.cost.sizes().map(|(rows, took)| (rows, ms(took))).collect(),
            fixed_sizes: self.cost.has_fixed_sizes(),
            gain: self.cost.gain(),
            recent: self.recent.iter().cloned().collect(),
        }
    }

    fn full_load_n(&self) -> u32 {
        let full_load = self.policy.choose(&self.cost, &Demand::unknown(self.workers));
        full_load.n.min(self.ceiling.rows())
    }

    /// Rows that arrive for all workers: the broker gives each about as many.
    fn rows_per_second(&self) -> Option<f64> {
        Some(self.arrivals.per_second()? * f64::from(self.workers))
    }
}

/// The bound as announcements name it.
const fn announced(bound: Bound) -> BatchBound {
    match bound {
        Bound::Slo => BatchBound::Slo,
        Bound::MaxBatch => BatchBound::MaxBatch,
        Bound::NoGain => BatchBound::NoGain,
        Bound::RateMatched => BatchBound::RateMatched,
        Bound::Backlog => BatchBound::Backlog,
        Bound::SloInfeasible => BatchBound::SloInfeasible,
        Bound::Fixed => BatchBound::Fixed,
        Bound::Published => BatchBound::Published,
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{Target, Wish};

    use super::*;

    const SLO: Duration = Duration::from_millis(100);

    /// L(b) = 8 + 2 b milliseconds; alone, 19 rows fit into 100 ms.
    fn tuner(mode: BatchMode) -> Tuner {
        let profile: Vec<_> = (0..8)
            .map(|power| 1_u32 << power)
            .map(|rows| (rows, Duration::from_millis(8 + 2 * u64::from(rows))))
            .collect();
        let cost = CostModel::from_profile(&profile).unwrap();
        Tuner::new(BatchPolicy::new(mode, 128, SLO), cost)
    }

    fn target(epoch: u64, batch: BatchWish, slo_ms: Option<f64>) -> Guidance {
        let target = Some(Target { epoch, wish: Wish { batch, slo_ms } });
        Guidance { workers: None, target }
    }

    #[tokio::test(start_paused = true)]
    async fn goes_by_the_latest_word_and_back_to_its_own_setting() {
        let mut tuner = tuner(BatchMode::Fixed(32));
        assert_eq!(tuner.limit(Duration::ZERO), 32);
        let mut told = |epoch, batch, slo_ms| {
            tuner.hear(target(epoch, batch, slo_ms));
            (tuner.limit(Duration::ZERO), tuner.report().bound)
        };
        let alone = told(5, BatchWish::Auto, None);
        assert!((17..=19).contains(&alone.0) && alone.1 == BatchBound::Slo, "{alone:?}");
        assert_eq!(told(6, BatchWish::Rows(7), None), (7, BatchBound::Published));
        assert_eq!(told(6, BatchWish::Rows(9), None), (7, BatchBound::Published), "an old word");
        assert_eq!(told(7, BatchWish::Rows(9999), None), (128, BatchBound::Published));
        let hurried = told(8, BatchWish::Auto, Some(50.0));
        assert!(hurried.0 < alone.0 / 2, "{hurried:?}");
        assert_eq!(told(9, BatchWish::Own, None), (32, BatchBound::Fixed));
    }

    #[tokio::test(start_paused = true)]
    async fn shares_a_light_load_with_other_workers() {
        let mut tuner = tuner(BatchMode::Auto);
        tuner.hear(Guidance { workers: Some(4), target: None });
        let full_load = tuner.limit(Duration::ZERO);
        assert!((23..=28).contains(&full_load), "{full_load}");
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(10)).await;
            tuner.arrived += 1;
            tuner.limit(Duration::ZERO);
        }
        // 400 rows a second for four workers: each has one every 10 ms, and takes 10 ms for it.
        let report = tuner.report();
        assert!(report.n < full_load / 2 && report.bound == BatchBound::RateMatched, "{report:?}");
        assert!((390.0..410.0).contains(&report.rows_per_second.unwrap()), "{report:?}");
        assert!((1..=2).contains(&report.interval.0), "{report:?}");
        assert_eq!(report.full_load_n, full_load);
        assert!(tuner.capacity() > 400.0, "{}", tuner.capacity());
    }

    #[tokio::test(start_paused = true)]
    async fn remembers_the_last_batches_and_learns_from_them() {
        let mut tuner = tuner(BatchMode::Auto);
        let before = tuner.limit(Duration::ZERO);
        for _ in 0..20 {
            let took = tuner.expected(1) * 2;
            tuner.ran(1, 0, took.min(Duration::from_millis(20)), Release::Drained);
        }
        let report = tuner.report();
        assert_eq!(report.recent.len(), RECENT);
        assert_eq!(report.recent[0].release, "drained");
        assert!((1.9..2.1).contains(&report.gain), "{}", report.gain);
        assert!(tuner.limit(Duration::ZERO) < before);
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_what_cannot_be_in_time_but_never_so_that_nothing_is_learnt_any_more() {
        let mut tuner = tuner(BatchMode::Auto);
        tuner.limit(Duration::ZERO);
        // Four rows take 16 ms, three 14, two 12, one 10.
        let left = |millis: [u64; 4]| millis.map(Duration::from_millis).into_iter();
        let doomed = |tuner: &Tuner, millis| tuner.doomed(4, left(millis));
        assert_eq!(doomed(&tuner, [15, 13, 30, 30]), 2);
        assert_eq!(doomed(&tuner, [17, 13, 30, 30]), 0);
        assert_eq!(doomed(&tuner, [1, 1, 1, 1]), 3, "one must run: nothing is known yet");
        tuner.ran(4, 0, Duration::from_millis(16), Release::Full);
        assert_eq!(doomed(&tuner, [1, 1, 1, 1]), 4);
        tokio::time::advance(BLIND).await;
        assert_eq!(doomed(&tuner, [1, 1, 1, 1]), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_goes_before_everything() {
        let mut tuner = tuner(BatchMode::Fixed(64));
        assert_eq!(tuner.out_of_memory(64), 32);
        assert_eq!((tuner.limit(Duration::ZERO), tuner.report().bound), (32, BatchBound::Memory));
        assert_eq!(tuner.report().full_load_n, 32);
    }
}
