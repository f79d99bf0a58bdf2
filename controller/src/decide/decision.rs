//! The input and the result of a decision about a fleet.

use std::time::Duration;

use batchfleet_broker::{ObservedWorker, Wish};
use batchfleet_policy::ScaleBound;

use crate::meter::Reading;

/// Period of the decisions about a fleet. Gateways report every second, and a step of the load has to
/// last about 1.6 s before it asks for more workers. So the number of workers follows it within 5.1 s.
pub(crate) const TICK: Duration = Duration::from_millis(2_500);
/// Without a traffic report for this time, the load counts as unknown.
pub(crate) const SILENT_GATEWAYS: Duration = Duration::from_secs(15);
/// Why a fleet has no part in the load.
pub(super) const SURPLUS: &str = "another fleet serves this model";

/// The state of a fleet on which a decision is based.
#[derive(Clone, Debug)]
pub(crate) struct FleetInput {
    /// Traffic counted by gateways; `None` if no gateway has reported recently.
    pub(crate) reading: Option<Reading>,
    /// Jobs that no worker has claimed.
    pub(crate) waiting: u64,
    /// Workers of the fleet, including dead ones.
    pub(crate) workers: Vec<ObservedWorker>,
    /// Ready workers.
    pub(crate) ready: u32,
    /// Replicas of the Deployment.
    pub(crate) ordered: u32,
    /// Measured cold start of a worker.
    pub(crate) cold_start: Option<Duration>,
    /// Whether no worker has ever served the model. Gateways do not know such a model.
    pub(crate) is_new: bool,
    /// Why Redis could not be read; `None` if it was read.
    pub(crate) redis_error: Option<String>,
}

/// The size of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FleetSize {
    /// The least number of workers.
    pub(crate) floor: u32,
    /// Jobs that may wait per worker before the autoscaler adds workers.
    pub(crate) depth_per_worker: u32,
    /// Whether the autoscaler may add workers to the floor. False if no number of workers meets the
    /// latency target: jobs then always wait longer than the target, and the autoscaler would add
    /// workers up to its maximum for nothing.
    pub(crate) may_grow: bool,
}

/// A decision about a fleet, and the figures behind it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
    /// The size to apply to the cluster.
    pub(crate) size: FleetSize,
    /// The batch target of the workers.
    pub(crate) wish: Wish,
    /// The reason for the number of workers.
    pub(crate) reason: Reason,
    /// N; `None` while no worker has announced its batch times.
    pub(crate) n: Option<u32>,
    /// Offered rows per second; `None` while unknown.
    pub(crate) offered: Option<f64>,
    /// Rows per second that all living workers together can serve within the latency target.
    pub(crate) capacity: Option<f64>,
    /// κ: the share of the measured capacity that the fleet delivers in operation.
    pub(crate) trust: f64,
    /// 99th percentile of the latency of recent requests, in seconds.
    pub(crate) p99: Option<f64>,
    /// Whether even a batch of one row misses the latency target.
    pub(crate) is_infeasible: bool,
    /// Whether gateways may let requests wait for a worker that is starting or will start at the
    /// first request.
    pub(crate) promises: bool,
    /// The reason, as a sentence for users.
    pub(crate) explanation: String,
}

/// The reason for a number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The spec sets `replicas`.
    Pinned,
    /// No worker has announced its batch times, so the number stays unchanged.
    NoSpeed,
    /// The number follows the load, within the bounds of the spec.
    Scaled(ScaleBound),
    /// Another fleet serves the model, so this one has no part in the load.
    Surplus,
}

impl Decision {
    /// Returns the decision about a fleet whose load another fleet serves: no worker, and no figures of
    /// the load.
    pub(crate) fn surplus(&self) -> Self {
        Self {
            size: FleetSize { floor: 0, ..self.size },
            reason: Reason::Surplus,
            n: None,
            offered: None,
            capacity: None,
            p99: None,
            is_infeasible: false,
            promises: false,
            explanation: format!("0 workers: {SURPLUS}"),
            ..self.clone()
        }
    }
}

impl Reason {
    /// Returns every reason.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let scaled = ScaleBound::ALL.iter().copied().map(Self::Scaled);
        [Self::Pinned, Self::NoSpeed, Self::Surplus].into_iter().chain(scaled)
    }

    /// Returns the `reason` label of metrics.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::NoSpeed => "no_speed",
            Self::Surplus => "surplus",
            Self::Scaled(bound) => bound.code(),
        }
    }
}
