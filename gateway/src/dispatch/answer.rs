//! Matches replies with waiting requests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use batchfleet_broker::{Failure, Inbound, Producer, Replies, Reply, ReplyError};
use tokio::{sync::Notify, time::Instant};
use tracing::{error, warn};

use super::caller::SharedLedger;
use crate::{ledger::Resolution, metrics::GatewayMetrics};

/// Time after a reply during which the queue counts as reachable. After an outage, replies may
/// arrive before jobs can be submitted again, and callers send their next requests immediately.
const RECENT: Duration = Duration::from_secs(1);

/// Matches replies with the requests in the ledger.
pub(super) struct Resolver {
    producer: Arc<dyn Producer>,
    ledger: SharedLedger,
    metrics: GatewayMetrics,
    started: Instant,
    /// Time of the last reply, in milliseconds since `started`.
    last: AtomicU64,
}

impl Resolver {
    pub(super) fn new(
        producer: Arc<dyn Producer>,
        ledger: SharedLedger,
        metrics: GatewayMetrics,
    ) -> Self {
        Self { producer, ledger, metrics, started: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Whether jobs can be submitted, or a reply arrived within the last second.
    pub(super) fn is_reachable(&self) -> bool {
        let last = || Duration::from_millis(self.last.load(Relaxed));
        self.producer.is_ready() || self.started.elapsed() < last() + RECENT
    }

    /// Sends a reply to the caller of its request.
    pub(super) fn resolve(&self, mut reply: Reply) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Relaxed);
        if let Err(ReplyError {
            failure: failure @ (Failure::Unawaited | Failure::Unfetched),
            ..
        }) = reply.outcome
        {
            self.dropped(&reply, failure);
            return;
        }
        let resolution = self.ledger.lock().resolve(&mut reply);
        let delivered = match resolution {
            Resolution::Deliver(caller) => {
                caller.model.books.ran(caller.rows, &reply.timing);
                caller.model.note_outputs(&reply);
                caller.address.send(Ok(reply))
            }
            Resolution::Unclaimed => false,
            Resolution::Incomplete => {
                self.dropped(&reply, Failure::Unfetched);
                true
            }
            // Dropping the caller's address ends the caller's wait.
            Resolution::Misrouted(_) => {
                error!(request = %reply.id, "dropped reply: computed from another input");
                self.metrics.misrouted.inc();
                true
            }
        };
        if !delivered {
            self.metrics.unclaimed_replies.inc();
        }
    }

    /// Has the sweep resubmit a job that did not run. If the worker could not fetch its inputs, the
    /// inputs of the model's next jobs are not offered.
    fn dropped(&self, reply: &Reply, failure: Failure) {
        let mut ledger = self.ledger.lock();
        let waits = ledger.dropped(reply.id, reply.attempt, Instant::now());
        // A worker also finds nothing to fetch after the request has ended.
        if let (Some(caller), Failure::Unfetched) = (waits, failure) {
            self.metrics.tensors.unfetched.inc();
            caller.model.pause_offers();
        }
    }
}

/// Task: receives replies and resolves their requests. `interrupted` is notified when the queue may
/// have lost jobs or replies.
pub(super) async fn receive(
    mut inbox: Box<dyn Replies>,
    resolver: Arc<Resolver>,
    interrupted: Arc<Notify>,
) {
    loop {
        match inbox.receive().await {
            Inbound::Replies(batch) => batch.into_iter().for_each(|reply| resolver.resolve(reply)),
            Inbound::Interrupted(_) => {
                warn!("queue interrupted; looking for jobs that it may have lost");
                resolver.metrics.interruptions.inc();
                interrupted.notify_one();
            }
        }
    }
}
