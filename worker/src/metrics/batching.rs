//! The announced values of batching as metrics: L(b), N and the bounds of N.

use batchfleet_broker::{Announcement, Batching};
use batchfleet_policy::Bound;
use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec};

use super::labels::MODEL;

/// The bounds of N that the policy does not know: a batch ran out of memory, or rows of a batch
/// influenced each other.
const OTHER_BOUNDS: [&str; 2] = ["memory", "mismatch"];

batchfleet_service::metrics! {
    /// How the models of a worker are batched.
    #[derive(Clone, Debug)]
    pub(super) struct BatchingFamilies {
        /// L(b): the expected time of a batch of this many rows, at the measured sizes.
        #[metric(
            "batchfleet_worker_expected_batch_seconds",
            unit = "seconds",
            labels = ["model", "version", "rows"]
        )]
        expected: GaugeVec,
        /// Time of batches now, relative to the warm-up.
        #[metric("batchfleet_worker_slowdown_ratio", unit = "ratio", labels = MODEL)]
        slowdown: GaugeVec,
        /// Additional time of a batch if the batch before had another size, as measured at start-up.
        #[metric("batchfleet_worker_size_change_seconds", unit = "seconds", labels = MODEL)]
        size_change: GaugeVec,
        /// Rows per second that this worker can run within the latency target; 0 once it drains.
        #[metric(
            "batchfleet_worker_capacity_rows_per_second",
            unit = "rows per second",
            labels = MODEL
        )]
        capacity: GaugeVec,
        /// The latency target from which N follows.
        #[metric("batchfleet_worker_slo_seconds", unit = "seconds", labels = MODEL)]
        slo: GaugeVec,
        /// The load of all workers as estimated by this one; 0 while unknown.
        #[metric(
            "batchfleet_worker_arriving_rows_per_second",
            unit = "rows per second",
            labels = MODEL
        )]
        arrivals: GaugeVec,
        /// The least N: rows that batches must have to keep up with the load.
        #[metric("batchfleet_worker_batch_limit_least", unit = "rows", labels = MODEL)]
        least: IntGaugeVec,
        /// The greatest N: the most rows that keep the latency target and still add throughput.
        #[metric("batchfleet_worker_batch_limit_most", unit = "rows", labels = MODEL)]
        most: IntGaugeVec,
        /// N under full load.
        #[metric("batchfleet_worker_batch_limit_full_load", unit = "rows", labels = MODEL)]
        full_load: IntGaugeVec,
        /// 1 for the reason that decides N, 0 for the others.
        #[metric(
            "batchfleet_worker_batch_limit_bound",
            unit = "1",
            labels = ["model", "version", "bound"]
        )]
        bound: IntGaugeVec,
        /// 1 while the load exceeds what all workers can run within the latency target.
        #[metric("batchfleet_worker_overloaded", unit = "1", labels = MODEL)]
        overloaded: IntGaugeVec,
        /// The epoch of the published target that the worker follows; 0 for none.
        #[metric("batchfleet_worker_target_epoch", unit = "epoch", labels = MODEL)]
        epoch: IntGaugeVec,
    }
}

impl BatchingFamilies {
    /// The metrics of one model.
    pub(super) fn of_model(&self, labels: [&str; 2]) -> BatchingMetrics {
        let bounds = Bound::ALL.iter().map(|bound| bound.code()).chain(OTHER_BOUNDS);
        BatchingMetrics {
            labels: labels.map(str::to_owned),
            expected: self.expected.clone(),
            slowdown: self.slowdown.with_label_values(&labels),
            size_change: self.size_change.with_label_values(&labels),
            capacity: self.capacity.with_label_values(&labels),
            slo: self.slo.with_label_values(&labels),
            arrivals: self.arrivals.with_label_values(&labels),
            least: self.least.with_label_values(&labels),
            most: self.most.with_label_values(&labels),
            full_load: self.full_load.with_label_values(&labels),
            bounds: bounds
                .map(|code| (code, self.bound.with_label_values(&[labels[0], labels[1], code])))
                .collect(),
            overloaded: self.overloaded.with_label_values(&labels),
            epoch: self.epoch.with_label_values(&labels),
        }
    }
}

/// The batching metrics of one model.
#[derive(Debug)]
pub(crate) struct BatchingMetrics {
    labels: [String; 2],
    expected: GaugeVec,
    slowdown: Gauge,
    size_change: Gauge,
    capacity: Gauge,
    slo: Gauge,
    arrivals: Gauge,
    least: IntGauge,
    most: IntGauge,
    full_load: IntGauge,
    bounds: Vec<(&'static str, IntGauge)>,
    overloaded: IntGauge,
    epoch: IntGauge,
}

impl BatchingMetrics {
    /// Sets all metrics to the announced values.
    pub(crate) fn set(&self, announcement: &Announcement) {
        self.capacity.set(announcement.capacity);
        let Some(batching) = &announcement.batching else { return };
        let Batching { gain, slo_ms, rows_per_second, interval, full_load_n, .. } = *batching;
        self.slowdown.set(gain);
        self.size_change.set(batching.size_change_ms / 1e3);
        self.slo.set(slo_ms / 1e3);
        self.arrivals.set(rows_per_second.unwrap_or(0.0));
        self.least.set(interval.0.into());
        self.most.set(interval.1.into());
        self.full_load.set(full_load_n.into());
        self.overloaded.set(batching.overloaded.into());
        self.epoch.set(i64::try_from(batching.epoch).unwrap_or(i64::MAX));
        for (code, gauge) in &self.bounds {
            gauge.set((*code == batching.bound.code()).into());
        }
        let [model, version] = &self.labels;
        for (rows, ms) in &batching.curve {
            let labels = [model, version, &rows.to_string()];
            self.expected.with_label_values(&labels).set(ms / 1e3);
        }
    }
}
