//! The timeline of a run: counts and latencies of each second.

use std::time::Duration;

use hdrhistogram::CreationError;
use serde::Serialize;

use crate::{ending::Ending, latency::Latencies};

/// Requests that ended in one second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Second {
    /// The number of the second, from 1.
    pub number: u64,
    /// Right answers.
    pub right: u64,
    /// Wrong answers.
    pub wrong: u64,
    /// Answers with a status other than 200.
    pub refused: u64,
    /// Requests without answer, except where the user hung up on purpose.
    pub failed: u64,
    /// Median latency of right answers in milliseconds; 0 if there are none.
    pub p50_ms: f64,
    /// 99th percentile of the latency of right answers in milliseconds.
    pub p99_ms: f64,
    /// Highest latency of right answers in milliseconds.
    pub max_ms: f64,
}

/// Counts for the current second.
pub(crate) struct Clock {
    now: Second,
    latencies: Latencies,
}

impl Clock {
    pub(crate) fn new() -> Result<Self, CreationError> {
        Ok(Self { now: Second::default(), latencies: Latencies::new()? })
    }

    /// Counts a right answer.
    pub(crate) fn right(&mut self, latency: Duration) {
        self.now.right += 1;
        self.latencies.record(latency);
    }

    /// Counts a request with any other ending; right answers are ignored.
    pub(crate) fn ended(&mut self, ending: &Ending) {
        match ending {
            Ending::Right | Ending::HungUp => {}
            Ending::Wrong => self.now.wrong += 1,
            Ending::Refused(_) => self.now.refused += 1,
            Ending::Failed => self.now.failed += 1,
        }
    }

    /// Ends the current second and starts the next.
    pub(crate) fn tick(&mut self) -> Second {
        let at = |quantile| self.latencies.quantile(quantile).as_secs_f64() * 1e3;
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
    fn each_second_starts_at_zero() {
        let mut clock = Clock::new().unwrap();
        clock.right(Duration::from_millis(1));
        clock.right(Duration::from_millis(3));
        clock.ended(&Ending::Failed);
        let first = clock.tick();
        assert_eq!((first.number, first.right, first.failed), (1, 2, 1));
        assert!((0.9..1.1).contains(&first.p50_ms) && (2.9..3.1).contains(&first.max_ms));
        assert_eq!(clock.tick(), Second { number: 2, ..Second::default() });
    }
}
