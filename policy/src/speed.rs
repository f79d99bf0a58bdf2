//! What a worker can do, as others know it from what it says.

use std::time::Duration;

use crate::{BatchMode, BatchPolicy, CostModel, Demand};

/// A worker's cost model, and how it chooses N from that.
#[derive(Clone, Debug)]
pub struct Speed {
    cost: CostModel,
    policy: BatchPolicy,
}

impl Speed {
    /// Of a worker that measured this `profile`, runs only those sizes if they are `fixed`, has N
    /// set `by_hand` if at all, and goes by a latency target of which `overhead` goes to neither
    /// waiting nor computing. `None` without a profile.
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

    /// L(b): how long a batch of so many rows takes.
    pub fn latency(&self, rows: u32) -> Duration {
        self.cost.latency(rows)
    }

    /// μ(W): rows per second that one of so many workers can do within the latency target.
    pub fn capacity(&self, workers: u32) -> f64 {
        self.policy.capacity(&self.cost, workers)
    }

    /// N of so many workers under a load of `rate` rows per second.
    pub fn n(&self, workers: u32, rate: f64) -> u32 {
        let demand = Demand { rate: Some(rate), ..Demand::unknown(workers) };
        self.policy.choose(&self.cost, &demand).n
    }

    /// Whether not even one row meets the latency target.
    pub fn is_infeasible(&self, workers: u32) -> bool {
        self.policy.choose(&self.cost, &Demand::unknown(workers)).n_star.is_none()
    }
}
