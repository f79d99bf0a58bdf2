//! The arrival rate, estimated from samples of a counter.

use std::time::Duration;

/// The usual τ in seconds: long enough to span several batches, short enough to follow a burst.
const SMOOTHING: f64 = 0.5;

/// Rows that arrive per second: an exponential moving average with a time constant τ of 0.5 s,
/// unless another one is set.
///
/// r ← r + (n/t − r) · (1 − e^(−t/τ)) for n rows in an interval of length t. An average that starts
/// at zero is biased low by 1 − e^(−t/τ). Dividing by the accumulated weight makes the rate correct
/// from the first interval on.
#[derive(Clone, Copy, Debug)]
pub struct ArrivalRate {
    /// τ in seconds.
    smoothing: f64,
    last: Option<(Duration, u64)>,
    sum: f64,
    weight: f64,
}

impl Default for ArrivalRate {
    fn default() -> Self {
        Self::over(SMOOTHING)
    }
}

impl ArrivalRate {
    /// Returns an average with a time constant of `smoothing` seconds.
    pub(crate) const fn over(smoothing: f64) -> Self {
        Self { smoothing, last: None, sum: 0.0, weight: 0.0 }
    }

    /// Adds a sample: `total` rows had arrived by `at`, by any monotonic clock.
    ///
    /// A counter reset does not change the estimate.
    pub fn observe(&mut self, at: Duration, total: u64) {
        let Some((then, before)) = self.last else {
            self.last = Some((at, total));
            return;
        };
        let seconds = at.saturating_sub(then).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        self.last = Some((at, total));
        let Some(arrived) = total.checked_sub(before) else { return };
        let kept = (-seconds / self.smoothing).exp();
        #[expect(clippy::cast_precision_loss, reason = "rows between two samples")]
        let rate = arrived as f64 / seconds;
        self.sum = kept * self.sum + (1.0 - kept) * rate;
        self.weight = kept * self.weight + (1.0 - kept);
    }

    /// Returns the rows per second; `None` before the second sample.
    pub fn per_second(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(at: u64) -> Duration {
        Duration::from_millis(at)
    }

    #[test]
    fn the_rate_is_unknown_before_two_samples() {
        let mut rate = ArrivalRate::default();
        rate.observe(ms(10), 1000);
        rate.observe(ms(10), 1001);
        assert_eq!(rate.per_second(), None);
    }

    #[test]
    fn the_rate_is_unbiased_from_the_first_interval_on() {
        let mut rate = ArrivalRate::default();
        for (at, total) in [(0, 7), (20, 17), (21, 17)] {
            rate.observe(ms(at), total);
        }
        let known = rate.per_second().unwrap();
        assert!((470.0..500.0).contains(&known), "{known}");
    }

    #[test]
    fn the_rate_follows_a_step_by_63_percent_in_half_a_second() {
        let mut rate = ArrivalRate::default();
        (0..=1000).for_each(|tick| rate.observe(ms(tick * 10), tick));
        (1..=50).for_each(|tick| rate.observe(ms(10_000 + tick * 10), 1000 + tick * 11));
        let known = rate.per_second().unwrap();
        // A step from 100 to 1,100 rows per second: 100 + 1,000 · (1 − 1/e).
        assert!((known - 732.1).abs() < 1.0, "{known}");
    }

    #[test]
    fn a_counter_reset_is_not_a_rate() {
        let mut rate = ArrivalRate::default();
        for (at, total) in [(0, 1000), (1000, 1100), (2000, 0), (3000, 100)] {
            rate.observe(ms(at), total);
        }
        assert!((rate.per_second().unwrap() - 100.0).abs() < 1e-9);
    }
}
