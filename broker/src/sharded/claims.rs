//! The claims of a worker at its home, and at a former home until no job waits for it there.
//!
//! Gateways learn a fraction of a second late that a worker has moved. Meanwhile they send jobs to
//! its former home, where no other worker may live. And a claim that waits at the former home must not
//! keep the worker from the jobs at its new one.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::homes::Homes;
use crate::{BrokerError, Claims, Delivery, roles::CLAIM_WAIT};

/// How long after a move gateways may still send jobs to the former home: until the worker has
/// announced that it left, and gateways have looked.
const KNOWN_AFTER: Duration = Duration::from_secs(2);
/// How long one claim at a former home waits. Short, because a worker that shuts down leaves the jobs
/// of such a claim to others.
const FORMER_WAIT: Duration = Duration::from_millis(100);
/// Pause between claims at a home that cannot be reached.
const RETRY: Duration = Duration::from_millis(100);

/// A claim that has begun at one shard. It is not cancel safe, and goes on when a call ends: a task of
/// its own, because a claim holds locks that settlements need, which must not wait for the next call.
struct Claiming {
    began: Instant,
    claim: AbortOnDropHandle<Result<Vec<Delivery>, BrokerError>>,
}

/// The claims of one worker.
pub(super) struct ShardedClaims {
    homes: Arc<Homes>,
    moves: watch::Receiver<usize>,
    home: usize,
    /// Former homes at which jobs may wait for this worker, and until when gateways may send more.
    former: Vec<(usize, Instant)>,
    /// The claim at each shard.
    begun: Vec<Option<Claiming>>,
    /// Jobs beyond the limit of the call that received them.
    kept: Vec<Delivery>,
}

impl ShardedClaims {
    pub(super) fn new(homes: &Arc<Homes>) -> Self {
        Self {
            moves: homes.moves(),
            home: homes.current(),
            former: Vec::new(),
            begun: homes.shards.all.iter().map(|_| None).collect(),
            kept: Vec::new(),
            homes: Arc::clone(homes),
        }
    }

    /// Notes whether the worker has moved.
    fn follow(&mut self) {
        let home = *self.moves.borrow_and_update();
        let before = std::mem::replace(&mut self.home, home);
        self.former.retain(|(former, _)| *former != home);
        if before != home && self.homes.shards.all[before].is_up() {
            self.former.push((before, Instant::now() + KNOWN_AFTER));
        }
    }

    /// Begins a claim at a shard, unless one has begun there.
    fn begin(&mut self, shard: usize, limit: usize, wait: Duration) {
        let homes = &self.homes;
        self.begun[shard].get_or_insert_with(|| {
            let homes = Arc::clone(homes);
            let claim = tokio::spawn(async move {
                let roles = homes.at(shard).await?;
                let mut claims = roles.claims.lock().await;
                let deliveries = claims.claim_within(limit, wait).await?;
                Ok(roles.hold(deliveries, shard))
            });
            Claiming { began: Instant::now(), claim: AbortOnDropHandle::new(claim) }
        });
    }

    /// Returns the deliveries up to the limit, and keeps the others for the next call.
    fn up_to(&mut self, limit: usize, mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
        self.kept = deliveries.split_off(limit.min(deliveries.len()));
        deliveries
    }

    /// Whether a former home need no longer be watched, after a claim there that began then.
    fn is_over(&self, shard: usize, began: Instant) -> bool {
        self.former.iter().all(|(former, until)| *former != shard || began >= *until)
    }
}

/// Waits for the end of a claim. Those at former homes come first, where no job must be left.
fn poll_claims(
    begun: &mut [Option<Claiming>],
    home: usize,
    context: &mut Context<'_>,
) -> Poll<(usize, Instant, Result<Vec<Delivery>, BrokerError>)> {
    let former = (0..begun.len()).filter(|shard| *shard != home);
    for shard in former.chain([home]) {
        let Some(claiming) = &mut begun[shard] else { continue };
        if let Poll::Ready(outcome) = Pin::new(&mut claiming.claim).poll(context) {
            let began = claiming.began;
            begun[shard] = None;
            // An error means that the claim panicked, or that the runtime is shutting down.
            let outcome = outcome.unwrap_or_else(|error| Err(BrokerError::refused(error)));
            return Poll::Ready((shard, began, outcome));
        }
    }
    Poll::Pending
}

#[async_trait]
impl Claims for ShardedClaims {
    async fn claim_within(
        &mut self,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, BrokerError> {
        let kept = std::mem::take(&mut self.kept);
        if !kept.is_empty() || limit == 0 {
            return Ok(self.up_to(limit, kept));
        }
        let until = Instant::now() + wait.min(CLAIM_WAIT);
        // A home that could not be reached, and when to claim there again.
        let (mut has_failed, mut retry) = (false, None);
        loop {
            self.follow();
            let now = Instant::now();
            for (former, _) in self.former.clone() {
                self.begin(former, limit, FORMER_WAIT);
            }
            if retry.is_none_or(|(shard, at)| shard != self.home || at <= now) {
                retry = None;
                self.begin(self.home, limit, until.saturating_duration_since(now));
            }
            let Self { begun, moves, home, .. } = self;
            let (shard, began, outcome) = tokio::select! {
                ended = poll_fn(|context| poll_claims(begun, *home, context)) => ended,
                // The sender lives as long as the homes.
                _ = moves.changed() => continue,
                () = sleep_until(retry.map_or(until, |(_, at)| at)), if retry.is_some() => continue,
            };
            match outcome {
                Ok(deliveries) if !deliveries.is_empty() => {
                    return Ok(self.up_to(limit, deliveries));
                }
                Ok(_) if shard == self.home => {
                    if Instant::now() >= until {
                        return Ok(Vec::new());
                    }
                }
                Ok(_) if !self.is_over(shard, began) => {}
                // The worker moves once its home has been away for a while. Until then no job can be
                // claimed, as if none waited.
                Err(error @ BrokerError::Unreachable(_)) if shard == self.home => {
                    if !self.homes.has_other(shard) {
                        return Err(error);
                    }
                    tracing::debug!(%error, "failed to claim jobs at home");
                    let now = Instant::now();
                    if has_failed && now >= until {
                        return Ok(Vec::new());
                    }
                    (has_failed, retry) = (true, Some((shard, now + RETRY)));
                }
                Err(error) if shard == self.home => return Err(error),
                // Gateways send the jobs of a shard that is away to others.
                Ok(_) | Err(_) => self.former.retain(|(former, _)| *former != shard),
            }
        }
    }
}
