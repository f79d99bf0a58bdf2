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
    Announcement, Backlog, ModelSpec, Priority, Promise, QueueLimits, QueuePolicy, Reply,
    RowShapes, Tensor,
};
use batchfleet_policy::{
    Ahead, ArrivalRate, DrainRate, DrainSample, SettledRows, SettledSample, Speed, VersionLoad,
};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    books::ModelBooks,
    demand::VersionDemand,
    explain::speed,
    outstanding::{OutstandingWork, RequestWork},
    request_cost::RequestCost,
};

/// How long inputs travel through Redis after a worker could not fetch some.
const OFFERS_PAUSE: Duration = Duration::from_secs(30);
/// After this time without requests, batches may take less time than workers announce: nothing has
/// corrected the announced times.
const DOUBTED: Duration = Duration::from_secs(10);

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
    fetches: AtomicBool,
    /// Until when no inputs are offered to workers.
    offers_paused: Mutex<Option<Instant>>,
    /// Bytes of the last outputs.
    outputs: AtomicUsize,
    policy: RwLock<QueuePolicy>,
}

/// The queue of a model version at the last poll, and its rates.
#[derive(Debug, Default)]
struct QueueView {
    backlog: Backlog,
    /// Requests of this gateway that were in flight at the last poll.
    in_flight: i64,
    /// What the requests of this gateway cost that were in flight at the last poll.
    own: OutstandingWork,
    /// Rows of requests of other gateways at the last poll, with those that are claimed.
    others: f64,
    /// Whether the last poll found jobs in the queue, or jobs added since the poll before.
    is_active: bool,
    /// Since when polls have found neither.
    idle_since: Option<Instant>,
    settled: SettledRows,
    drain: DrainRate,
    arrivals: ArrivalRate,
    demand: VersionDemand,
    /// Rows per second that all living workers announce together.
    capacity: f64,
    /// The speed of the slowest living worker, and its N at full load.
    slowest: Option<(Speed, u32)>,
    /// What requests cost by the length of their rows.
    cost: RequestCost,
}

impl QueueView {
    /// The share of the waiting jobs that are of this class and of higher classes.
    fn share(&self, priority: Priority) -> f64 {
        let ahead: u64 = self.backlog.waiting[..=usize::from(priority.code())].iter().sum();
        match self.backlog.depth() {
            0 => 1.0,
            depth => float(ahead) / float(depth),
        }
    }

    /// The duration of the batch that would contain a request of `own` rows behind `rows` other waiting
    /// rows.
    fn batch(&self, rows: f64, own: f64) -> Duration {
        let Some((speed, most)) = &self.slowest else { return Duration::ZERO };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let (rows, own) = ((rows + own).ceil() as u32, own.ceil() as u32);
        // A request of more than N rows runs in parts, one after the other.
        speed.latency(rows.clamp(1, (*most).max(1)).max(own))
    }

    /// By how much the announced times may be too long: 2 after [`DOUBTED`] without requests, then in
    /// proportion to the time. A stall makes them too long. If they then exceeded all deadlines, and
    /// were believed, no request would ever correct them.
    fn doubt(&self) -> f64 {
        let idle = self.idle_since.map_or(Duration::ZERO, |since| since.elapsed());
        if idle < DOUBTED { 1.0 } else { 1.0 + idle.div_duration_f64(DOUBTED) }
    }

    /// Whether a request of `own` rows runs in parts.
    fn is_large(&self, own: f64) -> bool {
        self.slowest.as_ref().is_some_and(|(_, most)| own > f64::from(*most))
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
            fetches: AtomicBool::new(false),
            offers_paused: Mutex::default(),
            outputs: AtomicUsize::new(0),
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

    /// Whether every worker that may get a job can fetch its inputs from this gateway, as far as known.
    pub(crate) fn fetches(&self) -> bool {
        self.fetches.load(Ordering::Relaxed)
            && self.offers_paused.lock().is_none_or(|until| until <= Instant::now())
    }

    /// Records the size of outputs.
    pub(crate) fn note_outputs(&self, reply: &Reply) {
        if let Ok(outputs) = &reply.outcome {
            let bytes = outputs.iter().map(|output| output.data.len()).sum();
            self.outputs.store(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes of the outputs that arrived last; 0 before any.
    pub(crate) fn last_outputs(&self) -> usize {
        self.outputs.load(Ordering::Relaxed)
    }

    /// Records that a worker could not fetch inputs. The network between this gateway and some workers
    /// may be cut, which each further attempt would have to find out again.
    pub(crate) fn pause_offers(&self) {
        let now = Instant::now();
        let before = self.offers_paused.lock().replace(now + OFFERS_PAUSE);
        if before.is_none_or(|until| until <= now) {
            let (queue, seconds) = (&self.spec.queue, OFFERS_PAUSE.as_secs());
            warn!(%queue, seconds, "worker failed to fetch inputs: sending inputs through Redis");
        }
    }

    /// The limits of requests of this class, from the model's config.
    pub(crate) fn limits(&self, class: Priority) -> QueueLimits {
        self.policy.read().of(class)
    }

    /// Counts a request; returns what it costs, in units.
    pub(crate) fn units(&self, rows: u32, inputs: &[Tensor]) -> f64 {
        self.queue.lock().cost.count(&self.shapes, rows, inputs)
    }

    /// What a request costs, in units. The request is not counted, and its inputs may be without bytes.
    pub(crate) fn expected_units(&self, rows: u32, inputs: &[Tensor]) -> f64 {
        self.queue.lock().cost.of(&self.shapes, rows, inputs)
    }

    /// The work ahead of a request: that of this gateway now, and that of other gateways at the last
    /// poll. The others are assumed to have added work since, too, in proportion to their requests
    /// lately: otherwise all gateways together would accept too much of a burst.
    ///
    /// Nothing is ahead of a request to an idle fleet, which is expected to take no time unless it runs
    /// in parts, so that short requests always measure how long they take. Long ones do after a while.
    pub(crate) fn ahead(&self, request: RequestWork) -> Ahead {
        let RequestWork { priority, rows: own_rows, units } = request;
        let load = self.queue.lock();
        let (since, share) = (self.books.in_flight() - load.in_flight, load.share(priority));
        let now = |seen: u64| float(seen.saturating_add_signed(since));
        let jobs = now(load.backlog.waiting[..=usize::from(priority.code())].iter().sum());
        let per_own = load.demand.others_per_own();
        let outstanding = share * now(load.backlog.depth() + load.backlog.in_flight);
        let own = load.cost.rows(units);
        let work = self.books.work().units(priority);
        let added = (work - load.own.units(priority)).max(0.0);
        let others = load.cost.rows(added * per_own) + share * load.others;
        let rows = load.cost.rows(work) + others;
        let batch = if rows <= 0.0 && !load.is_large(own) {
            Duration::ZERO
        } else {
            // Claimed jobs run in earlier batches.
            load.batch(rows * (jobs / outstanding.max(1.0)).min(1.0), own)
        };
        // Each worker runs large requests one after the other. If all workers have some, the request may
        // wait for one more than its share.
        let workers = u32::try_from(self.workers()).map_or(f64::INFINITY, f64::from);
        let all_outstanding = outstanding + positive(since) * per_own;
        let runs_in_parts = own_rows > 1 && load.is_large(own);
        let is_behind = runs_in_parts && rows > 0.0 && all_outstanding >= workers;
        let batch = if is_behind { batch * 2 } else { batch };
        let is_idle = rows <= 0.0 && self.books.work().ended == load.own.ended;
        let batch = if is_idle { batch.div_f64(load.doubt()) } else { batch };
        let rate = load.cost.rows(load.drain.rate());
        Ahead { jobs, rows, rate, batch }
    }

    /// The work ahead of a request of one usual row in the lowest class.
    pub(crate) fn ahead_of_all(&self) -> Ahead {
        let units = self.queue.lock().cost.units(1.0);
        self.ahead(RequestWork { priority: Priority::Sheddable, rows: 1, units })
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
        let (mut traced, mut classifies, mut fetches) = (true, true, true);
        let mut slowest: Option<&Announcement> = None;
        for worker in announcements {
            living += 1;
            capacity += worker.capacity;
            traced &= worker.tracing;
            classifies &= worker.classification;
            fetches &= worker.fetches;
            if slowest.is_none_or(|slowest| worker.capacity < slowest.capacity) {
                slowest = Some(worker);
            }
        }
        self.live_workers.store(living, Ordering::Relaxed);
        self.promised.store(promised.is_some(), Ordering::Relaxed);
        self.retracted.store(promise.is_some_and(|promise| promise.retracted), Ordering::Relaxed);
        self.traced.store(traced && living > 0, Ordering::Relaxed);
        self.fetches.store(fetches && living > 0, Ordering::Relaxed);
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
        load.own = self.books.work();
        load.is_active =
            backlog.depth() + backlog.in_flight > 0 || backlog.added != load.backlog.added;
        load.idle_since =
            if load.is_active { None } else { load.idle_since.or_else(|| Some(Instant::now())) };
        load.backlog = backlog;
        load.arrivals.observe(at, backlog.added);
        load.demand.observe(at, self.books.counts(backlog.added));
        let own = load.own;
        let units_per_job = own.mean().unwrap_or(load.cost.units(rows_per_request));
        let outstanding = backlog.depth() + backlog.in_flight;
        let settled = load.settled.observe(SettledSample {
            jobs: backlog.added.saturating_sub(outstanding),
            own_jobs: own.ended,
            own_rows: own.ended_units,
            rows_per_job: units_per_job,
        });
        let others = outstanding.saturating_add_signed(-load.in_flight);
        load.others = float(others) * load.cost.rows(units_per_job);
        if !self.is_ready() {
            // The next workers may be faster or slower than the last.
            load.drain = DrainRate::default();
            return;
        }
        let request = load.batch(0.0, load.cost.rows(units_per_job));
        let (waiting, capacity) = (backlog.depth(), load.cost.units(load.capacity));
        let job = units_per_job;
        load.drain.observe(DrainSample { at, settled, waiting, capacity, job, request });
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

#[expect(clippy::cast_precision_loss, reason = "a number of jobs in a queue")]
fn float(jobs: u64) -> f64 {
    jobs as f64
}

fn positive(jobs: i64) -> f64 {
    float(u64::try_from(jobs).unwrap_or(0))
}

#[cfg(test)]
mod tests;
