//! The target that a controller publishes: how workers should choose N.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The published target of one queue. Each worker clamps N to the batch sizes it has measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The time of publication, in microseconds of the broker's clock. The target with the higher
    /// epoch applies, even after the broker lost its data.
    pub epoch: u64,
    /// The target itself.
    #[serde(flatten)]
    pub wish: Wish,
}

/// How the workers of one queue should choose N.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// N, or the way in which N is chosen.
    pub batch: BatchWish,
    /// The latency target in milliseconds; `None` for the setting of each worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo_ms: Option<f64>,
}

impl Wish {
    /// The latency target, if it is valid.
    pub fn slo(&self) -> Option<Duration> {
        let seconds = self.slo_ms.filter(|ms| *ms > 0.0)? / 1e3;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// How N should be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchWish {
    /// By the setting of each worker.
    #[default]
    Own,
    /// From measured batch times and the latency target.
    Auto,
    /// A fixed number of rows.
    Rows(u32),
}

/// The data that a worker reads about its queue to choose N.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Guidance {
    /// Live workers of the queue, including this worker; `None` during the liveness grace period.
    pub workers: Option<usize>,
    /// The published target, if any.
    pub target: Option<Target>,
}
