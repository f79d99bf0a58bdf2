//! One version of a model, as this gateway sees it: what requests are checked against, what is
//! counted, and how long its queue is.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use batchfleet_broker::{Announcement, Backlog, ModelSpec, Priority, Traffic};
use batchfleet_policy::{Ahead, ArrivalRate, DrainRate, Look};

use crate::{metrics::ModelMetrics, tally::Tally};

/// One version of a model.
#[derive(Debug)]
pub(crate) struct Model {
    /// What requests are checked against.
    pub(crate) spec: ModelSpec,
    /// What is counted about it.
    pub(crate) metrics: ModelMetrics,
    tally: Mutex<Tally>,
    load: Mutex<Load>,
    live_workers: AtomicUsize,
    /// Requests accepted here since the queue was last looked at.
    unseen: AtomicU64,
}

/// What is known of a queue from looking at it.
#[derive(Debug, Default)]
struct Load {
    backlog: Backlog,
    drain: DrainRate,
    arrivals: ArrivalRate,
    /// Rows per second that the living workers say they can do together.
    capacity: f64,
    /// The time of a full batch at the slowest of them.
    batch: Duration,
}

impl Model {
    /// A model nothing is known of but what it is.
    pub(crate) fn new(spec: ModelSpec, metrics: ModelMetrics) -> Self {
        Self {
            spec,
            metrics,
            tally: Mutex::default(),
            load: Mutex::default(),
            live_workers: AtomicUsize::new(0),
            unseen: AtomicU64::new(0),
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

    /// What `/stats` tells: the requests that passed this gateway.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was let in.
    pub(crate) fn accepted(&self) {
        self.unseen.fetch_add(1, Ordering::Relaxed);
        self.metrics.accepted();
    }

    /// What a request of this class would wait behind.
    pub(crate) fn ahead(&self, priority: Priority) -> Ahead {
        let load = self.load();
        let classes = usize::from(priority.code()) + 1;
        let waiting: u64 = load.backlog.waiting[..classes].iter().sum();
        let jobs = waiting + self.unseen.load(Ordering::Relaxed);
        let idle = jobs == 0 && load.backlog.in_flight == 0;
        let batch = if idle { Duration::ZERO } else { load.batch };
        #[expect(clippy::cast_precision_loss, reason = "a number of jobs in a queue")]
        let jobs = jobs as f64;
        Ahead { jobs, rate: load.drain.rate(), batch }
    }

    /// Takes in what its workers say.
    pub(crate) fn hear<'a>(&self, workers: impl Iterator<Item = &'a Announcement>) {
        let (mut living, mut capacity, mut batch) = (0, 0.0, Duration::ZERO);
        for worker in workers {
            living += 1;
            capacity += worker.capacity;
            // Under load, which is when it matters.
            let full =
                worker.batching.as_ref().map_or(worker.batch_limit, |known| known.full_load_n);
            let seconds = f64::from(full) / worker.capacity;
            batch = batch.max(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        }
        self.live_workers.store(living, Ordering::Relaxed);
        let mut load = self.load();
        (load.capacity, load.batch) = (capacity, batch);
    }

    /// Takes in a look at the queue, `at` any clock that only goes forward.
    pub(crate) fn observe(&self, at: Duration, backlog: Backlog) {
        let rows_per_request = self.tally().rows_per_request();
        let mut load = self.load();
        self.unseen.store(0, Ordering::Relaxed);
        load.backlog = backlog;
        load.arrivals.observe(at, backlog.added);
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
