//! A run, second by second.

use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde::Serialize;

use crate::report::{DIGITS, Ending, LONGEST};

/// What happened in one second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Second {
    /// Its number, from 1.
    pub number: u64,
    /// Requests answered right.
    pub right: u64,
    /// Requests answered wrong.
    pub wrong: u64,
    /// Requests answered with another status than 200.
    pub refused: u64,
    /// Requests not answered, other than by intent.
    pub failed: u64,
    /// The latency of half of the right answers, in milliseconds; 0 where there are none.
    pub p50_ms: f64,
    /// The latency that 99 % of them did not exceed, in milliseconds.
    pub p99_ms: f64,
    /// The longest of them, in milliseconds.
    pub max_ms: f64,
}

/// The second that is not over yet.
pub(crate) struct Clock {
    now: Second,
    latencies: Histogram<u64>,
}

impl Clock {
    pub(crate) fn new() -> Result<Self, CreationError> {
        Ok(Self {
            now: Second::default(),
            latencies: Histogram::new_with_bounds(1, LONGEST, DIGITS)?,
        })
    }

    /// Counts a right answer and its latency in microseconds.
    pub(crate) fn answered(&mut self, latency: u64) {
        self.now.right += 1;
        self.latencies.saturating_record(latency);
    }

    /// Counts a request that ended otherwise.
    pub(crate) fn unanswered(&mut self, ending: &Ending) {
        match ending {
            Ending::Right | Ending::HungUp => {}
            Ending::Wrong => self.now.wrong += 1,
            Ending::Refused(_) => self.now.refused += 1,
            Ending::Failed => self.now.failed += 1,
        }
    }

    /// Ends this second, and begins the next.
    pub(crate) fn tick(&mut self) -> Second {
        let at = |quantile| {
            let latency = Duration::from_micros(self.latencies.value_at_quantile(quantile));
            latency.as_secs_f64() * 1e3
        };
        let number = self.now.number + 1;
        let [p50_ms, p99_ms, max_ms] = [0.5, 0.99, 1.0].map(at);
        self.latencies.reset();
        let next = Second { number, ..Second::default() };
        Second { number, p50_ms, p99_ms, max_ms, ..std::mem::replace(&mut self.now, next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_begins_anew() {
        let mut clock = Clock::new().unwrap();
        clock.answered(1000);
        clock.answered(3000);
        clock.unanswered(&Ending::Failed);
        let first = clock.tick();
        assert_eq!((first.number, first.right, first.failed), (1, 2, 1));
        assert!((0.9..1.1).contains(&first.p50_ms) && (2.9..3.1).contains(&first.max_ms));
        assert_eq!(clock.tick(), Second { number: 2, ..Second::default() });
    }
}
