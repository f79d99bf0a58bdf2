//! Determines when the batch target of a fleet must be published. Pure.

use std::time::Duration;

use batchfleet_broker::{ObservedWorker, Wish};

/// If a worker still announces an older target after this time, Redis has lost the published
/// target.
const LOST: Duration = Duration::from_secs(15);

/// The last published batch target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PublishedTarget {
    pub(crate) wish: Wish,
    pub(crate) epoch: u64,
    pub(crate) at: Duration,
}

/// Returns whether `wish` must be published at `now`: it is new or changed, or Redis has lost it.
pub(crate) fn is_due(
    published: Option<PublishedTarget>,
    wish: Wish,
    workers: &[ObservedWorker],
    now: Duration,
) -> bool {
    let Some(published) = published else { return true };
    let living = workers.iter().filter(|worker| worker.live);
    let mut adopted = living.filter_map(|worker| worker.announcement.batching.as_ref());
    let is_behind = adopted.any(|batching| batching.epoch < published.epoch);
    published.wish != wish || is_behind && now.saturating_sub(published.at) >= LOST
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{Announcement, BatchWish, Batching, QueueName};

    use super::*;
    use crate::sample;

    fn at_epoch(epoch: u64) -> ObservedWorker {
        let batching = Some(Batching { epoch, ..Batching::default() });
        let announcement = sample::unmeasured(1, QueueName::new("m", 1));
        ObservedWorker::live(Announcement { batching, ..announcement })
    }

    #[test]
    fn a_target_is_published_once_and_again_when_it_changes_or_is_lost() {
        let wish = Wish { batch: BatchWish::Auto, slo_ms: Some(100.0) };
        let published = Some(PublishedTarget { wish, epoch: 7, at: Duration::from_secs(10) });
        let (soon, later) = (Duration::from_secs(20), Duration::from_secs(25));
        assert!(is_due(None, wish, &[], soon));
        assert!(!is_due(published, wish, &[at_epoch(7)], later));
        assert!(!is_due(published, wish, &[at_epoch(6)], soon));
        assert!(is_due(published, wish, &[at_epoch(7), at_epoch(0)], later));
        assert!(is_due(published, Wish { slo_ms: Some(50.0), ..wish }, &[at_epoch(7)], soon));
    }
}
