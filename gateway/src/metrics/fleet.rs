//! Metrics of the whole fleet. Every gateway observes the same fleet, so aggregate over gateways
//! with the maximum, not the sum.

use std::time::Duration;

use batchfleet_broker::{Announcement, Backlog, ModelSpec, QueueName, ShardMemory};
use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec};

use crate::explain::Explanation;

/// The labels of a model version.
pub(super) const VERSION: [&str; 2] = ["model", "version"];

batchfleet_service::metrics! {
    /// Facts of the fleet.
    #[derive(Clone, Debug)]
    pub(crate) struct FleetMetrics {
        /// Jobs that no worker has claimed.
        #[metric("batchfleet_queue_depth", unit = "jobs", labels = VERSION)]
        queue_depth: IntGaugeVec,
        /// Jobs claimed and not settled.
        #[metric("batchfleet_queue_in_flight", unit = "jobs", labels = VERSION)]
        queue_in_flight: IntGaugeVec,
        /// Age of the oldest job that no worker has claimed.
        #[metric("batchfleet_queue_oldest_age_seconds", unit = "seconds", labels = VERSION)]
        queue_oldest_age: GaugeVec,
        /// Predicted wait of a request that arrives now, as admission predicts it.
        #[metric("batchfleet_backlog_seconds", unit = "seconds", labels = VERSION)]
        backlog_seconds: GaugeVec,
        /// Workers that serve the model now.
        #[metric("batchfleet_gateway_workers", unit = "workers", labels = VERSION)]
        workers: IntGaugeVec,
        /// Workers whose model has other inputs, outputs or limits than the spec that gateways
        /// check requests against.
        #[metric("batchfleet_gateway_mismatched_workers", unit = "workers", labels = VERSION)]
        mismatched: IntGaugeVec,
        /// Workers that the present load needs, each used to 88 % of its capacity; 0 while unknown.
        #[metric("batchfleet_wanted_workers", unit = "workers", labels = VERSION)]
        wanted: IntGaugeVec,
        /// Rows that all gateways put into the queue; 0 while unknown.
        #[metric("batchfleet_load_rows_per_second", unit = "rows per second", labels = VERSION)]
        load: GaugeVec,
        /// Rows that all living workers can run within the latency target.
        #[metric(
            "batchfleet_capacity_rows_per_second",
            unit = "rows per second",
            labels = VERSION
        )]
        capacity: GaugeVec,
        /// Latency target of the slowest worker; 0 while unknown.
        #[metric("batchfleet_slo_seconds", unit = "seconds", labels = VERSION)]
        slo: GaugeVec,
        /// Used share of Redis' maxmemory, of several that of the fullest; 0 if Redis has no limit.
        #[metric("batchfleet_broker_memory_ratio", unit = "ratio")]
        broker_memory: Gauge,
        /// Redises that this gateway cannot reach.
        #[metric("batchfleet_broker_away", unit = "Redises")]
        broker_away: IntGauge,
        /// Used share of the maxmemory of each Redis, by its place among the URLs, from 0.
        #[metric("batchfleet_redis_memory_ratio", unit = "ratio", labels = ["redis"])]
        redis_memory: GaugeVec,
        /// 1 while this gateway cannot reach a Redis, by its place among the URLs, from 0.
        #[metric("batchfleet_redis_away", unit = "1", labels = ["redis"])]
        redis_away: IntGaugeVec,
    }
}

impl FleetMetrics {
    /// Updates the metrics of the memory of Redis.
    pub(crate) fn set_memory(&self, memory: &[ShardMemory]) {
        self.broker_memory.set(memory.iter().map(|shard| shard.used).fold(0.0, f64::max));
        for ShardMemory { shard, used } in memory {
            self.redis_memory.with_label_values(&[shard.0.to_string()]).set(*used);
        }
    }

    /// Updates the metrics of which Redises are out of reach.
    pub(crate) fn set_outages(&self, outages: &[bool]) {
        let away = outages.iter().filter(|is_away| **is_away).count();
        self.broker_away.set(i64::try_from(away).unwrap_or(i64::MAX));
        for (redis, is_away) in outages.iter().enumerate() {
            self.redis_away.with_label_values(&[redis.to_string()]).set(i64::from(*is_away));
        }
    }

    /// Updates the metrics of a queue after a poll; `wait` is the predicted wait of a request that
    /// arrives now.
    pub(crate) fn set_queue(&self, queue: &QueueName, backlog: &Backlog, wait: Duration) {
        let labels = labels(queue);
        let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.queue_depth.with_label_values(&labels).set(count(backlog.depth()));
        self.queue_in_flight.with_label_values(&labels).set(count(backlog.in_flight));
        self.queue_oldest_age.with_label_values(&labels).set(backlog.oldest_age.as_secs_f64());
        self.backlog_seconds.with_label_values(&labels).set(wait.as_secs_f64());
    }

    /// Updates the metrics of the living workers of a model.
    pub(crate) fn set_workers<'a>(
        &self,
        spec: &ModelSpec,
        living: impl Iterator<Item = &'a Announcement>,
    ) {
        let (mut workers, mut mismatched) = (0, 0);
        for worker in living {
            workers += 1;
            mismatched += i64::from(worker.model != *spec);
        }
        let labels = labels(&spec.queue);
        self.workers.with_label_values(&labels).set(workers);
        self.mismatched.with_label_values(&labels).set(mismatched);
    }

    /// Updates the metrics of a model's load and capacity.
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

/// The label values of a model version.
pub(super) fn labels(queue: &QueueName) -> [String; 2] {
    [queue.model.clone(), queue.version.to_string()]
}
