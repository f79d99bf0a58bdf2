//! One model version as observed by this gateway: its spec, the counts of its requests, its workers
//! and its queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use batchfleet_broker::{
    Announcement, Backlog, ModelSpec, Priority, Promise, QueueLimits, QueuePolicy, RowShapes,
    Tensor,
};
use batchfleet_policy::{Ahead, ArrivalRate, DrainRate, DrainSample, Speed, VersionLoad};
use parking_lot::{Mutex, RwLock};

use crate::{books::ModelBooks, demand::VersionDemand, explain::speed, request_cost::RequestCost};

/// One model version.
#[derive(Debug)]
pub(crate) struct Model {
    /// The spec that requests are checked against.
    pub(crate) spec: ModelSpec,
    /// The counts of the version's requests.
    pub(crate) books: Arc<ModelBooks>,
    shapes: RowShapes,
    queue: Mutex<QueueView>,
    live_workers: AtomicUsize,
    promised: AtomicBool,
    retracted: AtomicBool,
    default: AtomicBool,
    traced: AtomicBool,
    classifies: AtomicBool,
    policy: RwLock<QueuePolicy>,
}

/// The queue of a model version at the last poll, and its rates.
#[derive(Debug, Default)]
struct QueueView {
    backlog: Backlog,
    /// Requests of this gateway that were in flight at the last poll.
    in_flight: i64,
    /// Whether the last poll found jobs in the queue, or jobs added since the poll before.
    is_active: bool,
    drain: DrainRate,
    arrivals: ArrivalRate,
    demand: VersionDemand,
    /// Rows per second that all living workers announce together.
    capacity: f64,
    /// The speed of the slowest living worker, and its N at full load.
    slowest: Option<(Speed, u32)>,
    /// The mean rows of a request.
    rows_per_request: f64,
    /// What requests cost by the length of their rows.
    cost: RequestCost,
}

impl QueueView {
    /// The duration of the batch that would contain a request behind `jobs` other jobs, or of the
    /// batch that runs now, whichever is longer. The request costs as much as `own` rows.
    fn batch(&self, jobs: u64, own: f64, workers: usize) -> Duration {
        let Some((speed, most)) = &self.slowest else { return Duration::ZERO };
        let running = self.backlog.in_flight / u64::try_from(workers.max(1)).unwrap_or(u64::MAX);
        #[expect(clippy::cast_precision_loss, reason = "a number of jobs in a queue")]
        let rows = jobs.saturating_add(1).max(running) as f64 * self.rows_per_request;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let (rows, own) = (rows.ceil() as u32, own.ceil() as u32);
        // A request that costs more than N rows runs alone.
        speed.latency(rows.clamp(1, (*most).max(1)).max(own))
    }
}

impl Model {
    /// A model version of which only the spec is known.
    pub(crate) fn new(spec: ModelSpec, books: ModelBooks) -> Self {
        Self {
            shapes: RowShapes::of(&spec),
            spec,
            books: Arc::new(books),
            queue: Mutex::default(),
            live_workers: AtomicUsize::new(0),
            promised: AtomicBool::new(false),
            retracted: AtomicBool::new(false),
            default: AtomicBool::new(false),
            traced: AtomicBool::new(false),
            classifies: AtomicBool::new(true),
            policy: RwLock::default(),
        }
    }

    /// The number of workers that serve this version.
    pub(crate) fn workers(&self) -> usize {
        self.live_workers.load(Ordering::Relaxed)
    }

    /// Whether any worker serves this version.
    pub(crate) fn is_ready(&self) -> bool {
        self.workers() > 0
    }

    /// Whether a request can expect an answer: a worker serves this version, or a controller
    /// promises to start one on demand.
    pub(crate) fn is_available(&self) -> bool {
        self.is_ready() || self.promised.load(Ordering::Relaxed)
    }

    /// Whether no worker will serve the requests that wait: no worker lives, and a controller has
    /// told that the fleet was deleted.
    pub(crate) fn is_retracted(&self) -> bool {
        self.retracted.load(Ordering::Relaxed) && !self.is_available()
    }

    /// Whether this version is the default version, which gets the requests that name no version.
    pub(crate) fn is_default(&self) -> bool {
        self.default.load(Ordering::Relaxed)
    }

    /// Sets whether this version is the default version.
    pub(crate) fn set_default(&self, default: bool) {
        self.default.store(default, Ordering::Relaxed);
    }

    /// Orders the versions of a model: requests that name no version go to the greatest version. A
    /// version with workers is greater than a version without. Ties are broken in favour of the
    /// default version, then of versions with promised workers, then of the newest version.
    pub(crate) fn rank(&self) -> impl Ord + use<> {
        (self.is_ready(), self.is_default(), self.is_available(), self.spec.queue.version)
    }

    /// The capacity and load of this version, for the choice of the default version, and the rows
    /// per second of the requests that name no version. `at` is the time since polling began.
    pub(crate) fn version_load(&self, at: Duration) -> (VersionLoad, f64) {
        let rows_per_request = self.books.rows_per_request();
        let load = self.queue.lock();
        let rates = load.demand.rates(at);
        let (number, capacity) = (self.spec.queue.version, load.capacity);
        let named = rates.named * rows_per_request;
        (VersionLoad { number, capacity, named }, rates.unnamed * rows_per_request)
    }

    /// Whether every living worker records traces. A worker that records no traces cannot read
    /// traced jobs.
    pub(crate) fn is_traced(&self) -> bool {
        self.traced.load(Ordering::Relaxed)
    }

    /// Whether every worker that may get a job can answer with classes of outputs.
    pub(crate) fn classifies(&self) -> bool {
        self.classifies.load(Ordering::Relaxed)
    }

    /// The limits of requests of this class, from the model's config.
    pub(crate) fn limits(&self, class: Priority) -> QueueLimits {
        self.policy.read().of(class)
    }

    /// Counts a request; returns what it costs, in rows of the usual length.
    pub(crate) fn cost(&self, rows: u32, inputs: &[Tensor]) -> f64 {
        self.queue.lock().cost.count(&self.shapes, rows, inputs)
    }

    /// The jobs ahead of a request of this class, which costs as much as `own` rows: the queue at the
    /// last poll, corrected by the requests that this gateway has accepted and ended since then.
    pub(crate) fn ahead(&self, priority: Priority, own: f64) -> Ahead {
        let load = self.queue.lock();
        let since = self.books.in_flight() - load.in_flight;
        let now = |seen: u64| seen.saturating_add_signed(since);
        let classes = usize::from(priority.code()) + 1;
        let jobs = now(load.backlog.waiting[..classes].iter().sum());
        let is_idle = now(load.backlog.depth() + load.backlog.in_flight) == 0;
        let batch = if is_idle { Duration::ZERO } else { load.batch(jobs, own, self.workers()) };
        #[expect(clippy::cast_precision_loss, reason = "a number of jobs in a queue")]
        let jobs = jobs as f64;
        Ahead { jobs, rate: load.drain.rate(), batch }
    }

    /// Applies the announcements of the living workers, and the controller's promise for this
    /// version.
    pub(crate) fn update<'a>(
        &self,
        announcements: impl Iterator<Item = &'a Announcement>,
        promise: Option<&Promise>,
    ) {
        let promised = promise.filter(|promise| promise.holds).map(|promise| &promise.expected);
        let (mut living, mut capacity) = (0, 0.0);
        let (mut traced, mut classifies) = (true, true);
        let mut slowest: Option<&Announcement> = None;
        for worker in announcements {
            living += 1;
            capacity += worker.capacity;
            traced &= worker.tracing;
            classifies &= worker.classification;
            if slowest.is_none_or(|slowest| worker.capacity < slowest.capacity) {
                slowest = Some(worker);
            }
        }
        self.live_workers.store(living, Ordering::Relaxed);
        self.promised.store(promised.is_some(), Ordering::Relaxed);
        self.retracted.store(promise.is_some_and(|promise| promise.retracted), Ordering::Relaxed);
        self.traced.store(traced && living > 0, Ordering::Relaxed);
        if living == 0 {
            classifies = promised.is_none_or(|worker| worker.classification);
        }
        self.classifies.store(classifies, Ordering::Relaxed);
        if let Some(worker) = slowest {
            *self.policy.write() = worker.queue_policy;
        }
        let batching = slowest.and_then(|worker| worker.batching.as_ref());
        if let Some(batching) = batching {
            self.books.set_latency_target(batching.slo());
        }
        let slowest = batching.and_then(|known| Some((speed(known)?, known.full_load_n)));
        let mut load = self.queue.lock();
        (load.capacity, load.slowest) = (capacity, slowest);
        load.cost.adopt(batching);
    }

    /// Applies the result of polling the queue; `at` is the time since polling began.
    pub(crate) fn observe(&self, at: Duration, backlog: Backlog) {
        let mut load = self.queue.lock();
        self.books.set_usual_rows(load.cost.usual_rows());
        let rows_per_request = self.books.rows_per_request();
        load.in_flight = self.books.in_flight();
        load.is_active =
            backlog.depth() + backlog.in_flight > 0 || backlog.added != load.backlog.added;
        (load.backlog, load.rows_per_request) = (backlog, rows_per_request);
        load.arrivals.observe(at, backlog.added);
        load.demand.observe(at, self.books.counts(backlog.added));
        if !self.is_ready() {
            // The next workers may be faster or slower than the last.
            load.drain = DrainRate::default();
            return;
        }
        let settled = backlog.added.saturating_sub(backlog.depth() + backlog.in_flight);
        let capacity = load.capacity / rows_per_request;
        load.drain.observe(DrainSample { at, settled, waiting: backlog.depth(), capacity });
    }

    /// Whether this gateway has requests in flight, or any gateway had at the last poll.
    pub(crate) fn has_requests(&self) -> bool {
        self.books.in_flight() > 0 || self.queue.lock().is_active
    }

    /// Takes a sample while a live page is open.
    pub(crate) fn sample(&self) {
        self.books.sample(self.queue_depth());
    }

    /// Jobs that no worker had claimed at the last poll.
    pub(crate) fn queue_depth(&self) -> u64 {
        self.queue.lock().backlog.depth()
    }

    /// Rows per second that all gateways put into the queue; `None` before the second poll.
    pub(crate) fn rows_per_second(&self) -> Option<f64> {
        let rows_per_request = self.books.rows_per_request();
        Some(self.queue.lock().arrivals.per_second()? * rows_per_request)
    }
}

#[cfg(test)]
mod tests;
