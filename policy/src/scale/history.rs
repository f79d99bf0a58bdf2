//! Recent observations of a fleet.

use std::{collections::VecDeque, time::Duration};

/// Request counters of a fleet.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestCounts {
    /// Time of the reading, by any monotonic clock.
    pub at: Duration,
    /// Requests that arrived, including refused ones.
    pub offered: u64,
    /// Requests that were refused or answered after the latency target.
    pub missed: u64,
}

impl RequestCounts {
    /// Returns the requests offered and missed since `earlier`.
    fn since(&self, earlier: &Self) -> (f64, f64) {
        #[expect(clippy::cast_precision_loss, reason = "requests between two readings")]
        let count = |now: u64, then: u64| now.saturating_sub(then) as f64;
        (count(self.offered, earlier.offered), count(self.missed, earlier.missed))
    }
}

/// Recent readings of the counters, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct History(VecDeque<RequestCounts>);

impl History {
    /// Adds a reading and drops readings from before the `longest` window. After a gap longer than
    /// `largest_gap` or a counter reset, all earlier readings are dropped: the requests in between
    /// are unknown.
    pub(super) fn observe(
        &mut self,
        counts: RequestCounts,
        largest_gap: Duration,
        longest: Duration,
    ) {
        if let Some(last) = self.0.back() {
            if last.at == counts.at {
                return;
            }
            let follows = counts.at.checked_sub(last.at).is_some_and(|gap| gap <= largest_gap);
            if !follows || counts.offered < last.offered || counts.missed < last.missed {
                self.0.clear();
            }
        }
        self.0.push_back(counts);
        let start = counts.at.saturating_sub(longest);
        // Keep the latest reading before the window, because the window begins with this reading.
        while self.0.get(1).is_some_and(|second| second.at <= start) {
            self.0.pop_front();
        }
    }

    /// Returns the requests offered per second over a window, or over the known part of the window.
    pub(super) fn rate(&self, window: Duration) -> Option<f64> {
        let last = self.0.back()?;
        let start = last.at.checked_sub(window);
        let old_enough = |first: &&RequestCounts| start.is_some_and(|start| first.at <= start);
        let first = self.0.iter().rev().find(old_enough).or(self.0.front())?;
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        (seconds > 0.0).then(|| last.since(first).0 / seconds)
    }

    /// Returns the share of missed requests among the requests offered between the last two
    /// readings.
    pub(super) fn missed_share(&self) -> f64 {
        let mut latest = self.0.iter().rev();
        let (Some(last), Some(before)) = (latest.next(), latest.next()) else { return 0.0 };
        let (offered, missed) = last.since(before);
        if offered > 0.0 { missed / offered } else { 0.0 }
    }
}

/// The maximum over a sliding window.
#[derive(Clone, Debug, Default)]
pub(super) struct Peaks(VecDeque<(Duration, u32)>);

impl Peaks {
    /// Adds a number, and returns the largest number that is not older than `window`.
    pub(super) fn observe(&mut self, now: Duration, number: u32, window: Duration) -> u32 {
        // Drop earlier numbers that are not larger: they cannot become the maximum again. The first
        // number is then the largest.
        while self.0.back().is_some_and(|&(_, last)| last <= number) {
            self.0.pop_back();
        }
        self.0.push_back((now, number));
        while self.0.front().is_some_and(|&(at, _)| now.saturating_sub(at) > window) {
            self.0.pop_front();
        }
        self.0.front().map_or(number, |&(_, largest)| largest)
    }
}
