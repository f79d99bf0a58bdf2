//! What workers are told about N from outside.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is published for the workers of one queue. Each clamps it to what it has measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// When it was published, in microseconds of the broker's clock: of two, the higher one holds,
    /// also after the broker lost its data.
    pub epoch: u64,
    /// What is wanted.
    #[serde(flatten)]
    pub wish: Wish,
}

/// What somebody wants of the workers of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// How N is chosen.
    pub batch: BatchWish,
    /// The latency target from which N follows, in milliseconds; `None` for each worker's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo_ms: Option<f64>,
}

impl Wish {
    /// The latency target, if it is one.
    pub fn slo(&self) -> Option<Duration> {
        let seconds = self.slo_ms.filter(|ms| *ms > 0.0)? / 1e3;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// How somebody wants N to be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchWish {
    /// As each worker was started.
    #[default]
    Own,
    /// From measured batch times and the latency target.
    Auto,
    /// This many rows.
    Rows(u32),
}

/// What a worker goes by when it chooses N, beside what it measures itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Guidance {
    /// How many workers live on its queue, itself included; `None` while nobody can tell.
    pub workers: Option<usize>,
    /// What was published for them, if anything was.
    pub target: Option<Target>,
}
