//! The journal of a load: when each request was due, sent and answered, and how.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

pub(crate) use batchfleet_loadgen::{Ending, Entry};
use batchfleet_loadgen::{Refusal, Report};

/// All requests of a load that has ended.
pub(crate) struct LoadJournal {
    pub(crate) report: Report,
    /// The number that identifies this load in the run log.
    pub(crate) nonce: u128,
    /// The time over which requests were due: from the start of the load until it was stopped.
    pub(crate) lasted: Duration,
}

/// A part of a load, as times since its start.
pub(crate) type TimeWindow = std::ops::Range<Duration>;

impl LoadJournal {
    pub(crate) fn new(report: Report, nonce: u128, stopped: SystemTime) -> Self {
        let lasted = stopped.duration_since(report.began).unwrap_or_default();
        Self { report, nonce, lasted }
    }

    /// All requests.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.report.journal
    }

    /// Converts a moment to the time since the start of the load.
    pub(crate) fn at(&self, moment: SystemTime) -> Duration {
        moment.duration_since(self.report.began).unwrap_or_default()
    }

    /// Requests due in this window.
    pub(crate) fn due_in(&self, window: TimeWindow) -> impl Iterator<Item = &Entry> {
        self.entries().iter().filter(move |entry| window.contains(&entry.due))
    }

    /// Counts of refused requests, by status and code.
    pub(crate) fn refusals(&self) -> BTreeMap<String, u64> {
        let mut refusals = BTreeMap::new();
        for entry in self.entries() {
            if let Ending::Refused(Refusal { status, code, .. }) = &entry.ending {
                *refusals.entry(format!("{status} {code}")).or_default() += 1;
            }
        }
        refusals
    }

    /// The number of requests for which `is` holds.
    pub(crate) fn count(&self, is: impl Fn(&Entry) -> bool) -> u64 {
        self.entries().iter().filter(|entry| is(entry)).count() as u64
    }

    /// The longest latency of a right answer.
    pub(crate) fn longest(&self) -> Duration {
        let right = self.entries().iter().filter(|entry| entry.ending == Ending::Right);
        right.map(latency).max().unwrap_or_default()
    }

    /// The time from a moment to the first right answer after it.
    pub(crate) fn first_right_after(&self, moment: Duration) -> Option<Duration> {
        let right = self.entries().iter().filter(|entry| entry.ending == Ending::Right);
        let later = right.map(|entry| entry.done).filter(|done| *done > moment).min()?;
        Some(later.saturating_sub(moment))
    }

    /// Right answers per second that arrived in this window.
    pub(crate) fn goodput(&self, window: TimeWindow) -> f64 {
        let right = self.count(|e| e.ending == Ending::Right && window.contains(&e.done));
        let seconds = window.end.saturating_sub(window.start).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 answers")]
        if seconds > 0.0 { right as f64 / seconds } else { 0.0 }
    }
}

/// The time from a request's due time to its end.
pub(crate) fn latency(entry: &Entry) -> Duration {
    entry.done.saturating_sub(entry.due)
}

/// The time from sending a request to its end.
pub(crate) fn wait(entry: &Entry) -> Duration {
    entry.done.saturating_sub(entry.sent)
}

/// Whether the request got its right answer.
pub(crate) fn is_right(entry: &Entry) -> bool {
    entry.ending == Ending::Right
}

/// The status of the answer, if it is not 200.
pub(crate) fn status(entry: &Entry) -> Option<u16> {
    match &entry.ending {
        Ending::Refused(refusal) => Some(refusal.status),
        _ => None,
    }
}

/// The duration that `share` of the durations do not exceed; 0 if there are none.
pub(crate) fn quantile(durations: impl Iterator<Item = Duration>, share: f64) -> Duration {
    let mut sorted: Vec<_> = durations.collect();
    sorted.sort_unstable();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a list"
    )]
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_duration_that_its_share_does_not_exceed() {
        let upto = |n: u64| (1..=n).map(Duration::from_millis);
        assert_eq!(quantile(upto(100), 0.99), Duration::from_millis(99));
        assert_eq!(quantile(upto(100), 0.5), Duration::from_millis(50));
        assert_eq!(quantile(upto(1), 0.99), Duration::from_millis(1));
        assert_eq!(quantile(upto(0), 0.99), Duration::ZERO);
    }
}
