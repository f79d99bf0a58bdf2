//! What a worker counts. Every metric carries the labels `model` and `version`.

mod choice;

use std::sync::Arc;

use batchfleet_broker::{BrokerError, QueueName, Release};
use batchfleet_service::metrics::{Described, Families, MetricGroup, family};
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    exponential_buckets,
};

use self::choice::{Choice, Choices};
use crate::fault::RunFault;

const MODEL: [&str; 2] = ["model", "version"];

/// What became of a job, as the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum JobOutcome {
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

impl JobOutcome {
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

/// The metrics of a worker process, over all its models.
#[derive(Clone, Debug)]
pub(crate) struct WorkerMetrics {
    batch_size: HistogramVec,
    batch_seconds: HistogramVec,
    queue_wait: HistogramVec,
    batch_wait: HistogramVec,
    broker_seconds: HistogramVec,
    broker_errors: IntCounterVec,
    padded_rows: IntCounterVec,
    released: IntCounterVec,
    jobs: IntCounterVec,
    batch_limit: IntGaugeVec,
    execution_provider: IntGaugeVec,
    undeliverable_replies: IntCounterVec,
    reclaimed: IntCounterVec,
    bisections: IntCounterVec,
    engine_errors: IntCounterVec,
    choices: Choices,
}

/// What a worker counts, and what it means.
///
/// # Errors
/// If two metrics share a name.
pub fn describe_metrics() -> prometheus::Result<Vec<Described>> {
    let mut make = Families::default();
    WorkerMetrics::make(&mut make)?;
    Ok(make.described())
}

impl WorkerMetrics {
    /// Registers them; fails if they are registered already.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        Self::make(&mut Families::new(registry))
    }

    #[expect(clippy::too_many_lines, reason = "a list of what there is")]
    fn make(make: &mut Families) -> prometheus::Result<Self> {
        let rows = exponential_buckets(1.0, 2.0, 10)?;
        // 0.25 ms to 65 s: one row of a small model up to a queue at its longest deadline.
        let seconds = exponential_buckets(0.000_25, 2.0, 19)?;
        Ok(Self {
            batch_size: make.histogram(
                family(
                    "batchfleet_worker_batch_size",
                    "rows",
                    &MODEL,
                    "Rows of a batch that ran, padding not counted",
                ),
                &rows,
            )?,
            batch_seconds: make.histogram(
                family(
                    "batchfleet_worker_batch_seconds",
                    "seconds",
                    &MODEL,
                    "Run of the model on a batch",
                ),
                &seconds,
            )?,
            queue_wait: make.histogram(
                family(
                    "batchfleet_worker_queue_wait_seconds",
                    "seconds",
                    &MODEL,
                    "From a job's submission until its claim, by the broker's clock",
                ),
                &seconds,
            )?,
            batch_wait: make.histogram(
                family(
                    "batchfleet_worker_batch_wait_seconds",
                    "seconds",
                    &MODEL,
                    "From a job's claim until its batch began",
                ),
                &seconds,
            )?,
            broker_seconds: make.histogram(
                family(
                    "batchfleet_worker_broker_seconds",
                    "seconds",
                    &MODEL,
                    "Round trip to Redis that sends and settles the answers of a batch",
                ),
                &seconds,
            )?,
            broker_errors: make.counter(family(
                "batchfleet_worker_broker_errors_total",
                "calls",
                &["model", "version", "code"],
                "Answers and announcements that Redis did not take at once, by why",
            ))?,
            padded_rows: make.counter(family(
                "batchfleet_worker_padded_rows_total",
                "rows",
                &MODEL,
                "Rows added to batches to reach a size that the engine runs",
            ))?,
            released: make.counter(family(
                "batchfleet_worker_released_total",
                "batches",
                &["model", "version", "reason"],
                "Batches by why they left: full, drained, linger, shape, oversize or suspect",
            ))?,
            jobs: make.counter(family(
                "batchfleet_worker_jobs_total",
                "jobs",
                &["model", "version", "outcome"],
                "Claimed jobs by what became of them",
            ))?,
            batch_limit: make.gauge(family(
                "batchfleet_worker_batch_limit",
                "rows",
                &MODEL,
                "N: the most rows run together",
            ))?,
            execution_provider: make.gauge(family(
                "batchfleet_worker_execution_provider",
                "1",
                &["model", "version", "provider"],
                "1, for where the model runs: cpu, cuda or tensorrt",
            ))?,
            undeliverable_replies: make.counter(family(
                "batchfleet_worker_undeliverable_replies_total",
                "replies",
                &MODEL,
                "Replies that found no gateway listening",
            ))?,
            reclaimed: make.counter(family(
                "batchfleet_worker_reclaimed_total",
                "jobs",
                &MODEL,
                "Jobs taken over from dead workers",
            ))?,
            bisections: make.counter(family(
                "batchfleet_worker_bisections_total",
                "batches",
                &MODEL,
                "Batches that failed and ran again in halves",
            ))?,
            engine_errors: make.counter(family(
                "batchfleet_worker_engine_errors_total",
                "runs",
                &["model", "version", "class"],
                "Runs that failed, by what it means: model, out_of_memory or device",
            ))?,
            choices: Choices::make(make)?,
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
            broker_seconds: self.broker_seconds.with_label_values(&labels),
            broker_errors: BrokerError::CODES.map(|code| labelled(&self.broker_errors, code)),
            released: Release::ALL.map(|reason| labelled(&self.released, reason.name())),
            jobs: JobOutcome::ALL.map(|(_, name)| labelled(&self.jobs, name)),
            batch_limit: self.batch_limit.with_label_values(&labels),
            padded_rows: self.padded_rows.with_label_values(&labels),
            undeliverable_replies: self.undeliverable_replies.with_label_values(&labels),
            reclaimed: self.reclaimed.with_label_values(&labels),
            bisections: self.bisections.with_label_values(&labels),
            engine_errors: RunFault::ALL.map(|fault| labelled(&self.engine_errors, fault.name())),
            choice: Arc::new(self.choices.of_model(labels)),
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
    /// Moved once per batch, when its answers were sent.
    pub(crate) broker_seconds: Histogram,
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
    /// Told once a second.
    pub(crate) choice: Arc<Choice>,
    broker_errors: [IntCounter; BrokerError::CODES.len()],
    released: [IntCounter; 6],
    jobs: [IntCounter; 8],
    engine_errors: [IntCounter; 3],
}

impl ModelMetrics {
    /// Moved once per batch, when it begins.
    pub(crate) fn released(&self, reason: Release) -> &IntCounter {
        &self.released[usize::from(reason.code() - 1)]
    }

    /// Moved once per job, when its reply has left or it was given up.
    pub(crate) fn jobs(&self, outcome: JobOutcome) -> &IntCounter {
        &self.jobs[outcome as usize]
    }

    /// Moved when the broker did not take an answer or an announcement.
    pub(crate) fn broker_failed(&self, error: &BrokerError) {
        let errors = BrokerError::CODES.iter().zip(&self.broker_errors);
        errors.filter(|(code, _)| **code == error.code()).for_each(|(_, counter)| counter.inc());
    }

    /// Moved when a run failed.
    pub(crate) fn engine_errors(&self, fault: RunFault) -> &IntCounter {
        &self.engine_errors[fault as usize]
    }
}
