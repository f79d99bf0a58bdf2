//! The metrics of a worker. Every metric has the labels `model` and `version`.

mod batching;
mod labels;

use std::sync::Arc;

use batchfleet_broker::{BrokerError, QueueName, Release};
use batchfleet_service::metrics::{
    Described, MetricGroup, TracedHistogram, TracedHistogramVec, doubling,
};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};
use strum::{IntoStaticStr, VariantArray};

use self::{
    batching::{BatchingFamilies, BatchingMetrics},
    labels::MODEL,
};
use crate::{fault::RunFault, fetch::FetchFailure, gpus::GpuMetrics, machine::MachineMetrics};

/// 1 to 512 rows.
const ROWS: [f64; 10] = doubling(1.0);
/// 0.25 ms to 65 s: from one row of a small model to a wait until the longest deadline.
const SECONDS: [f64; 19] = doubling(0.000_25);
/// 2 microseconds to 65 ms.
const SHORT_SECONDS: [f64; 16] = doubling(0.000_002);

/// The result of a check of an answered request. The variant's name is the metric label `finding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum SentinelFinding {
    /// Alone, the request got the same outputs.
    Same,
    /// Alone, the request got other outputs.
    Different,
}

/// The outcome of a job. The variant's name is the metric label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum JobOutcome {
    /// The outputs were sent.
    Ok,
    /// The inputs do not fit the model.
    BadInput,
    /// The model failed on the job's batch.
    Model,
    /// The deadline had passed.
    Expired,
    /// The job was claimed and handed back.
    HandedBack,
    /// The reply could not be sent before the deadline.
    Unanswered,
    /// Several workers died while they ran the job.
    Poison,
    /// The gateway was gone, so the job did not run.
    Orphaned,
    /// The inputs could not be fetched from the gateway, so the job did not run.
    Unfetched,
}

batchfleet_service::metrics! {
    /// The metrics of a worker process, over all its models.
    #[derive(Clone, Debug)]
    pub(crate) struct WorkerMetrics {
        /// Rows of a batch that ran, without padding.
        #[metric("batchfleet_worker_batch_size", unit = "rows", labels = MODEL, buckets = ROWS)]
        batch_size: HistogramVec,
        /// Time of the model's run on a batch.
        #[metric(
            "batchfleet_worker_batch_seconds",
            unit = "seconds",
            labels = MODEL,
            buckets = SECONDS
        )]
        batch_seconds: TracedHistogramVec,
        /// Time between the runs of two batches, if the second was ready when the first ended.
        #[metric(
            "batchfleet_worker_engine_gap_seconds",
            unit = "seconds",
            labels = MODEL,
            buckets = SHORT_SECONDS
        )]
        engine_gap: HistogramVec,
        /// Share of the last second in which the model ran or waited for another model on its GPU, on
        /// average over its instances.
        #[metric("batchfleet_worker_engine_busy_ratio", unit = "ratio", labels = MODEL)]
        engine_busy: GaugeVec,
        /// Time to join the inputs of a batch, before its run.
        #[metric(
            "batchfleet_worker_join_seconds",
            unit = "seconds",
            labels = MODEL,
            buckets = SHORT_SECONDS
        )]
        join_seconds: HistogramVec,
        /// Time to split the outputs of a batch among its jobs, after its run.
        #[metric(
            "batchfleet_worker_output_seconds",
            unit = "seconds",
            labels = MODEL,
            buckets = SHORT_SECONDS
        )]
        output_seconds: HistogramVec,
        /// Time from a job's submission until its claim, by the broker's clock.
        #[metric(
            "batchfleet_worker_queue_wait_seconds",
            unit = "seconds",
            labels = MODEL,
            buckets = SECONDS
        )]
        queue_wait: TracedHistogramVec,
        /// Time from a job's claim until its batch begins.
        #[metric(
            "batchfleet_worker_batch_wait_seconds",
            unit = "seconds",
            labels = MODEL,
            buckets = SECONDS
        )]
        batch_wait: TracedHistogramVec,
        /// Round trip to Redis that sends and settles the replies of a batch.
        #[metric(
            "batchfleet_worker_broker_seconds",
            unit = "seconds",
            labels = MODEL,
            buckets = SECONDS
        )]
        broker_seconds: HistogramVec,
        /// Time to fetch the inputs of claimed jobs from their gateways, if any were not in the jobs.
        #[metric(
            "batchfleet_worker_fetch_seconds",
            unit = "seconds",
            labels = MODEL,
            buckets = SECONDS
        )]
        fetch_seconds: HistogramVec,
        /// Bytes of inputs fetched from gateways.
        #[metric("batchfleet_worker_fetched_bytes_total", unit = "bytes", labels = MODEL)]
        fetched_bytes: IntCounterVec,
        /// Bytes of outputs pushed to gateways.
        #[metric("batchfleet_worker_pushed_bytes_total", unit = "bytes", labels = MODEL)]
        pushed_bytes: IntCounterVec,
        /// Replies whose large outputs could not be pushed to the gateway, and travelled through Redis.
        #[metric("batchfleet_worker_push_failures_total", unit = "replies", labels = MODEL)]
        push_failures: IntCounterVec,
        /// Jobs whose inputs were not fetched, by reason: `gone` (the request had ended), `digest` (other
        /// inputs than the gateway had accepted), `unreachable`, `timeout` or `invalid`.
        #[metric(
            "batchfleet_worker_fetch_failures_total",
            unit = "jobs",
            labels = ["model", "version", "reason"]
        )]
        fetch_failures: IntCounterVec,
        /// Failed calls to Redis that settle replies or renew the announcement, by error code.
        #[metric(
            "batchfleet_worker_broker_errors_total",
            unit = "calls",
            labels = ["model", "version", "code"]
        )]
        broker_errors: IntCounterVec,
        /// Rows added to batches to reach a size that the engine runs.
        #[metric("batchfleet_worker_padded_rows_total", unit = "rows", labels = MODEL)]
        padded_rows: IntCounterVec,
        /// Length of all rows that ran, padding included: tokens, samples or pixels; 1 for each row
        /// whose model has one length.
        #[metric("batchfleet_worker_positions_total", unit = "positions", labels = MODEL)]
        positions: IntCounterVec,
        /// Length that was added to shorter rows of a batch.
        #[metric("batchfleet_worker_padded_positions_total", unit = "positions", labels = MODEL)]
        padded_positions: IntCounterVec,
        /// Batches by the reason why they left: full, drained, linger, shape, oversize or suspect
        /// (a job of a dead worker, run alone).
        #[metric(
            "batchfleet_worker_released_total",
            unit = "batches",
            labels = ["model", "version", "reason"]
        )]
        released: IntCounterVec,
        /// Claimed jobs by outcome.
        #[metric(
            "batchfleet_worker_jobs_total",
            unit = "jobs",
            labels = ["model", "version", "outcome"]
        )]
        jobs: IntCounterVec,
        /// N: the most rows run together.
        #[metric("batchfleet_worker_batch_limit", unit = "rows", labels = MODEL)]
        batch_limit: IntGaugeVec,
        /// 1, for the execution provider that runs the model: cpu, cuda or tensorrt.
        #[metric(
            "batchfleet_worker_execution_provider",
            unit = "1",
            labels = ["model", "version", "provider"]
        )]
        execution_provider: IntGaugeVec,
        /// Places where each run copies data between GPU and processor within the model, because ONNX
        /// Runtime left operators on the processor.
        #[metric("batchfleet_worker_memcpy_nodes", unit = "places", labels = MODEL)]
        memcpy_nodes: IntGaugeVec,
        /// Replies whose gateway was no longer subscribed.
        #[metric("batchfleet_worker_undeliverable_replies_total", unit = "replies", labels = MODEL)]
        undeliverable_replies: IntCounterVec,
        /// Jobs taken over from dead workers.
        #[metric("batchfleet_worker_reclaimed_total", unit = "jobs", labels = MODEL)]
        reclaimed: IntCounterVec,
        /// Batches that failed and ran again in halves.
        #[metric("batchfleet_worker_bisections_total", unit = "batches", labels = MODEL)]
        bisections: IntCounterVec,
        /// Runs that failed, by the kind of error: model, out_of_memory or device.
        #[metric(
            "batchfleet_worker_engine_errors_total",
            unit = "runs",
            labels = ["model", "version", "class"]
        )]
        engine_errors: IntCounterVec,
        /// Answered requests of batches that ran again alone, by the finding: same or different. A
        /// difference means that requests of one batch influenced each other.
        #[metric(
            "batchfleet_worker_sentinel_checks_total",
            unit = "requests",
            labels = ["model", "version", "finding"]
        )]
        sentinel: IntCounterVec,
        /// N and what it was chosen from.
        batching: BatchingFamilies,
        /// The machine.
        pub(crate) machine: MachineMetrics,
        /// The GPUs.
        pub(crate) gpus: GpuMetrics,
    }
}

/// The definitions of all metrics of a worker.
///
/// # Errors
///
/// If two metrics share a name.
pub fn describe_metrics() -> prometheus::Result<Vec<Described>> {
    WorkerMetrics::describe()
}

impl WorkerMetrics {
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
            engine_gap: self.engine_gap.with_label_values(&labels),
            engine_busy: self.engine_busy.with_label_values(&labels),
            join_seconds: self.join_seconds.with_label_values(&labels),
            output_seconds: self.output_seconds.with_label_values(&labels),
            memcpy_nodes: self.memcpy_nodes.with_label_values(&labels),
            queue_wait: self.queue_wait.with_label_values(&labels),
            batch_wait: self.batch_wait.with_label_values(&labels),
            broker_seconds: self.broker_seconds.with_label_values(&labels),
            fetch_seconds: self.fetch_seconds.with_label_values(&labels),
            fetched_bytes: self.fetched_bytes.with_label_values(&labels),
            pushed_bytes: self.pushed_bytes.with_label_values(&labels),
            push_failures: self.push_failures.with_label_values(&labels),
            fetch_failures: each_variant(|failure: FetchFailure| {
                labelled(&self.fetch_failures, failure.into())
            }),
            broker_errors: BrokerError::CODES.map(|code| labelled(&self.broker_errors, code)),
            released: Release::ALL.map(|reason| labelled(&self.released, reason.name())),
            jobs: each_variant(|outcome: JobOutcome| labelled(&self.jobs, outcome.into())),
            batch_limit: self.batch_limit.with_label_values(&labels),
            padded_rows: self.padded_rows.with_label_values(&labels),
            positions: self.positions.with_label_values(&labels),
            padded_positions: self.padded_positions.with_label_values(&labels),
            undeliverable_replies: self.undeliverable_replies.with_label_values(&labels),
            reclaimed: self.reclaimed.with_label_values(&labels),
            bisections: self.bisections.with_label_values(&labels),
            engine_errors: each_variant(|fault: RunFault| {
                labelled(&self.engine_errors, fault.into())
            }),
            sentinel: each_variant(|finding: SentinelFinding| {
                labelled(&self.sentinel, finding.into())
            }),
            batching: Arc::new(self.batching.of_model(labels)),
        }
    }
}

/// One counter per variant, in the order of the variants.
fn each_variant<V: VariantArray + Copy>(counter: impl Fn(V) -> IntCounter) -> Arc<[IntCounter]> {
    V::VARIANTS.iter().copied().map(counter).collect()
}

/// The metrics of one model, with its labels looked up once.
#[derive(Clone, Debug)]
pub(crate) struct ModelMetrics {
    /// Observed once per batch, after its run.
    pub(crate) batch_size: Histogram,
    /// Observed once per batch, after its run.
    pub(crate) batch_seconds: TracedHistogram,
    /// Observed once per batch that was ready when the previous run ended.
    pub(crate) engine_gap: Histogram,
    /// Changed once a second by each instance.
    pub(crate) engine_busy: Gauge,
    /// Observed once per batch, after its run.
    pub(crate) join_seconds: Histogram,
    /// Observed once per batch, after its run.
    pub(crate) output_seconds: Histogram,
    /// Set once, when the model is loaded.
    pub(crate) memcpy_nodes: IntGauge,
    /// Observed once per job, when it is claimed.
    pub(crate) queue_wait: TracedHistogram,
    /// Observed once per job, when its batch begins.
    pub(crate) batch_wait: TracedHistogram,
    /// Observed once per batch, after its replies are sent.
    pub(crate) broker_seconds: Histogram,
    /// Observed once per claim with offered inputs.
    pub(crate) fetch_seconds: Histogram,
    /// Added to when inputs arrive.
    pub(crate) fetched_bytes: IntCounter,
    /// Added to when outputs are sent.
    pub(crate) pushed_bytes: IntCounter,
    /// Added to when outputs cannot be pushed.
    pub(crate) push_failures: IntCounter,
    fetch_failures: Arc<[IntCounter]>,
    /// Set whenever N is chosen.
    pub(crate) batch_limit: IntGauge,
    /// Added to once per batch, after its run.
    pub(crate) padded_rows: IntCounter,
    /// Added to once per batch, after its run.
    pub(crate) positions: IntCounter,
    pub(crate) padded_positions: IntCounter,
    /// Added to after replies are sent.
    pub(crate) undeliverable_replies: IntCounter,
    /// Incremented for each reclaimed job.
    pub(crate) reclaimed: IntCounter,
    /// Incremented when a batch is split.
    pub(crate) bisections: IntCounter,
    /// Set once a second.
    pub(crate) batching: Arc<BatchingMetrics>,
    broker_errors: [IntCounter; BrokerError::CODES.len()],
    released: [IntCounter; Release::ALL.len()],
    jobs: Arc<[IntCounter]>,
    engine_errors: Arc<[IntCounter]>,
    sentinel: Arc<[IntCounter]>,
}

impl ModelMetrics {
    /// Incremented once per batch, when it begins.
    pub(crate) fn released(&self, reason: Release) -> &IntCounter {
        &self.released[usize::from(reason.code() - 1)]
    }

    /// Incremented once per job, when its reply is sent or given up.
    pub(crate) fn jobs(&self, outcome: JobOutcome) -> &IntCounter {
        &self.jobs[outcome as usize]
    }

    /// Counts a failed settlement or renewal.
    pub(crate) fn broker_failed(&self, error: &BrokerError) {
        let errors = BrokerError::CODES.iter().zip(&self.broker_errors);
        errors.filter(|(code, _)| **code == error.code()).for_each(|(_, counter)| counter.inc());
    }

    /// Incremented once per job whose inputs are not fetched.
    pub(crate) fn fetch_failures(&self, failure: FetchFailure) -> &IntCounter {
        &self.fetch_failures[failure as usize]
    }

    /// Incremented once per check of an answered request.
    pub(crate) fn sentinel(&self, finding: SentinelFinding) -> &IntCounter {
        &self.sentinel[finding as usize]
    }

    /// Incremented once per failed run.
    pub(crate) fn engine_errors(&self, fault: RunFault) -> &IntCounter {
        &self.engine_errors[fault as usize]
    }
}
