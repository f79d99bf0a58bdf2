//! What was seen before.

use std::{collections::VecDeque, time::Duration};

/// What a fleet has counted since ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// When, by any clock that only goes forward.
    pub at: Duration,
    /// Requests that were asked, refused ones included.
    pub offered: u64,
    /// Requests that were refused, or answered too late.
    pub missed: u64,
}

impl Counts {
    /// What was counted from `earlier` to this look: offered and missed.
    fn since(&self, earlier: &Self) -> (f64, f64) {
        #[expect(clippy::cast_precision_loss, reason = "counts between two looks")]
        let count = |now: u64, then: u64| now.saturating_sub(then) as f64;
        (count(self.offered, earlier.offered), count(self.missed, earlier.missed))
    }
}

/// The looks of the last while, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct History(VecDeque<Counts>);

impl History {
    /// Takes in a look. Forgets what is older than the `longest` window, and all after a gap longer
    /// than `largest_gap` or a count that went back: what came in between is unknown.
    pub(super) fn observe(&mut self, counts: Counts, largest_gap: Duration, longest: Duration) {
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
        // The youngest that is old enough stays: the window begins with it.
        while self.0.get(1).is_some_and(|second| second.at <= start) {
            self.0.pop_front();
        }
    }

    /// Requests offered per second over a window, or over what is known of it.
    pub(super) fn rate(&self, window: Duration) -> Option<f64> {
        let last = self.0.back()?;
        let start = last.at.checked_sub(window);
        let old_enough = |first: &&Counts| start.is_some_and(|start| first.at <= start);
        let first = self.0.iter().rev().find(old_enough).or(self.0.front())?;
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        (seconds > 0.0).then(|| last.since(first).0 / seconds)
    }

    /// The share of the requests offered between the last two looks that were missed.
    pub(super) fn missed_share(&self) -> f64 {
        let mut latest = self.0.iter().rev();
        let (Some(last), Some(before)) = (latest.next(), latest.next()) else { return 0.0 };
        let (offered, missed) = last.since(before);
        if offered > 0.0 { missed / offered } else { 0.0 }
    }
}

/// The largest of the numbers of a while.
#[derive(Clone, Debug, Default)]
pub(super) struct Peaks(VecDeque<(Duration, u32)>);

impl Peaks {
    /// Takes in a number; the largest of those not older than `window`.
    pub(super) fn observe(&mut self, now: Duration, number: u32, window: Duration) -> u32 {
        // What is not larger than a later one never counts again, so the first is the largest.
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
