//! Fills a claim from the streams of all classes.
//!
//! Redis cannot divide one read by weight, because `COUNT` applies to each stream of the read. A
//! claim therefore first takes the waiting jobs, with one read per class. If no job is waiting, the
//! claim blocks on all streams together, with `limit` divided by the number of classes as the
//! count. While a single class is in use, a claim is a single read.
//!
//! Each read also queries which gateways are subscribed, because jobs of an unsubscribed gateway
//! need not run.

use std::{array, mem, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::RedisError;

use super::{
    classes::{ClassUse, PerClass},
    errors::{broker_error, lost_group},
    held::HeldEntries,
    listeners::Listeners,
    queue::WorkerQueue,
    reader::{OpenClaim, ReadCounts, ReadResult, Reader},
    settle, strays,
};
use crate::{BrokerError, Claims, Delivery, Priority, roles::LIVENESS, share::share};

/// The claims of one worker, and the state kept between claims.
pub(super) struct RedisClaims {
    queue: Arc<WorkerQueue>,
    held: Arc<HeldEntries>,
    reader: Reader,
    listeners: Listeners,
    classes: ClassUse,
    /// The number of claims so far.
    turn: usize,
    /// Whether no job was waiting at the last read.
    is_drained: bool,
}

impl RedisClaims {
    pub(super) fn new(queue: Arc<WorkerQueue>, held: Arc<HeldEntries>) -> Self {
        let listeners = Listeners::new(queue.keys());
        Self {
            queue,
            held,
            reader: Reader::default(),
            listeners,
            classes: ClassUse::default(),
            turn: 0,
            is_drained: false,
        }
    }

    /// Reads until the claim is full or no job is waiting. If the claim is still empty, waits for
    /// jobs for up to `wait`. After a read that left nothing, usually waits at once: jobs that have
    /// come since end the wait.
    async fn fill(
        &mut self,
        open: &mut OpenClaim,
        limit: usize,
        wait: Duration,
    ) -> Result<(), RedisError> {
        self.turn = self.turn.wrapping_add(1);
        // A blocking read does not share by weight, and takes at least one job of each class.
        let is_shared = match self.classes.in_use() {
            0 => limit < Priority::ALL.len(),
            in_use => in_use > 1,
        };
        if !mem::take(&mut self.is_drained) || is_shared {
            // Upper bounds: other workers may have claimed entries of the streams.
            let waiting = match self.classes.only() {
                Some(class) => array::from_fn(|each| if each == class { limit } else { 0 }),
                // A read with all counts 0 only returns the lengths of the streams.
                None => self.read(open, ReadCounts::Now([0; Priority::ALL.len()])).await?.left,
            };
            self.take_waiting(open, limit, waiting).await?;
        }
        if open.entries.is_empty() {
            let each = (limit / Priority::ALL.len()).max(1);
            let ReadResult { read, left } = self.read(open, ReadCounts::Wait(each, wait)).await?;
            if !self.is_drained {
                let full = |class: usize| read[class] == each;
                let waiting = array::from_fn(|class| if full(class) { left[class] } else { 0 });
                self.take_waiting(open, limit, waiting).await?;
            }
        }
        Ok(())
    }

    /// Reads until the claim is full or no job is waiting. `waiting` has at least as many jobs of each
    /// class as wait.
    async fn take_waiting(
        &mut self,
        open: &mut OpenClaim,
        limit: usize,
        mut waiting: PerClass<usize>,
    ) -> Result<(), RedisError> {
        let mut exhausted = [false; Priority::ALL.len()];
        while open.entries.len() < limit {
            let wanted = share(limit - open.entries.len(), waiting, self.turn);
            if wanted.iter().sum::<usize>() == 0 {
                break;
            }
            let ReadResult { read, left } = self.read(open, ReadCounts::Now(wanted)).await?;
            // A class that returned fewer entries than requested has no more waiting jobs.
            for class in 0..waiting.len() {
                exhausted[class] |= read[class] < wanted[class];
                waiting[class] = if exhausted[class] { 0 } else { left[class] };
            }
        }
        Ok(())
    }

    async fn read(
        &mut self,
        open: &mut OpenClaim,
        counts: ReadCounts,
    ) -> Result<ReadResult, RedisError> {
        let found = open.read(&self.queue, &self.listeners, counts).await?;
        for (class, left) in found.left.iter().enumerate() {
            if *left > 0 {
                self.classes.seen(class);
            }
        }
        // Held jobs stay in their streams. Those of other workers look as if they waited, which costs
        // one more read.
        let held = self.held.lock().await.len() + open.entries.len();
        self.is_drained = found.left.iter().sum::<usize>() <= held;
        Ok(found)
    }

    /// Keeps the connection of a claim if it still works, and recreates a lost queue.
    async fn conclude(
        &mut self,
        open: &OpenClaim,
        filled: Result<(), RedisError>,
    ) -> Result<(), BrokerError> {
        match filled {
            Err(error) if lost_group(&error) => {
                tracing::warn!(queue = %self.queue.name(), "queue was lost, creating it again");
                self.reader.put_back(open.connection.clone());
                self.queue.create_groups().await
            }
            Err(error) => Err(broker_error(error)),
            Ok(()) => {
                self.reader.put_back(open.connection.clone());
                Ok(())
            }
        }
    }

    /// Hands back the jobs beyond `limit`. A blocking read can return too many jobs if `limit` is
    /// less than the number of classes, and jobs of several classes arrive together. The queue was
    /// empty just before, so the end of the queue is also near its front.
    async fn hand_back_excess(&self, deliveries: &mut Vec<Delivery>, limit: usize) {
        if deliveries.len() > limit {
            let excess = deliveries.split_off(limit);
            if let Err(error) = settle::hand_back(&self.queue, &self.held, excess).await {
                // The jobs are strays now, unless they are back in the queue.
                let queue = self.queue.name();
                tracing::warn!(%queue, %error, "failed to hand back excess jobs");
            }
        }
    }
}

#[async_trait]
impl Claims for RedisClaims {
    async fn claim_within(
        &mut self,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, BrokerError> {
        if limit == 0 {
            // Redis treats a count of 0 as no limit.
            return Ok(Vec::new());
        }
        let queue = Arc::clone(&self.queue);
        let limit = queue.transfers().jobs(limit);
        if self.reader.check(queue.connections()) || self.held.may_have_strays() {
            queue.remove_doubtful().await?;
            let strays = strays::take(&queue, &self.held, limit).await?;
            if !strays.is_empty() {
                return Ok(strays);
            }
        }
        let mut open = OpenClaim::new(self.reader.take(queue.connections()).await?);
        let filled = self.fill(&mut open, limit, wait).await;
        if let Err(error) = self.conclude(&open, filled).await {
            if open.entries.is_empty() {
                return Err(error);
            }
            // Claimed jobs must be returned, even if a later read failed.
            tracing::warn!(queue = %queue.name(), %error, "claim ended early");
        }
        let OpenClaim { mut entries, clock, unsubscribed, .. } = open;
        // Several reads may have contributed entries of the same class.
        entries.sort_unstable_by_key(|entry| entry.id);
        let mut deliveries = queue.deliver(entries, clock).await;
        // Shortly after a reconnect, gateways may not have subscribed again yet.
        let is_known = queue.connections().link.up_for() >= LIVENESS;
        for Delivery { job, awaited, .. } in &mut deliveries {
            *awaited = !(is_known && unsubscribed.contains(&job.gateway));
            self.listeners.note(job.gateway);
        }
        self.hand_back_excess(&mut deliveries, limit).await;
        self.held.add(&deliveries).await;
        Ok(deliveries)
    }
}
