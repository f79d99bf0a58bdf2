//! What is asked of the fleet at this gateway: what the controller reckons its size from.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use batchfleet_broker::{QueueName, Traffic};
use strum::IntoEnumIterator;

use crate::{
    demand::Counts,
    metrics::{Outcome, SECONDS},
    refusal::{Blame, Refusal},
};

/// Running counts of one version of a model.
#[derive(Debug, Default)]
pub(crate) struct Load {
    accepted: AtomicU64,
    refused: AtomicU64,
    /// Requests that came for it, and those of them that named the version.
    asked: AtomicU64,
    named: AtomicU64,
    cancelled: AtomicU64,
    /// By how long they took; the last are those beyond all bounds.
    answered: [AtomicU64; SECONDS.len() + 1],
}

impl Load {
    pub(crate) fn asked(&self, by_version: bool) {
        self.asked.fetch_add(1, Relaxed);
        if by_version {
            self.named.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self, reason: &str) {
        let is_capacity = |refusal: Refusal| refusal.blame() == Blame::Capacity;
        if Refusal::iter().any(|refusal| refusal.code() == reason && is_capacity(refusal)) {
            self.refused.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn ended(&self, outcome: Outcome, seconds: f64) {
        if outcome == Outcome::Cancelled {
            self.cancelled.fetch_add(1, Relaxed);
            return;
        }
        let bucket = SECONDS.partition_point(|&bound| bound < seconds);
        self.answered[bucket].fetch_add(1, Relaxed);
    }

    /// Accepted and not ended.
    pub(crate) fn in_flight(&self) -> u64 {
        let answered: u64 = self.answered.iter().map(|count| count.load(Relaxed)).sum();
        let ended = answered + self.cancelled.load(Relaxed);
        self.accepted.load(Relaxed).saturating_sub(ended)
    }

    /// The counts as they are now, and what is `queued` by all gateways.
    pub(crate) fn counts(&self, queued: u64) -> Counts {
        Counts {
            queued,
            accepted: self.accepted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            asked: self.asked.load(Relaxed),
            named: self.named.load(Relaxed),
        }
    }

    /// What is told of them to others.
    pub(crate) fn traffic(&self, queue: &QueueName, rows_per_request: f64) -> Traffic {
        // Read from the end of a request's way to its beginning, so that none has ended that was
        // not offered.
        let answered = self.answered.each_ref().map(|count| count.load(Relaxed));
        let refused = self.refused.load(Relaxed);
        Traffic {
            queue: queue.clone(),
            offered: self.accepted.load(Relaxed) + refused,
            refused,
            rows_per_request,
            answered: answered.iter().sum(),
            seconds: SECONDS.into_iter().zip(answered).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use batchfleet_oip::Problem;

    use crate::error::InferError;

    #[test]
    fn the_fleets_load_is_what_it_took_and_what_it_had_no_room_for() {
        let load = Load::default();
        load.accepted();
        for error in [
            InferError::QueueWait(Duration::ZERO),
            InferError::NoWorkers(String::new()),
            InferError::InFlight,
            InferError::QueueFull,
            InferError::BodyBytes,
        ] {
            load.refused(error.code());
        }
        for error in [
            InferError::Quota(Duration::ZERO),
            InferError::Draining,
            InferError::QueueUnreachable,
            InferError::Problem(Problem::model_not_found(String::new())),
        ] {
            load.refused(error.code());
        }
        let traffic = load.traffic(&QueueName::new("m", 1), 1.0);
        assert_eq!((traffic.offered, traffic.refused), (6, 5));
    }

    #[test]
    fn answers_are_counted_by_how_long_they_took() {
        let load = Load::default();
        for seconds in [0.05, 0.051, 31.0] {
            load.ended(Outcome::Ok, seconds);
        }
        load.ended(Outcome::Cancelled, 0.05);
        let traffic = load.traffic(&QueueName::new("m", 1), 1.0);
        assert_eq!(traffic.answered, 3);
        let counted: Vec<_> = traffic.seconds.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(0.05, 1), (0.075, 1)]);
    }
}
