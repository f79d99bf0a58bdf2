//! What the controller counts.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Every metric of a controller.
#[derive(Clone, Debug)]
pub(crate) struct ControllerMetrics {
    /// Moved after each turn of a fleet; `outcome` is `ok` or an error's code.
    pub(crate) turns: IntCounterVec,
    /// Workers there should be, by fleet: what somebody else goes by in mode `external`. Set by
    /// whoever looks, leading or not.
    pub(crate) wanted: IntGaugeVec,
    /// Whether this process writes.
    pub(crate) leading: IntGauge,
}

impl ControllerMetrics {
    /// Registers them all.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let opts =
            |name: &str, help: &str| Opts::new(format!("batchfleet_controller_{name}"), help);
        let metrics = Self {
            turns: IntCounterVec::new(opts("turns_total", "Turns of a fleet"), &["outcome"])?,
            wanted: IntGaugeVec::new(
                opts("wanted_workers", "Workers there should be"),
                &["namespace", "fleet"],
            )?,
            leading: IntGauge::with_opts(opts("leading", "Whether this process writes"))?,
        };
        registry.register(Box::new(metrics.turns.clone()))?;
        registry.register(Box::new(metrics.wanted.clone()))?;
        registry.register(Box::new(metrics.leading.clone()))?;
        Ok(metrics)
    }
}
