//! The speed of a worker, derived from its announcement.

use std::time::Duration;

use crate::{BatchMode, BatchPolicy, CostModel, QueueLoad};

/// A target is worth telling if the rate is higher by this factor.
const WORTH_TELLING: f64 = 1.25;

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

    /// Returns the latency target with which one of W workers reaches nearly its best rate, and the
    /// rate that it reaches. `None` if this rate is less than a quarter above the present one, or if
    /// N is set by the user.
    pub fn better_target(&self, workers: u32) -> Option<(Duration, f64)> {
        let slo = self.policy.target_for_best(&self.cost, workers)?;
        let rate = BatchPolicy { slo, ..self.policy }.capacity(&self.cost, workers);
        let now = if self.is_infeasible(workers) { 0.0 } else { self.capacity(workers) };
        (rate >= WORTH_TELLING * now && slo > self.policy.slo).then_some((slo, rate))
    }

    /// Returns whether even one row misses the latency target.
    pub fn is_infeasible(&self, workers: u32) -> bool {
        self.policy.choose(&self.cost, &QueueLoad::unknown(workers)).n_star.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L(b) = 90 + 10b milliseconds.
    fn speed(slo_ms: u64, by_hand: Option<u32>) -> Speed {
        let profile = [(1, 100), (64, 730)].map(|(rows, ms)| (rows, Duration::from_millis(ms)));
        let slo = Duration::from_millis(slo_ms);
        Speed::new(&profile, false, by_hand, slo, Duration::ZERO).unwrap()
    }

    #[test]
    fn tells_the_target_at_which_a_slow_model_reaches_its_rate() {
        for slo_ms in [100, 300] {
            let (target, rate) = speed(slo_ms, None).better_target(1).unwrap();
            // 48 rows take 570 ms, twice, with 5 % headroom.
            assert_eq!(target.as_millis(), 1200);
            assert!((83.0..85.0).contains(&rate), "{rate}");
        }
        // A fast enough target, and an N by hand, need no advice.
        assert_eq!(speed(1000, None).better_target(1), None);
        assert_eq!(speed(100, Some(8)).better_target(1), None);
    }
}
