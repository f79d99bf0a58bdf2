//! Latencies of a load, as a histogram.

use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};

/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;
/// Upper bound of recorded latencies: an hour, in microseconds.
const LONGEST: u64 = 3_600_000_000;

/// A histogram of latencies, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// An empty histogram.
    pub(crate) fn new() -> Result<Self, CreationError> {
        Histogram::new_with_bounds(1, LONGEST, DIGITS).map(Self)
    }

    /// Adds a latency.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(micros(latency));
    }

    /// The number of latencies.
    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// The number of latencies above `limit`.
    pub(crate) fn above(&self, limit: Duration) -> u64 {
        self.0.count_between(micros(limit).saturating_add(1), u64::MAX)
    }

    /// The latency at a quantile from 0 to 1; 0 if the histogram is empty.
    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    /// Removes all latencies.
    pub(crate) fn reset(&mut self) {
        self.0.reset();
    }
}

fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}
