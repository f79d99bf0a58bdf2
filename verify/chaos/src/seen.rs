//! What the users of a load saw, request by request.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

pub(crate) use batchfleet_loadgen::{Ending, Entry};
use batchfleet_loadgen::{Refusal, Report};

/// The journal of a load.
pub(crate) struct Seen {
    pub(crate) report: Report,
    /// What its requests begin with.
    pub(crate) nonce: u128,
    /// How long it lasted, until no more requests fell due.
    pub(crate) lasted: Duration,
}

/// A stretch of a run, in time since its start.
pub(crate) type Window = std::ops::Range<Duration>;

impl Seen {
    pub(crate) fn new(report: Report, nonce: u128, stopped: SystemTime) -> Self {
        let lasted = stopped.duration_since(report.began).unwrap_or_default();
        Self { report, nonce, lasted }
    }

    /// All requests.
    pub(crate) fn journal(&self) -> &[Entry] {
        &self.report.journal
    }

    /// A moment, as time since the start of this run.
    pub(crate) fn at(&self, moment: SystemTime) -> Duration {
        moment.duration_since(self.report.began).unwrap_or_default()
    }

    /// Requests that fell due in this window.
    pub(crate) fn due_in(&self, window: Window) -> impl Iterator<Item = &Entry> {
        self.journal().iter().filter(move |entry| window.contains(&entry.due))
    }

    /// How many requests were refused, by status and code.
    pub(crate) fn refusals(&self) -> BTreeMap<String, u64> {
        let mut refusals = BTreeMap::new();
        for entry in self.journal() {
            if let Ending::Refused(Refusal { status, code, .. }) = &entry.ending {
                *refusals.entry(format!("{status} {code}")).or_default() += 1;
            }
        }
        refusals
    }

    /// How many requests are so.
    pub(crate) fn count(&self, is: impl Fn(&Entry) -> bool) -> u64 {
        self.journal().iter().filter(|entry| is(entry)).count() as u64
    }

    /// The longest wait for a right answer.
    pub(crate) fn longest(&self) -> Duration {
        let right = self.journal().iter().filter(|entry| entry.ending == Ending::Right);
        right.map(latency).max().unwrap_or_default()
    }

    /// When the first right answer came after a moment: how long after it.
    pub(crate) fn first_right_after(&self, moment: Duration) -> Option<Duration> {
        let right = self.journal().iter().filter(|entry| entry.ending == Ending::Right);
        let later = right.map(|entry| entry.done).filter(|done| *done > moment).min()?;
        Some(later.saturating_sub(moment))
    }

    /// Right answers per second of those that ended in this window.
    pub(crate) fn goodput(&self, window: Window) -> f64 {
        let right = self.count(|e| e.ending == Ending::Right && window.contains(&e.done));
        let seconds = window.end.saturating_sub(window.start).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 answers")]
        if seconds > 0.0 { right as f64 / seconds } else { 0.0 }
    }
}

/// How long a request took, from when it was due.
pub(crate) fn latency(entry: &Entry) -> Duration {
    entry.done.saturating_sub(entry.due)
}

/// How long it took from when it was sent.
pub(crate) fn wait(entry: &Entry) -> Duration {
    entry.done.saturating_sub(entry.sent)
}

/// Whether it was answered right.
pub(crate) fn is_right(entry: &Entry) -> bool {
    entry.ending == Ending::Right
}

/// Its status, if it was answered otherwise than with 200.
pub(crate) fn status(entry: &Entry) -> Option<u16> {
    match &entry.ending {
        Ending::Refused(refusal) => Some(refusal.status),
        _ => None,
    }
}

/// The duration that this share of them does not exceed; nothing if there are none.
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
    fn a_quantile_is_what_the_share_does_not_exceed() {
        let upto = |n: u64| (1..=n).map(Duration::from_millis);
        assert_eq!(quantile(upto(100), 0.99), Duration::from_millis(99));
        assert_eq!(quantile(upto(100), 0.5), Duration::from_millis(50));
        assert_eq!(quantile(upto(1), 0.99), Duration::from_millis(1));
        assert_eq!(quantile(upto(0), 0.99), Duration::ZERO);
    }
}
