//! One version of a model, as this gateway sees it: what requests are checked against, what is
//! counted, and how long its queue is.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use batchfleet_broker::{Announcement, Backlog, ModelSpec, Priority, Traffic};
use batchfleet_policy::{Ahead, ArrivalRate, DrainRate, Look, Speed, Version};

use crate::{
    demand::Demand,
    explain::speed,
    live::watch::{Moment, Watch},
    metrics::{ModelMetrics, Outcome},
    tally::Tally,
};

/// One version of a model.
#[derive(Debug)]
pub(crate) struct Model {
    /// What requests are checked against.
    pub(crate) spec: ModelSpec,
    /// What is counted about it.
    pub(crate) metrics: ModelMetrics,
    /// What happens to it just now, while somebody looks.
    pub(crate) watch: Watch,
    tally: Mutex<Tally>,
    load: Mutex<Load>,
    live_workers: AtomicUsize,
    promised: AtomicBool,
    /// Requests that name no version come here.
    carries: AtomicBool,
    traced: AtomicBool,
    /// Requests that came here since the queue was last looked at, less those that have ended.
    since_look: AtomicI64,
}

/// What is known of a queue from looking at it.
#[derive(Debug, Default)]
struct Load {
    backlog: Backlog,
    drain: DrainRate,
    arrivals: ArrivalRate,
    demand: Demand,
    /// Rows per second that the living workers say they can do together.
    capacity: f64,
    /// The slowest of them, and its N under load.
    slowest: Option<(Speed, u32)>,
    /// Rows of a request, on average.
    rows_per_request: f64,
}

impl Load {
    /// How long the batch takes that a request would travel in with so many before it, or the one
    /// that runs now, if that is larger.
    fn batch(&self, jobs: u64, workers: usize) -> Duration {
        let Some((speed, most)) = &self.slowest else { return Duration::ZERO };
        let running = self.backlog.in_flight / u64::try_from(workers.max(1)).unwrap_or(u64::MAX);
        #[expect(clippy::cast_precision_loss, reason = "a number of jobs in a queue")]
        let rows = jobs.saturating_add(1).max(running) as f64 * self.rows_per_request;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let rows = rows.ceil() as u32;
        speed.latency(rows.clamp(1, (*most).max(1)))
    }
}

impl Model {
    /// A model nothing is known of but what it is.
    pub(crate) fn new(spec: ModelSpec, metrics: ModelMetrics) -> Self {
        Self {
            spec,
            metrics,
            watch: Watch::default(),
            tally: Mutex::default(),
            load: Mutex::default(),
            live_workers: AtomicUsize::new(0),
            promised: AtomicBool::new(false),
            carries: AtomicBool::new(false),
            traced: AtomicBool::new(false),
            since_look: AtomicI64::new(0),
        }
    }

    /// Workers that serve it now.
    pub(crate) fn workers(&self) -> usize {
        self.live_workers.load(Ordering::Relaxed)
    }

    /// Whether any worker serves it now.
    pub(crate) fn is_ready(&self) -> bool {
        self.workers() > 0
    }

    /// Whether a request may hope for an answer: a worker serves it, or will as soon as one asks.
    pub(crate) fn is_wakeful(&self) -> bool {
        self.is_ready() || self.promised.load(Ordering::Relaxed)
    }

    /// Whether requests that name no version come here.
    pub(crate) fn carries(&self) -> bool {
        self.carries.load(Ordering::Relaxed)
    }

    /// The greatest of a model's versions answers requests that name none: the one that carries them,
    /// else the newest that has workers, else the newest that will, else the newest.
    pub(crate) fn rank(&self) -> impl Ord + use<> {
        (self.is_ready(), self.carries(), self.is_wakeful(), self.spec.queue.version)
    }

    /// Decides whether they do.
    pub(crate) fn carry(&self, carries: bool) {
        self.carries.store(carries, Ordering::Relaxed);
    }

    /// What matters of it when one of several versions is to carry the requests that name none, and
    /// the rows per second of those that come here; `at` the clock of the looks.
    pub(crate) fn standing(&self, at: Duration) -> (Version, f64) {
        let rows_per_request = self.tally().rows_per_request();
        let load = self.load();
        let asked = load.demand.asked(at);
        let (number, capacity) = (self.spec.queue.version, load.capacity);
        let named = asked.named * rows_per_request;
        (Version { number, capacity, named }, asked.open * rows_per_request)
    }

    /// Whether each of its workers records traces: others cannot read a job that names its own.
    pub(crate) fn is_traced(&self) -> bool {
        self.traced.load(Ordering::Relaxed)
    }

    /// What `/stats` tells: the requests that passed this gateway.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request came for it, and named this version or none.
    pub(crate) fn asked(&self, by_version: bool) {
        self.metrics.load.asked(by_version);
    }

    /// A request was let in.
    pub(crate) fn accepted(&self) {
        self.since_look.fetch_add(1, Ordering::Relaxed);
        self.metrics.accepted();
    }

    /// A request that was let in has ended, `after` its arrival.
    pub(crate) fn answered(&self, outcome: Outcome, after: Duration) {
        self.since_look.fetch_sub(1, Ordering::Relaxed);
        self.metrics.answered(outcome, after.as_secs_f64());
        self.watch.answered(after);
    }

    /// What a request of this class would wait behind: what was seen at the last look, and what came
    /// and went here since.
    pub(crate) fn ahead(&self, priority: Priority) -> Ahead {
        let load = self.load();
        let since = self.since_look.load(Ordering::Relaxed);
        let now = |seen: u64| seen.saturating_add_signed(since);
        let classes = usize::from(priority.code()) + 1;
        let jobs = now(load.backlog.waiting[..classes].iter().sum());
        let is_idle = now(load.backlog.depth() + load.backlog.in_flight) == 0;
        let batch = if is_idle { Duration::ZERO } else { load.batch(jobs, self.workers()) };
        #[expect(clippy::cast_precision_loss, reason = "a number of jobs in a queue")]
        let jobs = jobs as f64;
        Ahead { jobs, rate: load.drain.rate(), batch }
    }

    /// Takes in what its living workers announce, and whether one more is `promised`.
    pub(crate) fn hear<'a>(
        &self,
        announcements: impl Iterator<Item = &'a Announcement>,
        promised: bool,
    ) {
        let (mut living, mut capacity) = (0, 0.0);
        let mut traced = true;
        let mut slowest: Option<&Announcement> = None;
        for worker in announcements {
            living += 1;
            capacity += worker.capacity;
            traced &= worker.tracing;
            if slowest.is_none_or(|slowest| worker.capacity < slowest.capacity) {
                slowest = Some(worker);
            }
        }
        self.live_workers.store(living, Ordering::Relaxed);
        self.promised.store(promised, Ordering::Relaxed);
        self.traced.store(traced && living > 0, Ordering::Relaxed);
        let said = slowest.and_then(|worker| worker.batching.as_ref());
        if let Some(said) = said {
            self.metrics.aim(said.slo());
        }
        let slowest = said.and_then(|said| Some((speed(said)?, said.full_load_n)));
        let mut load = self.load();
        (load.capacity, load.slowest) = (capacity, slowest);
    }

    /// Takes in a look at the queue, `at` any clock that only goes forward.
    pub(crate) fn observe(&self, at: Duration, backlog: Backlog) {
        let rows_per_request = self.tally().rows_per_request();
        let mut load = self.load();
        self.since_look.store(0, Ordering::Relaxed);
        (load.backlog, load.rows_per_request) = (backlog, rows_per_request);
        load.arrivals.observe(at, backlog.added);
        load.demand.observe(at, self.metrics.load.counts(backlog.added));
        if !self.is_ready() {
            // Whoever comes will have a rate of their own.
            load.drain = DrainRate::default();
            return;
        }
        let settled = backlog.added.saturating_sub(backlog.depth() + backlog.in_flight);
        let capacity = load.capacity / rows_per_request;
        load.drain.observe(Look { at, settled, waiting: backlog.depth(), capacity });
    }

    /// What was asked of it here since this gateway started.
    pub(crate) fn traffic(&self) -> Traffic {
        self.metrics.load.traffic(&self.spec.queue, self.tally().rows_per_request())
    }

    /// Takes note of the moment, if somebody looks.
    pub(crate) fn tick(&self) {
        self.watch.tick(|| Moment {
            waiting: self.queue_depth(),
            in_flight: self.metrics.in_flight(),
            refused: self.traffic().refused,
        });
    }

    /// Jobs that no worker has claimed, as last seen.
    pub(crate) fn queue_depth(&self) -> u64 {
        self.load().backlog.depth()
    }

    /// Rows that all gateways put into its queue per second; `None` before two looks.
    pub(crate) fn rows_per_second(&self) -> Option<f64> {
        let rows_per_request = self.tally().rows_per_request();
        Some(self.load().arrivals.per_second()? * rows_per_request)
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
