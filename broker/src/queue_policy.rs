//! How long requests of a model may wait, and how many, as the model's config demands.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Priority;

/// The limits of each class, indexed by [`Priority::code`]. The default limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePolicy {
    /// The limits by class.
    pub classes: [QueueLimits; Priority::ALL.len()],
}

/// The limits of requests of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueLimits {
    /// Microseconds from the arrival of a request to its answer. `None` leaves the time to the
    /// gateway.
    pub timeout_us: Option<u64>,
    /// Whether a request may set a time that is shorter than `timeout_us`.
    pub may_shorten: bool,
    /// The maximum number of requests that wait for a worker.
    pub max_waiting: Option<u32>,
}

impl QueuePolicy {
    /// The limits of a class.
    pub fn of(&self, class: Priority) -> QueueLimits {
        self.classes.get(usize::from(class.code())).copied().unwrap_or_default()
    }
}

impl QueueLimits {
    /// The time from the arrival to the answer of a request that asks for the time `wish`. The
    /// gateway grants `default` to requests without a wish, and `most` to any request.
    pub fn time(&self, wish: Option<Duration>, default: Duration, most: Duration) -> Duration {
        let time = match self.timeout_us.map(Duration::from_micros) {
            None => return wish.map_or(default, |wish| wish.min(most)),
            Some(time) => time.min(most),
        };
        wish.filter(|_| self.may_shorten).map_or(time, |wish| wish.min(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gets_the_time_of_its_model_or_a_shorter_one() {
        const DEFAULT: Duration = Duration::from_secs(30);
        const MOST: Duration = Duration::from_mins(1);
        let seconds = Duration::from_secs;
        let limits = |timeout: Option<u64>, may_shorten| QueueLimits {
            timeout_us: timeout.map(|seconds| seconds * 1_000_000),
            may_shorten,
            max_waiting: None,
        };
        for (limits, wish, expected) in [
            (limits(None, false), None, 30),
            (limits(None, false), Some(5), 5),
            (limits(None, false), Some(90), 60),
            (limits(Some(10), false), None, 10),
            (limits(Some(10), false), Some(5), 10),
            (limits(Some(10), true), Some(5), 5),
            (limits(Some(10), true), Some(20), 10),
            (limits(Some(90), false), None, 60),
        ] {
            let time = limits.time(wish.map(seconds), DEFAULT, MOST);
            assert_eq!(time, seconds(expected), "{limits:?} {wish:?}");
        }
    }

    #[test]
    fn each_class_has_its_limits() {
        let strict = QueueLimits { max_waiting: Some(1), ..QueueLimits::default() };
        let mut policy = QueuePolicy::default();
        policy.classes[2] = strict;
        assert_eq!(policy.of(Priority::Sheddable), strict);
        assert_eq!(policy.of(Priority::Critical), QueueLimits::default());
    }
}
