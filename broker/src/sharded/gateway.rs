//! A gateway's roles over several shards.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{
    shards::{Shards, some},
    weights::{LEFT_TO_LAST, Weights},
};
use crate::{
    BrokerError, EntryId, GatewayId, GatewayRoles, Inbound, Job, Producer, QueueName, Replies,
    ShardId, Traffic,
};

/// How long a shard may be out of reach before its jobs are sent to others. Most outages of a
/// connection are shorter.
const AWAY: Duration = Duration::from_millis(500);
/// How often a gateway checks whether a shard is away or has lost its workers.
const CHECKED: Duration = Duration::from_millis(100);

/// Opens the roles of one gateway boot at all shards.
pub(super) async fn open(
    shards: &Arc<Shards>,
    weights: &Arc<Weights>,
    gateway: GatewayId,
) -> Result<GatewayRoles, BrokerError> {
    let (mut producers, mut receiving) = (Vec::new(), Vec::new());
    for shard in &shards.all {
        let GatewayRoles { producer, replies } = shard.broker.gateway(gateway).await?;
        producers.push(producer);
        receiving.push(receive(replies));
    }
    let producers =
        Producers { shards: Arc::clone(shards), weights: Arc::clone(weights), each: producers };
    let producers = Arc::new(producers);
    let mut checks = interval(CHECKED);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let replies = ShardedReplies {
        was_away: (0..receiving.len()).map(|shard| producers.is_away(shard)).collect(),
        deserted: weights.deserted(),
        receiving,
        last: 0,
        producers: Arc::clone(&producers),
        checks,
    };
    Ok(GatewayRoles { producer: producers, replies: Box::new(replies) })
}

struct Producers {
    shards: Arc<Shards>,
    weights: Arc<Weights>,
    /// One for each shard.
    each: Vec<Arc<dyn Producer>>,
}

impl Producers {
    /// Which shards take jobs.
    fn usable(&self) -> Vec<bool> {
        let shards = self.shards.all.iter().zip(&self.each);
        shards.map(|(shard, producer)| shard.outage().is_none() && producer.is_ready()).collect()
    }

    /// Whether jobs of this shard must be sent to others, because it may stay away. Not if there are no
    /// others.
    fn is_away(&self, shard: usize) -> bool {
        let is_away = |shard: usize| {
            let outage = self.shards.all[shard].outage();
            outage.is_some_and(|lasts| lasts >= AWAY) || !self.each[shard].is_ready()
        };
        is_away(shard) && (0..self.each.len()).any(|other| !is_away(other))
    }

    /// Sends a job to one shard after another until one has room for it.
    async fn submit_where_room_is(
        &self,
        queue: &QueueName,
        job: &Job,
    ) -> Result<EntryId, BrokerError> {
        loop {
            let shard = self.weights.next(queue, &self.usable())?;
            match self.each[shard].submit(queue, job).await {
                // The next look finds out whether it has room again.
                Err(BrokerError::Full) => self.weights.set_full(shard, true),
                submitted => return submitted.map(|entry| at(shard, entry)),
            }
        }
    }

    /// Splits entries by shard: for each shard their indices and the entries.
    fn by_shard(&self, entries: &[EntryId]) -> Vec<(Vec<usize>, Vec<EntryId>)> {
        let mut parts = vec![(Vec::new(), Vec::new()); self.each.len()];
        for (index, entry) in entries.iter().enumerate() {
            if let Some((indices, part)) = parts.get_mut(usize::from(entry.shard.0)) {
                indices.push(index);
                part.push(at(0, *entry));
            }
        }
        parts
    }

    /// Asks the shard of each entry, and joins the answers in the order of the entries. An entry of a
    /// shard that is away has the answer `of_away`.
    async fn ask<'a, Asking>(
        &'a self,
        entries: &[EntryId],
        of_away: bool,
        ask: impl Fn(usize, Vec<EntryId>) -> Asking,
    ) -> Result<Vec<bool>, BrokerError>
    where
        Asking: Future<Output = Result<Vec<bool>, BrokerError>> + Send + 'a,
    {
        let mut joined = vec![of_away; entries.len()];
        for (shard, (indices, part)) in self.by_shard(entries).into_iter().enumerate() {
            if part.is_empty() || self.is_away(shard) {
                continue;
            }
            let answers = ask(shard, part).await?;
            indices.into_iter().zip(answers).for_each(|(index, answer)| joined[index] = answer);
        }
        Ok(joined)
    }

    /// Whether entries are still in their queue at one shard. One that no worker would claim or settle
    /// is withdrawn, so that it is sent to another shard.
    async fn outstanding_at(
        &self,
        shard: usize,
        queue: QueueName,
        entries: Vec<EntryId>,
    ) -> Result<Vec<bool>, BrokerError> {
        let producer = &self.each[shard];
        let Some(deserted) = self.weights.deserted_for(&queue, shard, &self.usable()) else {
            return producer.outstanding(&queue, &entries).await;
        };
        let withdrawn = producer.withdraw_waiting(&queue, &entries).await?;
        let outstanding = producer.outstanding(&queue, &entries).await?;
        let claimed = withdrawn.into_iter().zip(outstanding);
        let mut claimed: Vec<_> =
            claimed.map(|(withdrawn, outstanding)| outstanding && !withdrawn).collect();
        if deserted >= LEFT_TO_LAST {
            for (claimed, entry) in claimed.iter_mut().zip(entries) {
                if std::mem::take(claimed) {
                    producer.withdraw(&queue, entry).await?;
                }
            }
        }
        Ok(claimed)
    }
}

/// The entry as it is known above this shard; with shard 0 as the shard itself knows it.
fn at(shard: usize, entry: EntryId) -> EntryId {
    EntryId { shard: id(shard), ..entry }
}

#[async_trait]
impl Producer for Producers {
    async fn submit(&self, queue: &QueueName, job: &Job) -> Result<EntryId, BrokerError> {
        self.submit_where_room_is(queue, job).await
    }

    async fn submit_all(&self, jobs: &[(&QueueName, &Job)]) -> Vec<Result<EntryId, BrokerError>> {
        let usable = self.usable();
        let mut parts: Vec<(Vec<usize>, Vec<(&QueueName, &Job)>)> =
            vec![Default::default(); self.each.len()];
        let mut submitted = Vec::with_capacity(jobs.len());
        for (index, (queue, job)) in jobs.iter().enumerate() {
            let chosen = self.weights.next(queue, &usable);
            submitted.push(chosen.map(|shard| {
                parts[shard].0.push(index);
                parts[shard].1.push((*queue, *job));
                EntryId::default()
            }));
        }
        let parts: Vec<_> =
            parts.into_iter().enumerate().filter(|(_, (indices, _))| !indices.is_empty()).collect();
        let sent =
            join_all(parts.iter().map(|(shard, (_, jobs))| self.each[*shard].submit_all(jobs)));
        for ((shard, (indices, _)), entries) in parts.iter().zip(sent.await) {
            for (index, entry) in indices.iter().zip(entries) {
                submitted[*index] = entry.map(|entry| at(*shard, entry));
            }
        }
        for (submitted, (queue, job)) in submitted.iter_mut().zip(jobs) {
            if matches!(submitted, Err(BrokerError::Full)) {
                *submitted = self.submit_where_room_is(queue, job).await;
            }
        }
        submitted
    }

    async fn introduce(&self, admin: SocketAddr) -> Result<Option<SocketAddr>, BrokerError> {
        let introduced = join_all(self.each.iter().map(|producer| producer.introduce(admin))).await;
        Ok(some(introduced)?.into_iter().flatten().next())
    }

    async fn withdraw(&self, queue: &QueueName, entry: EntryId) -> Result<(), BrokerError> {
        match self.each.get(usize::from(entry.shard.0)) {
            Some(producer) => producer.withdraw(queue, at(0, entry)).await,
            None => Ok(()),
        }
    }

    async fn withdraw_waiting(
        &self,
        queue: &QueueName,
        entries: &[EntryId],
    ) -> Result<Vec<bool>, BrokerError> {
        let ask = |shard: usize, entries: Vec<EntryId>| {
            let queue = queue.clone();
            async move { self.each[shard].withdraw_waiting(&queue, &entries).await }
        };
        self.ask(entries, false, ask).await
    }

    async fn outstanding(
        &self,
        queue: &QueueName,
        entries: &[EntryId],
    ) -> Result<Vec<bool>, BrokerError> {
        let ask = |shard: usize, entries| self.outstanding_at(shard, queue.clone(), entries);
        self.ask(entries, false, ask).await
    }

    async fn report(&self, traffic: &[Traffic]) -> Result<(), BrokerError> {
        let usable = self.usable().into_iter().zip(&self.each);
        let usable = usable.filter(|(usable, _)| *usable).map(|(_, producer)| producer);
        some(join_all(usable.map(|producer| producer.report(traffic))).await).map(drop)
    }

    fn is_ready(&self) -> bool {
        self.each.iter().any(|producer| producer.is_ready())
    }
}

type Receiving = Pin<Box<dyn Future<Output = (Box<dyn Replies>, Inbound)> + Send>>;

/// Waits for replies of one shard. A wait that has begun must end, because it may have taken replies.
fn receive(mut replies: Box<dyn Replies>) -> Receiving {
    Box::pin(async move {
        let inbound = replies.receive().await;
        (replies, inbound)
    })
}

struct ShardedReplies {
    /// One for each shard.
    receiving: Vec<Receiving>,
    /// The shard of the last replies; the next one is polled first.
    last: usize,
    producers: Arc<Producers>,
    was_away: Vec<bool>,
    deserted: Vec<u64>,
    checks: Interval,
}

impl ShardedReplies {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Inbound> {
        let shards = self.receiving.len();
        for shard in (1..=shards).map(|next| (self.last + next) % shards) {
            if let Poll::Ready((replies, inbound)) = self.receiving[shard].as_mut().poll(context) {
                self.receiving[shard] = receive(replies);
                self.last = shard;
                return Poll::Ready(match inbound {
                    Inbound::Interrupted(_) => Inbound::Interrupted(id(shard)),
                    replies @ Inbound::Replies(_) => replies,
                });
            }
        }
        Poll::Pending
    }

    /// A shard whose jobs must be sent to others from now on.
    fn newly_lost(&mut self) -> Option<usize> {
        let mut lost = None;
        let deserted = self.producers.weights.deserted();
        let counts = deserted.iter().zip(&self.deserted);
        for (shard, (was_away, (count, before))) in self.was_away.iter_mut().zip(counts).enumerate()
        {
            let is_away = self.producers.is_away(shard);
            if (is_away && !std::mem::replace(was_away, is_away)) || count != before {
                lost = Some(shard);
            }
            *was_away = is_away;
        }
        self.deserted = deserted;
        lost
    }
}

fn id(shard: usize) -> ShardId {
    ShardId(u16::try_from(shard).unwrap_or(u16::MAX))
}

#[async_trait]
impl Replies for ShardedReplies {
    async fn receive(&mut self) -> Inbound {
        loop {
            let received = poll_fn(|context| {
                if let Poll::Ready(inbound) = self.poll(context) {
                    return Poll::Ready(Some(inbound));
                }
                self.checks.poll_tick(context).map(|_| None)
            });
            match received.await {
                Some(inbound) => return inbound,
                None => {
                    if let Some(shard) = self.newly_lost() {
                        return Inbound::Interrupted(id(shard));
                    }
                }
            }
        }
    }
}
