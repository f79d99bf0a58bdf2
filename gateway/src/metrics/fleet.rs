//! Facts of the whole fleet, as every gateway sees them: take the maximum over gateways, not the sum.

use std::time::Duration;

use batchfleet_broker::{Announcement, Backlog, ModelSpec, QueueName};
use batchfleet_service::metrics::{Families, family};
use prometheus::{Gauge, GaugeVec, IntGaugeVec, Result};

use crate::explain::Explanation;

/// The facts.
#[derive(Clone, Debug)]
pub(crate) struct FleetMetrics {
    queue_depth: IntGaugeVec,
    queue_in_flight: IntGaugeVec,
    queue_oldest_age: GaugeVec,
    backlog_seconds: GaugeVec,
    workers: IntGaugeVec,
    mismatched: IntGaugeVec,
    wanted: IntGaugeVec,
    load: GaugeVec,
    capacity: GaugeVec,
    slo: GaugeVec,
    /// Set at each look.
    pub(crate) broker_memory: Gauge,
}

impl FleetMetrics {
    #[expect(clippy::too_many_lines, reason = "a list of what there is")]
    pub(super) fn make(make: &mut Families) -> Result<Self> {
        let queue = &["model", "version"];
        let memory = family(
            "batchfleet_broker_memory_ratio",
            "ratio",
            &[],
            "How full Redis' memory is, of its maxmemory; 0 where it has no limit",
        );
        Ok(Self {
            queue_depth: make.gauge(family(
                "batchfleet_queue_depth",
                "jobs",
                queue,
                "Jobs that no worker has claimed",
            ))?,
            queue_in_flight: make.gauge(family(
                "batchfleet_queue_in_flight",
                "jobs",
                queue,
                "Jobs claimed and not settled",
            ))?,
            queue_oldest_age: make.measure(family(
                "batchfleet_queue_oldest_age_seconds",
                "seconds",
                queue,
                "Age of the oldest job that no worker has claimed",
            ))?,
            backlog_seconds: make.measure(family(
                "batchfleet_backlog_seconds",
                "seconds",
                queue,
                "How long a request that came now would wait, as admission predicts it",
            ))?,
            workers: make.gauge(family(
                "batchfleet_gateway_workers",
                "workers",
                queue,
                "Workers that serve the model now",
            ))?,
            mismatched: make.gauge(family(
                "batchfleet_gateway_mismatched_workers",
                "workers",
                queue,
                "Workers whose model has other inputs, outputs or limits than the one gateways check by",
            ))?,
            wanted: make.gauge(family(
                "batchfleet_wanted_workers",
                "workers",
                queue,
                "Workers that the load of now wants, each busy for 88 % of what it can do; 0 while \
                 unknown",
            ))?,
            load: make.measure(family(
                "batchfleet_load_rows_per_second",
                "rows per second",
                queue,
                "Rows that all gateways put into the queue; 0 while unknown",
            ))?,
            capacity: make.measure(family(
                "batchfleet_capacity_rows_per_second",
                "rows per second",
                queue,
                "What all living workers can do within the latency target",
            ))?,
            slo: make.measure(family(
                "batchfleet_slo_seconds",
                "seconds",
                queue,
                "The latency target of the slowest worker; 0 while unknown",
            ))?,
            broker_memory: make.measure(memory)?.with_label_values::<&str>(&[]),
        })
    }

    /// A look at a queue; `wait` is what a request that came now would wait.
    pub(crate) fn set_queue(&self, queue: &QueueName, backlog: &Backlog, wait: Duration) {
        let labels = labels(queue);
        let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.queue_depth.with_label_values(&labels).set(count(backlog.depth()));
        self.queue_in_flight.with_label_values(&labels).set(count(backlog.in_flight));
        self.queue_oldest_age.with_label_values(&labels).set(backlog.oldest_age.as_secs_f64());
        self.backlog_seconds.with_label_values(&labels).set(wait.as_secs_f64());
    }

    /// What the living workers of a model say.
    pub(crate) fn set_workers<'a>(
        &self,
        spec: &ModelSpec,
        living: impl Iterator<Item = &'a Announcement>,
    ) {
        let (mut workers, mut mismatched) = (0, 0);
        for word in living {
            workers += 1;
            mismatched += i64::from(word.model != *spec);
        }
        let labels = labels(&spec.queue);
        self.workers.with_label_values(&labels).set(workers);
        self.mismatched.with_label_values(&labels).set(mismatched);
    }

    /// What follows from both.
    pub(crate) fn set_explanation(&self, queue: &QueueName, explanation: &Explanation) {
        let labels = labels(queue);
        let slowest = explanation.by_worker.iter().min_by(|a, b| a.capacity.total_cmp(&b.capacity));
        let slo = slowest.map_or(0.0, |member| member.batching.slo().as_secs_f64());
        let wanted = explanation.workers.wanted.unwrap_or(0);
        self.wanted.with_label_values(&labels).set(wanted.into());
        self.load.with_label_values(&labels).set(explanation.rows_per_second.unwrap_or(0.0));
        self.capacity.with_label_values(&labels).set(explanation.capacity);
        self.slo.with_label_values(&labels).set(slo);
    }
}

/// The labels of a version of a model.
pub(super) fn labels(queue: &QueueName) -> [String; 2] {
    [queue.model.clone(), queue.version.to_string()]
}
