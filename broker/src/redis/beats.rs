//! The beats of workers: when each last renewed its announcement, and which revision of it is the
//! last.
//!
//! Gateways look at all workers several times a second. An announcement has some KiB and seldom
//! changes; a beat has a few bytes. So gateways read the beats, or a summary of them, once a second, and
//! only those announcements whose revision is new to them. Between two reads they look at a counter
//! that changes when a worker comes or goes.

use std::collections::HashMap;

use crate::{QueueName, roles::LIVENESS};

/// The beats of the workers of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueBeats {
    pub(super) queue: QueueName,
    /// By worker.
    pub(super) of: HashMap<String, Beat>,
}

/// A worker's beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    /// Redis's clock at the last renewal, in milliseconds.
    pub(super) seen: u64,
    /// The revision of the worker's announcement.
    pub(super) revision: u64,
    /// Whether the worker announces itself for programs of earlier versions, too.
    pub(super) is_shared: bool,
    /// Whether the worker has left.
    pub(super) has_left: bool,
}

impl Beat {
    /// Whether the worker lives. `now` is Redis's clock in milliseconds. A beat from the future is
    /// junk, or the clock of another server: it proves no life.
    pub(super) fn is_live(self, now: u64) -> bool {
        let is_near = u128::from(self.seen.abs_diff(now)) < LIVENESS.as_millis();
        !self.has_left && is_near
    }

    /// When the worker counts as dead without another beat.
    pub(super) fn ends(self) -> u128 {
        u128::from(self.seen) + LIVENESS.as_millis()
    }

    /// The beat as Redis stores it: four numbers.
    pub(super) fn text(self) -> String {
        let Self { seen, revision, is_shared, has_left } = self;
        format!("{seen} {revision} {} {}", u8::from(is_shared), u8::from(has_left))
    }

    fn parse(text: &str) -> Option<Self> {
        let numbers: Option<Vec<u64>> = text.split(' ').map(|number| number.parse().ok()).collect();
        let [seen, revision, is_shared, has_left] = numbers?[..] else { return None };
        Some(Self { seen, revision, is_shared: is_shared != 0, has_left: has_left != 0 })
    }
}

/// The beats in a hash. Junk counts as no beat.
pub(super) fn parse(fields: HashMap<String, String>) -> HashMap<String, Beat> {
    let beat = |(worker, text): (String, String)| Some((worker, Beat::parse(&text)?));
    fields.into_iter().filter_map(beat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(seen: u64) -> Beat {
        Beat { seen, revision: 7, is_shared: true, has_left: false }
    }

    #[test]
    fn a_beat_is_read_as_it_was_written_and_junk_is_none() {
        for beat in [beat(1_764_460_000_123), Beat { has_left: true, is_shared: false, ..beat(0) }]
        {
            assert_eq!(Beat::parse(&beat.text()), Some(beat));
        }
        for junk in
            ["", "1", "1 2 1", "1 2 1 0 0", "1  2 1 0", "-1 2 1 0", "99999999999999999999 1 1 0"]
        {
            assert_eq!(Beat::parse(junk), None, "{junk}");
        }
    }

    #[test]
    fn a_worker_lives_for_the_liveness_period_after_its_beat() {
        assert!(beat(10_000).is_live(12_999) && !beat(10_000).is_live(13_000));
        assert!(beat(12_999).is_live(10_000) && !beat(13_000).is_live(10_000));
        assert!(!beat(u64::MAX).is_live(10_000), "junk does not live for ever");
        assert!(!Beat { has_left: true, ..beat(10_000) }.is_live(10_000));
    }
}
