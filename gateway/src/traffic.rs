//! Traffic of one model version at this gateway, by which the controller sizes the fleet.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use batchfleet_broker::{QueueName, Traffic};

use crate::{
    demand::DemandCounts,
    outcome::RequestOutcome,
    refusal::{Blame, RefusalKind},
};

/// Upper bounds of latency buckets, from half a millisecond to half a minute, in seconds.
pub(crate) const SECONDS: [f64; 20] = [
    0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Running counts of the requests for one model version.
#[derive(Debug, Default)]
pub(crate) struct TrafficCounts {
    /// Requests routed to this version, including refused requests.
    offered: AtomicU64,
    /// Requests that named this version.
    named: AtomicU64,
    accepted: AtomicU64,
    /// Requests refused because the fleet is too small.
    refused: AtomicU64,
    /// Accepted requests that have not ended.
    in_flight: AtomicI64,
    /// Ended requests by latency, without cancelled requests; the last bucket has no upper bound.
    answered: [AtomicU64; SECONDS.len() + 1],
}

impl TrafficCounts {
    /// Counts a request routed to this version; `named` if the request named the version.
    pub(crate) fn offered(&self, named: bool) {
        self.offered.fetch_add(1, Relaxed);
        if named {
            self.named.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// Counts a refusal if more workers would have answered the request.
    pub(crate) fn refused(&self, refusal: Option<RefusalKind>) {
        if refusal.map(RefusalKind::blame) == Some(Blame::Capacity) {
            self.refused.fetch_add(1, Relaxed);
        }
    }

    /// Counts the end of an accepted request, `seconds` after its arrival.
    pub(crate) fn ended(&self, outcome: RequestOutcome, seconds: f64) {
        self.in_flight.fetch_sub(1, Relaxed);
        if outcome != RequestOutcome::Cancelled {
            let bucket = SECONDS.partition_point(|&bound| bound < seconds);
            self.answered[bucket].fetch_add(1, Relaxed);
        }
    }

    /// Accepted requests that have not ended.
    pub(crate) fn in_flight(&self) -> i64 {
        self.in_flight.load(Relaxed)
    }

    /// The current counts; `queued` is the number of jobs put into the queue by all gateways.
    pub(crate) fn counts(&self, queued: u64) -> DemandCounts {
        DemandCounts {
            queued,
            accepted: self.accepted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            offered: self.offered.load(Relaxed),
            named: self.named.load(Relaxed),
        }
    }

    /// The traffic report of this gateway.
    pub(crate) fn report(&self, queue: &QueueName, rows_per_request: f64) -> Traffic {
        // Read the counts of later stages first, so that no report has more answered than offered
        // requests.
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

    use batchfleet_oip::Problem;

    use super::*;
    use crate::error::InferError;

    #[test]
    fn offered_traffic_is_what_was_accepted_and_what_more_workers_would_have_answered() {
        let traffic = TrafficCounts::default();
        traffic.accepted();
        for error in [
            InferError::QueueWait(Duration::ZERO),
            InferError::NoWorkers(String::new()),
            InferError::InFlight,
            InferError::QueueFull,
            InferError::BodyBytes,
        ] {
            traffic.refused(error.refusal());
        }
        for error in [
            InferError::Quota(Duration::ZERO),
            InferError::Draining,
            InferError::QueueUnreachable,
            InferError::Problem(Problem::model_not_found(String::new())),
        ] {
            traffic.refused(error.refusal());
        }
        let traffic = traffic.report(&QueueName::new("m", 1), 1.0);
        assert_eq!((traffic.offered, traffic.refused), (6, 5));
    }

    #[test]
    fn answers_are_counted_by_their_latency() {
        let traffic = TrafficCounts::default();
        for seconds in [0.05, 0.051, 31.0] {
            traffic.ended(RequestOutcome::Ok, seconds);
        }
        traffic.ended(RequestOutcome::Cancelled, 0.05);
        let traffic = traffic.report(&QueueName::new("m", 1), 1.0);
        assert_eq!(traffic.answered, 3);
        let counted: Vec<_> = traffic.seconds.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(0.05, 1), (0.075, 1)]);
    }
}
