//! When a fleet's workers must be told what to go by: once, when it changes, and when they forgot.

use std::time::Duration;

use batchfleet_broker::{ObservedWorker, Wish};

/// Workers that go by something older for so long never heard of it: Redis lost it.
const FORGOTTEN: Duration = Duration::from_secs(15);

/// What was told last, its epoch, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) wish: Wish,
    pub(crate) epoch: u64,
    pub(crate) at: Duration,
}

/// Whether `wish` must be told at `now`.
pub(crate) fn is_due(
    told: Option<Told>,
    wish: Wish,
    words: &[ObservedWorker],
    now: Duration,
) -> bool {
    let Some(told) = told else { return true };
    let living = words.iter().filter(|word| word.live);
    let epochs = living.filter_map(|word| word.announcement.batching.as_ref());
    let behind = epochs.map(|said| said.epoch).any(|epoch| epoch < told.epoch);
    told.wish != wish || behind && now.saturating_sub(told.at) >= FORGOTTEN
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{Announcement, BatchWish, Batching, QueueName};

    use super::*;
    use crate::sample;

    fn at_epoch(epoch: u64) -> ObservedWorker {
        let batching = Some(Batching { epoch, ..Batching::default() });
        let announcement = sample::word(1, QueueName::new("m", 1));
        ObservedWorker::live(Announcement { batching, ..announcement })
    }

    #[test]
    fn workers_are_told_once_and_again_when_it_changes_or_they_forgot() {
        let wish = Wish { batch: BatchWish::Auto, slo_ms: Some(100.0) };
        let told = Some(Told { wish, epoch: 7, at: Duration::from_secs(10) });
        let (soon, later) = (Duration::from_secs(20), Duration::from_secs(25));
        assert!(is_due(None, wish, &[], soon));
        assert!(!is_due(told, wish, &[at_epoch(7)], later));
        assert!(!is_due(told, wish, &[at_epoch(6)], soon));
        assert!(is_due(told, wish, &[at_epoch(7), at_epoch(0)], later));
        assert!(is_due(told, Wish { slo_ms: Some(50.0), ..wish }, &[at_epoch(7)], soon));
    }
}
