//! What a worker counts. Every metric carries the labels `model` and `version`.

use batchfleet_broker::QueueName;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, exponential_buckets,
};

use crate::{batch::Release, fault::Fault};

const MODEL: [&str; 2] = ["model", "version"];

/// What became of a job, as the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Its outputs were sent.
    Ok,
    /// It did not fit the model.
    BadInput,
    /// The model failed on its batch.
    Model,
    /// Its deadline had passed.
    Expired,
    /// It was claimed and given back unanswered.
    HandedBack,
    /// Its answer could not be sent before its deadline.
    Unanswered,
    /// It was there when several workers died.
    Poison,
    /// Its gateway was gone: it did not run.
    Orphaned,
}

impl Outcome {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Ok, "ok"),
        (Self::BadInput, "bad_input"),
        (Self::Model, "model"),
        (Self::Expired, "expired"),
        (Self::HandedBack, "handed_back"),
        (Self::Unanswered, "unanswered"),
        (Self::Poison, "poison"),
        (Self::Orphaned, "orphaned"),
    ];
}

/// Makes families of metrics and registers them.
struct Families<'a>(&'a Registry);

impl Families<'_> {
    fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(format!("batchfleet_worker_{name}"), help);
        let metric = HistogramVec::new(options.buckets(buckets.to_vec()), &MODEL)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// With `more` labels beside the model's.
    fn counter(&self, name: &str, help: &str, more: &[&str]) -> prometheus::Result<IntCounterVec> {
        let options = Opts::new(format!("batchfleet_worker_{name}"), help);
        let metric = IntCounterVec::new(options, &[&MODEL, more].concat())?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// With `more` labels beside the model's.
    fn gauge(&self, name: &str, help: &str, more: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let options = Opts::new(format!("batchfleet_worker_{name}"), help);
        let metric = IntGaugeVec::new(options, &[&MODEL, more].concat())?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

/// The metrics of a worker process, over all its models.
#[derive(Clone, Debug)]
pub(crate) struct WorkerMetrics {
    batch_size: HistogramVec,
    batch_seconds: HistogramVec,
    queue_wait: HistogramVec,
    batch_wait: HistogramVec,
    padded_rows: IntCounterVec,
    released: IntCounterVec,
    jobs: IntCounterVec,
    batch_limit: IntGaugeVec,
    execution_provider: IntGaugeVec,
    undeliverable_replies: IntCounterVec,
    reclaimed: IntCounterVec,
    bisections: IntCounterVec,
    engine_errors: IntCounterVec,
}

impl WorkerMetrics {
    /// Registers them; fails if they are registered already.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let rows = exponential_buckets(1.0, 2.0, 10)?;
        // 0.25 ms to 65 s: one row of a small model up to a queue at its longest deadline.
        let seconds = exponential_buckets(0.000_25, 2.0, 19)?;
        let make = Families(registry);
        Ok(Self {
            batch_size: make.histogram("batch_size", "Rows of a batch that ran", &rows)?,
            batch_seconds: make.histogram(
                "batch_seconds",
                "Run of the model on a batch",
                &seconds,
            )?,
            queue_wait: make.histogram(
                "queue_wait_seconds",
                "From a job's submission until its claim, by the broker's clock",
                &seconds,
            )?,
            batch_wait: make.histogram(
                "batch_wait_seconds",
                "From a job's claim until its batch began",
                &seconds,
            )?,
            padded_rows: make.counter(
                "padded_rows_total",
                "Rows added to reach a warmed size",
                &[],
            )?,
            released: make.counter(
                "released_total",
                "Batches by why they left: full, drained, linger, shape, oversize or suspect",
                &["reason"],
            )?,
            jobs: make.counter(
                "jobs_total",
                "Claimed jobs by what became of them",
                &["outcome"],
            )?,
            batch_limit: make.gauge("batch_limit", "N: the most rows run together", &[])?,
            execution_provider: make.gauge(
                "execution_provider",
                "1 for where it runs",
                &["provider"],
            )?,
            undeliverable_replies: make.counter(
                "undeliverable_replies_total",
                "Replies that found no gateway listening",
                &[],
            )?,
            reclaimed: make.counter("reclaimed_total", "Jobs taken over from dead workers", &[])?,
            bisections: make.counter(
                "bisections_total",
                "Batches that ran again in halves",
                &[],
            )?,
            engine_errors: make.counter(
                "engine_errors_total",
                "Runs that failed, by what it means: model, out_of_memory or device",
                &["class"],
            )?,
        })
    }

    /// The metrics of one model, with every label value present from the start.
    pub(crate) fn of_model(&self, queue: &QueueName, provider: &str) -> ModelMetrics {
        let version = queue.version.to_string();
        let labels = [queue.model.as_str(), version.as_str()];
        let labelled =
            |vec: &IntCounterVec, label| vec.with_label_values(&[labels[0], labels[1], label]);
        self.execution_provider.with_label_values(&[labels[0], labels[1], provider]).set(1);
        ModelMetrics {
            batch_size: self.batch_size.with_label_values(&labels),
            batch_seconds: self.batch_seconds.with_label_values(&labels),
            queue_wait: self.queue_wait.with_label_values(&labels),
            batch_wait: self.batch_wait.with_label_values(&labels),
            released: Release::ALL.map(|reason| labelled(&self.released, reason.code())),
            jobs: Outcome::ALL.map(|(_, name)| labelled(&self.jobs, name)),
            batch_limit: self.batch_limit.with_label_values(&labels),
            padded_rows: self.padded_rows.with_label_values(&labels),
            undeliverable_replies: self.undeliverable_replies.with_label_values(&labels),
            reclaimed: self.reclaimed.with_label_values(&labels),
            bisections: self.bisections.with_label_values(&labels),
            engine_errors: Fault::ALL.map(|fault| labelled(&self.engine_errors, fault.name())),
        }
    }
}

/// The metrics of one model, looked up once.
#[derive(Clone, Debug)]
pub(crate) struct ModelMetrics {
    /// Moved once per batch, when it has run.
    pub(crate) batch_size: Histogram,
    /// Moved once per batch, when it has run.
    pub(crate) batch_seconds: Histogram,
    /// Moved once per job, when it is claimed.
    pub(crate) queue_wait: Histogram,
    /// Moved once per job, when its batch begins.
    pub(crate) batch_wait: Histogram,
    /// Set when N changes.
    pub(crate) batch_limit: IntGauge,
    /// Moved once per batch, when it has run.
    pub(crate) padded_rows: IntCounter,
    /// Moved when replies were sent.
    pub(crate) undeliverable_replies: IntCounter,
    /// Moved once per job that is taken over.
    pub(crate) reclaimed: IntCounter,
    /// Moved when a batch is split.
    pub(crate) bisections: IntCounter,
    released: [IntCounter; 6],
    jobs: [IntCounter; 8],
    engine_errors: [IntCounter; 3],
}

impl ModelMetrics {
    /// Moved once per batch, when it begins.
    pub(crate) fn released(&self, reason: Release) -> &IntCounter {
        &self.released[reason as usize]
    }

    /// Moved once per job, when its reply has left or it was given up.
    pub(crate) fn jobs(&self, outcome: Outcome) -> &IntCounter {
        &self.jobs[outcome as usize]
    }

    /// Moved when a run failed.
    pub(crate) fn engine_errors(&self, fault: Fault) -> &IntCounter {
        &self.engine_errors[fault as usize]
    }
}
