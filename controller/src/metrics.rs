//! Metrics of the controller: its turns, and its last decision about each fleet.

use batchfleet_service::metrics::{Described, MetricGroup};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Registry, Result};
use strum::VariantNames;

use crate::{
    decide::{Decision, Reason},
    error::ControlError,
    report::CONDITIONS,
};

const FLEET: [&str; 2] = ["namespace", "fleet"];

batchfleet_service::metrics! {
    /// Every metric of a controller. Decisions are exported by each controller, leader or not.
    #[derive(Clone, Debug)]
    pub(crate) struct ControllerMetrics {
        /// Turns of a fleet by outcome: ok, or the code of the error.
        #[metric("batchfleet_controller_turns_total", unit = "turns", labels = ["outcome"])]
        pub(crate) turns: IntCounterVec,
        /// 1 while this process is the leader and may write, else 0.
        #[metric("batchfleet_controller_leading", unit = "1")]
        pub(crate) leading: IntGauge,
        /// Wanted number of workers; in mode hpa the floor of the autoscaler.
        #[metric("batchfleet_controller_wanted_workers", unit = "workers", labels = FLEET)]
        pub(crate) wanted: IntGaugeVec,
        /// N for the current load and the slowest worker; 0 while unknown.
        #[metric("batchfleet_controller_batch_limit", unit = "rows", labels = FLEET)]
        batch_limit: IntGaugeVec,
        /// Rows offered to the fleet, refused requests included; 0 while unknown.
        #[metric(
            "batchfleet_controller_offered_rows_per_second",
            unit = "rows per second",
            labels = FLEET
        )]
        offered: GaugeVec,
        /// Rows that all living workers together can serve within the latency target; 0 while
        /// unknown.
        #[metric(
            "batchfleet_controller_capacity_rows_per_second",
            unit = "rows per second",
            labels = FLEET
        )]
        capacity: GaugeVec,
        /// Kappa: the share of its measured capacity that the fleet has been seen to deliver.
        #[metric("batchfleet_controller_trust_ratio", unit = "ratio", labels = FLEET)]
        trust: GaugeVec,
        /// 99th percentile of the latency of recent requests; 0 while unknown.
        #[metric("batchfleet_controller_p99_seconds", unit = "seconds", labels = FLEET)]
        p99: GaugeVec,
        /// 1 for the reason that decided the number of workers, 0 for all others.
        #[metric(
            "batchfleet_controller_reason",
            unit = "1",
            labels = ["namespace", "fleet", "reason"]
        )]
        reason: IntGaugeVec,
        /// 1 while this condition of the ModelFleet is true, else 0.
        #[metric(
            "batchfleet_controller_condition",
            unit = "1",
            labels = ["namespace", "fleet", "condition"]
        )]
        conditions: IntGaugeVec,
    }
}

/// Returns the definitions of a controller's metrics.
///
/// # Errors
/// If two metrics share a name.
pub fn describe_metrics() -> Result<Vec<Described>> {
    ControllerMetrics::describe()
}

impl ControllerMetrics {
    /// Registers all metrics, and initializes the turns of each outcome to 0.
    pub(crate) fn registered(registry: &Registry) -> Result<Self> {
        let metrics = Self::register(registry)?;
        for outcome in ControlError::VARIANTS.iter().chain([&"ok"]) {
            metrics.turns.with_label_values(&[*outcome]);
        }
        Ok(metrics)
    }

    /// Exports the decision about the fleet with this namespace and name.
    pub(crate) fn decided(&self, fleet: [&str; 2], decision: &Decision) {
        let set = |gauge: &GaugeVec, value: Option<f64>| {
            gauge.with_label_values(&fleet).set(value.unwrap_or(0.0));
        };
        self.wanted.with_label_values(&fleet).set(decision.size.floor.into());
        self.batch_limit.with_label_values(&fleet).set(decision.n.unwrap_or(0).into());
        set(&self.offered, decision.offered);
        set(&self.capacity, decision.capacity);
        set(&self.p99, decision.p99);
        set(&self.trust, Some(decision.trust));
        for reason in Reason::all() {
            let gauge = self.reason.with_label_values(&[fleet[0], fleet[1], reason.code()]);
            gauge.set((reason == decision.reason).into());
        }
    }

    /// Returns the names of the fleets that have series.
    #[cfg(test)]
    pub(crate) fn series(&self) -> Vec<String> {
        use prometheus::core::Collector;
        let gauges: [&dyn Collector; 4] =
            [&self.wanted, &self.offered, &self.reason, &self.conditions];
        let families = gauges.into_iter().flat_map(Collector::collect);
        let labels = families.flat_map(|family| {
            let metrics = family.get_metric().to_vec();
            metrics.into_iter().flat_map(|metric| metric.get_label().to_vec())
        });
        let fleets = labels.filter(|label| label.name() == "fleet");
        fleets.map(|label| label.value().to_owned()).collect()
    }

    /// Exports the conditions of a fleet.
    pub(crate) fn reported(&self, fleet: [&str; 2], conditions: &[Condition]) {
        for condition in conditions {
            let labels = [fleet[0], fleet[1], condition.type_.as_str()];
            self.conditions.with_label_values(&labels).set((condition.status == "True").into());
        }
    }

    /// Removes the series of a deleted fleet.
    pub(crate) fn forget(&self, fleet: [&str; 2]) {
        // A fleet without a turn has no series to remove, so errors are ignored.
        for gauge in [&self.wanted, &self.batch_limit] {
            gauge.remove_label_values(&fleet).ok();
        }
        for gauge in [&self.offered, &self.capacity, &self.trust, &self.p99] {
            gauge.remove_label_values(&fleet).ok();
        }
        for reason in Reason::all() {
            self.reason.remove_label_values(&[fleet[0], fleet[1], reason.code()]).ok();
        }
        for condition in CONDITIONS {
            self.conditions.remove_label_values(&[fleet[0], fleet[1], condition]).ok();
        }
    }
}
