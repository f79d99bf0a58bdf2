//! N: the most rows a worker claims and runs together.

use std::{fmt, str::FromStr, time::Duration};

use crate::CostModel;

/// Share of the latency target that one worker may spend on the batch a request waits for and the
/// batch it travels in; the rest is for jitter. Several workers get less, because their batches
/// do not begin together.
const HEADROOM_ALONE: f64 = 0.95;
const HEADROOM: f64 = 0.8;
/// A target that no size can meet is answered with throughput: this share of the best.
const NEARLY_BEST: f64 = 0.9;

/// How N is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchMode {
    /// From measured batch times and the latency target.
    Auto,
    /// By hand.
    Fixed(u32),
}

impl FromStr for BatchMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => match text.parse() {
                Ok(rows) if rows > 0 => Ok(Self::Fixed(rows)),
                _ => Err("expected auto or a number of rows from 1".to_owned()),
            },
        }
    }
}

impl fmt::Display for BatchMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(rows) => write!(f, "{rows}"),
        }
    }
}

/// What bounds N.
#[derive(Clone, Copy, Debug)]
pub struct BatchPolicy {
    /// Automatic or by hand.
    pub mode: BatchMode,
    /// The most rows the model may run at once.
    pub max_batch: u32,
    /// The latency target: the 99th percentile of a request, queue and batch together.
    pub slo: Duration,
}

impl BatchPolicy {
    /// N for a model of this cost served by `workers` workers.
    ///
    /// Automatic: N* = max b ≤ `max_batch` : L(b) ≤ η · SLO · W/(W+1). A request that arrives just
    /// after a batch left waits for it (about L(N)/W until some worker is free) and then for its
    /// own, L(N). Where not even one row meets the target, the smallest size with 90 % of the best
    /// rows per second.
    pub fn limit(&self, cost: &CostModel, workers: u32) -> u32 {
        let max_batch = self.max_batch.max(1);
        match self.mode {
            BatchMode::Fixed(rows) => rows.clamp(1, max_batch),
            BatchMode::Auto => largest_within(cost, self.budget(workers), max_batch)
                .unwrap_or_else(|| nearly_best(cost, max_batch)),
        }
    }

    /// The longest batch that still keeps the target.
    fn budget(&self, workers: u32) -> Duration {
        let workers = f64::from(workers.max(1));
        let headroom = if workers > 1.0 { HEADROOM } else { HEADROOM_ALONE };
        self.slo.mul_f64(headroom * workers / (workers + 1.0))
    }
}

/// The largest size whose batch fits `budget`; L is monotone, so a binary search finds it.
fn largest_within(cost: &CostModel, budget: Duration, max_batch: u32) -> Option<u32> {
    let (mut fits, mut too_large) = (0, max_batch + 1);
    while too_large - fits > 1 {
        let middle = fits + (too_large - fits) / 2;
        if cost.latency(middle) <= budget {
            fits = middle;
        } else {
            too_large = middle;
        }
    }
    (fits > 0).then_some(fits)
}

/// The smallest size that reaches [`NEARLY_BEST`] of the highest rows per second.
fn nearly_best(cost: &CostModel, max_batch: u32) -> u32 {
    let rate = |rows: u32| f64::from(rows) / cost.latency(rows).as_secs_f64().max(1e-9);
    let best = (1..=max_batch).map(rate).fold(0.0, f64::max);
    (1..=max_batch).find(|&rows| rate(rows) >= NEARLY_BEST * best).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L(b) = a + c·b milliseconds, measured at powers of two up to 512.
    fn affine(a: f64, c: f64) -> CostModel {
        let profile: Vec<_> = (0..10)
            .map(|power| 1_u32 << power)
            .map(|rows| (rows, Duration::from_secs_f64((a + c * f64::from(rows)) / 1000.0)))
            .collect();
        CostModel::from_profile(&profile).unwrap()
    }

    fn auto(slo_ms: u64) -> BatchPolicy {
        BatchPolicy { mode: BatchMode::Auto, max_batch: 512, slo: Duration::from_millis(slo_ms) }
    }

    #[test]
    fn fills_the_latency_target_and_no_more() {
        // One worker, L = 8 + 2b, 100 ms: 47.5 ms per batch, so 19 rows. Four: 64 ms, 28 rows.
        assert_eq!(auto(100).limit(&affine(8.0, 2.0), 1), 19);
        assert_eq!(auto(100).limit(&affine(8.0, 2.0), 4), 28);
    }

    #[test]
    fn never_exceeds_what_the_model_may_run() {
        assert_eq!(auto(10_000).limit(&affine(1.0, 0.01), 1), 512);
    }

    #[test]
    fn prefers_throughput_when_the_target_is_out_of_reach() {
        // The origin's card, L = 60 + 10.7b, can't answer in 50 ms: 90 % of its best rate.
        let rows = auto(50).limit(&affine(60.0, 10.7), 1);
        assert!((45..=50).contains(&rows), "{rows}");
    }

    #[test]
    fn a_number_by_hand_is_kept_within_bounds() {
        let fixed = |rows| BatchPolicy { mode: BatchMode::Fixed(rows), ..auto(100) };
        for (asked, limit) in [(1, 1), (32, 32), (9999, 512)] {
            assert_eq!(fixed(asked).limit(&affine(8.0, 2.0), 1), limit);
        }
    }

    #[test]
    fn reads_auto_or_a_number_of_rows() {
        assert_eq!("auto".parse(), Ok(BatchMode::Auto));
        assert_eq!("32".parse(), Ok(BatchMode::Fixed(32)));
        assert!("0".parse::<BatchMode>().is_err());
        assert!("many".parse::<BatchMode>().is_err());
    }
}
