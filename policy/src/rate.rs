//! How many rows arrive per second, from looks at a count that only grows.

use std::time::Duration;

/// Time constant of the moving average, in seconds: long enough to see more than one batch, short
/// enough to follow a burst.
const SMOOTHING: f64 = 0.5;

/// Arrivals per second: a moving average with a time constant of half a second.
///
/// r ← r + (Δn/Δt − r) · (1 − e^(−Δt/τ)), divided by the weight of what has been seen so far, so that
/// it is right from the first interval on and not only after a few τ.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArrivalRate {
    last: Option<(Duration, u64)>,
    sum: f64,
    weight: f64,
}

impl ArrivalRate {
    /// Takes in one look: `total` rows had arrived by `at`, by any clock that only goes forward.
    ///
    /// A count that went back began anew: what was known stays.
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
        let kept = (-seconds / SMOOTHING).exp();
        #[expect(clippy::cast_precision_loss, reason = "rows between two looks")]
        let rate = arrived as f64 / seconds;
        self.sum = kept * self.sum + (1.0 - kept) * rate;
        self.weight = kept * self.weight + (1.0 - kept);
    }

    /// Rows per second; `None` before two looks.
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
    fn nothing_is_known_before_two_looks() {
        let mut rate = ArrivalRate::default();
        rate.observe(ms(10), 1000);
        rate.observe(ms(10), 1001);
        assert_eq!(rate.per_second(), None);
    }

    #[test]
    fn is_right_from_the_first_interval_on() {
        let mut rate = ArrivalRate::default();
        for (at, total) in [(0, 7), (20, 17), (21, 17)] {
            rate.observe(ms(at), total);
        }
        let known = rate.per_second().unwrap();
        assert!((470.0..500.0).contains(&known), "{known}");
    }

    #[test]
    fn follows_a_change_to_63_percent_in_half_a_second() {
        let mut rate = ArrivalRate::default();
        (0..=1000).for_each(|tick| rate.observe(ms(tick * 10), tick));
        (1..=50).for_each(|tick| rate.observe(ms(10_000 + tick * 10), 1000 + tick * 11));
        let known = rate.per_second().unwrap();
        // From 100 to 1,100 per second: 100 + 1,000 · (1 − 1/e).
        assert!((known - 732.1).abs() < 1.0, "{known}");
    }

    #[test]
    fn a_count_that_begins_anew_is_no_rate() {
        let mut rate = ArrivalRate::default();
        for (at, total) in [(0, 1000), (1000, 1100), (2000, 0), (3000, 100)] {
            rate.observe(ms(at), total);
        }
        assert!((rate.per_second().unwrap() - 100.0).abs() < 1e-9);
    }
}
