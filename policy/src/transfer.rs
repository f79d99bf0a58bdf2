//! The time of claims by their size.

use std::time::Duration;

/// Weight of the latest transfer in the averages.
const SMOOTHING: f64 = 1.0 / 16.0;
/// The sizes of transfers have at least this deviation relative to their mean. So transfers of one
/// size, whose times differ by chance, do not tell what a byte takes.
const LEAST_SPREAD: f64 = 0.1;
/// A transfer rarely takes longer than the expected time and this many mean deviations.
const DEVIATIONS: f64 = 3.0;

/// The time of transfers, a + b · bytes, estimated from recent transfers by least squares.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransferTime {
    /// The sum of the weights of all transfers.
    weight: f64,
    /// Weighted sums of bytes, seconds, and their products.
    bytes: f64,
    seconds: f64,
    squares: f64,
    products: f64,
    /// Weighted sum of the distances of times from the expected time.
    deviations: f64,
}

impl TransferTime {
    /// Adds a transfer of `bytes` bytes.
    pub fn observe(&mut self, bytes: u64, took: Duration) {
        let (x, y) = (float(bytes), took.as_secs_f64());
        let off = self.seconds_of(x).map_or(0.0, |expected| (y - expected).abs());
        let kept = 1.0 - SMOOTHING;
        for (sum, new) in [
            (&mut self.weight, 1.0),
            (&mut self.bytes, x),
            (&mut self.seconds, y),
            (&mut self.squares, x * x),
            (&mut self.products, x * y),
            (&mut self.deviations, off),
        ] {
            *sum = *sum * kept + new * SMOOTHING;
        }
    }

    /// Returns the time within which nearly all transfers of `bytes` bytes end; `None` before the
    /// first transfer.
    pub fn within(&self, bytes: u64) -> Option<Duration> {
        let seconds = self.seconds_of(float(bytes))?;
        Duration::try_from_secs_f64(seconds + DEVIATIONS * self.deviations / self.weight).ok()
    }

    /// Returns the expected time in seconds.
    fn seconds_of(&self, bytes: f64) -> Option<f64> {
        if self.weight <= 0.0 {
            return None;
        }
        let mean = |sum: f64| sum / self.weight;
        let (x, y) = (mean(self.bytes), mean(self.seconds));
        let spread = (mean(self.squares) - x * x).max(0.0) + (LEAST_SPREAD * x).powi(2);
        let slope = (mean(self.products) - x * y).max(0.0) / spread.max(f64::MIN_POSITIVE);
        // No transfer takes less than no time, so that a byte takes at most y / x.
        let slope = if x > 0.0 { slope.min(y / x) } else { 0.0 };
        Some(y + slope * (bytes - x))
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes far below 2^52")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    fn close(time: Option<Duration>, expected: Duration) -> bool {
        let time = time.unwrap();
        time.abs_diff(expected) < expected / 20
    }

    #[test]
    fn nothing_is_known_before_the_first_transfer() {
        let mut times = TransferTime::default();
        assert_eq!(times.within(10), None);
        times.observe(1000, us(300));
        assert_eq!(times.within(1000), Some(us(300)));
        assert_eq!(times.within(0), Some(us(300)), "one transfer tells nothing of its bytes");
    }

    #[test]
    fn the_time_of_small_and_large_transfers_is_told_apart() {
        let mut times = TransferTime::default();
        // 200 µs and 1 µs for each kB.
        for round in 0..200 {
            let bytes = 1000 * (1 + round % 40);
            times.observe(bytes, us(200 + bytes / 1000));
        }
        assert!(close(times.within(1000), us(201)), "{:?}", times.within(1000));
        assert!(close(times.within(400_000), us(600)), "{:?}", times.within(400_000));
    }

    #[test]
    fn a_network_that_became_slower_is_noticed_within_some_transfers() {
        let mut times = TransferTime::default();
        (0..100).for_each(|_| times.observe(1000, us(200)));
        (0..80).for_each(|_| times.observe(1000, us(5200)));
        assert!(times.within(1000).unwrap() > us(5100));
    }

    #[test]
    fn the_time_includes_what_transfers_differ_by_chance() {
        let mut times = TransferTime::default();
        for round in 0..200 {
            times.observe(1000, us(if round % 2 == 0 { 900 } else { 1100 }));
        }
        let within = times.within(1000).unwrap();
        assert!(within > us(1150) && within < us(1450), "{within:?}");
    }
}
