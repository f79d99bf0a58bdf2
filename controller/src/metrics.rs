//! What the controller counts, and what it decided last about each fleet.

use batchfleet_policy::ScaleBound;
use batchfleet_service::metrics::{Described, Families, family};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Registry, Result};

use crate::{
    decide::{Decision, Reason},
    error::ControlError,
};

const FLEET: [&str; 2] = ["namespace", "fleet"];

/// Every metric of a controller. What is decided is told by whoever looks, leading or not.
#[derive(Clone, Debug)]
pub(crate) struct ControllerMetrics {
    /// Moved after each turn of a fleet; `outcome` is `ok` or an error's code.
    pub(crate) turns: IntCounterVec,
    /// Whether this process writes.
    pub(crate) leading: IntGauge,
    pub(crate) wanted: IntGaugeVec,
    batch_limit: IntGaugeVec,
    offered: GaugeVec,
    capacity: GaugeVec,
    trust: GaugeVec,
    p99: GaugeVec,
    reason: IntGaugeVec,
    conditions: IntGaugeVec,
}

/// What a controller counts, and what it means.
///
/// # Errors
/// If two metrics share a name.
pub fn describe_metrics() -> Result<Vec<Described>> {
    let mut make = Families::default();
    ControllerMetrics::make(&mut make)?;
    Ok(make.described())
}

impl ControllerMetrics {
    /// Registers them all.
    pub(crate) fn register(registry: &Registry) -> Result<Self> {
        let metrics = Self::make(&mut Families::new(registry))?;
        for outcome in ControlError::CODES.into_iter().chain(["ok"]) {
            metrics.turns.with_label_values(&[outcome]);
        }
        Ok(metrics)
    }

    #[expect(clippy::too_many_lines, reason = "a list of what there is")]
    fn make(make: &mut Families) -> Result<Self> {
        let fleet = &FLEET;
        let leading = make.gauge(family(
            "batchfleet_controller_leading",
            "1",
            &[],
            "1 while this process may write, 0 while another one does",
        ))?;
        Ok(Self {
            turns: make.counter(family(
                "batchfleet_controller_turns_total",
                "turns",
                &["outcome"],
                "Turns of a fleet by how they ended: ok, or why not",
            ))?,
            leading: leading.with_label_values::<&str>(&[]),
            wanted: make.gauge(family(
                "batchfleet_controller_wanted_workers",
                "workers",
                fleet,
                "Workers there should be; in mode hpa the floor of the autoscaler",
            ))?,
            batch_limit: make.gauge(family(
                "batchfleet_controller_batch_limit",
                "rows",
                fleet,
                "N that follows from the load and the slowest worker; 0 while unknown",
            ))?,
            offered: make.measure(family(
                "batchfleet_controller_offered_rows_per_second",
                "rows per second",
                fleet,
                "What is asked of the fleet, refused requests included; 0 while unknown",
            ))?,
            capacity: make.measure(family(
                "batchfleet_controller_capacity_rows_per_second",
                "rows per second",
                fleet,
                "What all living workers can do within the latency target; 0 while unknown",
            ))?,
            trust: make.measure(family(
                "batchfleet_controller_trust_ratio",
                "ratio",
                fleet,
                "Kappa: the share of the measured capacity that the fleet has shown to have",
            ))?,
            p99: make.measure(family(
                "batchfleet_controller_p99_seconds",
                "seconds",
                fleet,
                "Within what time 99 % were answered of late; 0 while unknown",
            ))?,
            reason: make.gauge(family(
                "batchfleet_controller_reason",
                "1",
                &["namespace", "fleet", "reason"],
                "1 for what decides about the number of workers, 0 for the others",
            ))?,
            conditions: make.gauge(family(
                "batchfleet_controller_condition",
                "1",
                &["namespace", "fleet", "condition"],
                "1 while this condition of the ModelFleet holds, 0 while it does not",
            ))?,
        })
    }

    /// Tells what was decided about a fleet: its namespace and its name.
    pub(crate) fn decided(&self, fleet: [&str; 2], decision: &Decision) {
        let set = |gauge: &GaugeVec, value: Option<f64>| {
            gauge.with_label_values(&fleet).set(value.unwrap_or(0.0));
        };
        self.wanted.with_label_values(&fleet).set(decision.plan.floor.into());
        self.batch_limit.with_label_values(&fleet).set(decision.n.unwrap_or(0).into());
        set(&self.offered, decision.offered);
        set(&self.capacity, decision.capacity);
        set(&self.p99, decision.p99);
        set(&self.trust, Some(decision.trust));
        for reason in Reason::ALL {
            let gauge = self.reason.with_label_values(&[fleet[0], fleet[1], reason.code()]);
            gauge.set((reason == decision.reason).into());
        }
    }

    /// Tells what holds of a fleet.
    pub(crate) fn reported(&self, fleet: [&str; 2], conditions: &[Condition]) {
        for condition in conditions {
            let labels = [fleet[0], fleet[1], condition.type_.as_str()];
            self.conditions.with_label_values(&labels).set((condition.status == "True").into());
        }
    }

    /// Tells nothing of a fleet any more: it is gone.
    pub(crate) fn forget(&self, fleet: [&str; 2], conditions: &[Condition]) {
        // One that never had a turn has nothing to remove.
        for gauge in [&self.wanted, &self.batch_limit] {
            gauge.remove_label_values(&fleet).ok();
        }
        for gauge in [&self.offered, &self.capacity, &self.trust, &self.p99] {
            gauge.remove_label_values(&fleet).ok();
        }
        for reason in Reason::ALL {
            self.reason.remove_label_values(&[fleet[0], fleet[1], reason.code()]).ok();
        }
        for condition in conditions {
            let labels = [fleet[0], fleet[1], condition.type_.as_str()];
            self.conditions.remove_label_values(&labels).ok();
        }
    }
}

impl Reason {
    const ALL: [Self; 9] = [
        Self::Pinned,
        Self::NoSpeed,
        Self::Scaled(ScaleBound::Load),
        Self::Scaled(ScaleBound::Backlog),
        Self::Scaled(ScaleBound::Hold),
        Self::Scaled(ScaleBound::Min),
        Self::Scaled(ScaleBound::Max),
        Self::Scaled(ScaleBound::Unknown),
        Self::Scaled(ScaleBound::Stale),
    ];

    /// The bounded label.
    fn code(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::NoSpeed => "no_speed",
            Self::Scaled(bound) => bound.code(),
        }
    }
}
