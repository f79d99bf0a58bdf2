//! L(b): how long a batch of b rows takes, measured at start and corrected while running.

use std::time::Duration;

/// How far one batch may move the model: measured over expected time is clamped to this range, so
/// that one stall does not freeze N.
const OUTLIER: (f64, f64) = (0.8, 1.25);
/// Share of a surprise that moves the whole curve.
const GAIN_RATE: f64 = 0.1;
/// Share of a surprise that moves the one measured size next to it.
const SIZE_RATE: f64 = 0.02;

/// The cost of a batch by its rows.
///
/// A table of times measured at start, interpolated between its sizes and extrapolated beyond the
/// last, times one gain that follows the running system. One gain is always identifiable; fitting
/// a and c of a + c·b online is not, because sizes hardly vary in a steady state and the
/// covariance winds up.
#[derive(Clone, Debug)]
pub struct CostModel {
    /// (rows, seconds), rows rising, seconds never falling.
    table: Vec<(u32, f64)>,
    gain: f64,
}

impl CostModel {
    /// Takes the times measured at start, one per size, in any order; `None` without any.
    ///
    /// A larger size measured faster than a smaller one is noise: it is lifted to the smaller
    /// one's time.
    pub fn from_profile(profile: &[(u32, Duration)]) -> Option<Self> {
        let mut table: Vec<(u32, f64)> =
            profile.iter().map(|&(rows, took)| (rows.max(1), took.as_secs_f64())).collect();
        table.sort_by_key(|&(rows, _)| rows);
        table.dedup_by_key(|&mut (rows, _)| rows);
        if table.is_empty() {
            return None;
        }
        let mut model = Self { table, gain: 1.0 };
        model.make_monotone();
        Some(model)
    }

    /// L(b): the expected time of a batch of `rows`.
    pub fn latency(&self, rows: u32) -> Duration {
        Duration::from_secs_f64(self.gain * self.interpolate(rows))
    }

    /// Corrects the model by one batch: `rows` took `took`.
    pub fn observe(&mut self, rows: u32, took: Duration) {
        let expected = self.latency(rows).as_secs_f64();
        if expected <= 0.0 {
            return;
        }
        let surprise = (took.as_secs_f64() / expected).clamp(OUTLIER.0, OUTLIER.1) - 1.0;
        self.gain *= 1.0 + GAIN_RATE * surprise;
        let nearest = self.table.partition_point(|&(size, _)| size < rows);
        let nearest = nearest.min(self.table.len() - 1);
        self.table[nearest].1 *= 1.0 + SIZE_RATE * surprise;
        self.make_monotone();
    }

    /// The largest size that was measured.
    pub fn largest(&self) -> u32 {
        self.table[self.table.len() - 1].0
    }

    /// Seconds for `rows` before the gain: linear between the table's sizes, through the origin's
    /// side flat, and along the last slope beyond the end.
    fn interpolate(&self, rows: u32) -> f64 {
        let above = self.table.partition_point(|&(size, _)| size < rows);
        match (above.checked_sub(1), self.table.get(above)) {
            (None, first) => first.map_or(0.0, |&(_, seconds)| seconds),
            (Some(below), Some(&next)) => line(self.table[below], next, rows),
            (Some(last), None) => {
                let before = last.checked_sub(1).map_or((0, 0.0), |index| self.table[index]);
                line(before, self.table[last], rows)
            }
        }
    }

    fn make_monotone(&mut self) {
        let mut floor = 0.0_f64;
        for (_, seconds) in &mut self.table {
            floor = floor.max(*seconds);
            *seconds = floor;
        }
    }
}

/// The line through two measured sizes, at `rows`.
fn line((b0, t0): (u32, f64), (b1, t1): (u32, f64), rows: u32) -> f64 {
    t0 + (t1 - t0) * (f64::from(rows) - f64::from(b0)) / (f64::from(b1) - f64::from(b0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(pairs: &[(u32, u64)]) -> CostModel {
        let profile: Vec<_> =
            pairs.iter().map(|&(rows, ms)| (rows, Duration::from_millis(ms))).collect();
        CostModel::from_profile(&profile).unwrap()
    }

    #[test]
    fn nothing_measured_is_no_model() {
        assert!(CostModel::from_profile(&[]).is_none());
    }

    #[test]
    fn interpolates_between_sizes_and_extends_the_last_slope() {
        let model = millis(&[(1, 10), (4, 16), (8, 24)]);
        for (rows, ms) in [(1, 10), (2, 12), (4, 16), (6, 20), (8, 24), (16, 40)] {
            assert_eq!(model.latency(rows), Duration::from_millis(ms), "{rows} rows");
        }
    }

    #[test]
    fn a_larger_size_is_never_cheaper() {
        assert_eq!(millis(&[(1, 10), (2, 7), (4, 20)]).latency(2), Duration::from_millis(10));
    }

    #[test]
    fn follows_a_model_that_became_twice_as_slow() {
        let mut model = millis(&[(1, 10), (8, 24)]);
        for _ in 0..100 {
            model.observe(8, Duration::from_millis(48));
        }
        let now = model.latency(8).as_secs_f64();
        assert!((0.046..0.050).contains(&now), "{now}");
    }

    #[test]
    fn one_stall_hardly_moves_it() {
        let mut model = millis(&[(1, 10), (8, 24)]);
        model.observe(8, Duration::from_mins(1));
        assert!(model.latency(8) < Duration::from_millis(25));
    }

    proptest! {
        #[test]
        fn stays_monotone_and_finite_whatever_is_observed(
            profile in prop::collection::vec((1_u32..512, 1_u64..100_000), 1..10),
            seen in prop::collection::vec((1_u32..2000, 0_u64..10_000_000), 0..200),
        ) {
            let profile: Vec<_> =
                profile.into_iter().map(|(b, us)| (b, Duration::from_micros(us))).collect();
            let mut model = CostModel::from_profile(&profile).unwrap();
            for (rows, us) in seen {
                model.observe(rows, Duration::from_micros(us));
            }
            for rows in 1..600 {
                prop_assert!(model.latency(rows) <= model.latency(rows + 1));
            }
        }
    }
}
