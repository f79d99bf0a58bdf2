//! The speed of a worker, derived from its announcement.

use std::time::Duration;

use crate::{BatchMode, BatchPolicy, CostModel, QueueLoad};

/// A worker's cost model, and the policy by which the worker chooses N.
#[derive(Clone, Debug)]
pub struct Speed {
    cost: CostModel,
    policy: BatchPolicy,
}

impl Speed {
    /// Returns the speed of a worker that measured `profile` (rows, time) and has the latency
    /// target `slo`. `fixed` means that the engine runs only the measured sizes. `by_hand` is N, if
    /// set by the user. `overhead` is the part of `slo` spent neither waiting nor computing.
    /// Returns `None` if the profile is empty.
    pub fn new(
        profile: &[(u32, Duration)],
        fixed: bool,
        by_hand: Option<u32>,
        slo: Duration,
        overhead: Duration,
    ) -> Option<Self> {
        let cost = CostModel::from_profile(profile)?;
        let cost = if fixed { cost.with_fixed_sizes() } else { cost };
        let mode = by_hand.map_or(BatchMode::Auto, BatchMode::Fixed);
        let policy = BatchPolicy { overhead, ..BatchPolicy::new(mode, cost.largest(), slo) };
        Some(Self { cost, policy })
    }

    /// L(b): returns the duration of a batch of `rows`.
    pub fn latency(&self, rows: u32) -> Duration {
        self.cost.latency(rows)
    }

    /// μ(W): returns the rows per second that one of W workers can do within the latency target.
    pub fn capacity(&self, workers: u32) -> f64 {
        self.policy.capacity(&self.cost, workers)
    }

    /// Returns the N of each of `workers` workers under a total load of `rate` rows per second.
    pub fn n(&self, workers: u32, rate: f64) -> u32 {
        let load = QueueLoad { rate: Some(rate), ..QueueLoad::unknown(workers) };
        self.policy.choose(&self.cost, &load).n
    }

    /// Returns whether even one row misses the latency target.
    pub fn is_infeasible(&self, workers: u32) -> bool {
        self.policy.choose(&self.cost, &QueueLoad::unknown(workers)).n_star.is_none()
    }
}
