//! Assembles the roles of a worker.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    claim::RedisClaims,
    connections::Connections,
    glance::{Glance, LastGlance},
    held::HeldEntries,
    pending,
    presence::WorkerPresence,
    queue::WorkerQueue,
    reclaim, settle,
    target::RedisTarget,
};
use crate::{
    Announcement, BrokerError, Consumer, Delivery, EntryId, GatewayId, QueueName, Settlement,
    WorkerId, WorkerRoles,
};

/// Opens the roles of one worker on one queue.
pub(super) async fn open(
    connections: Arc<Connections>,
    name: QueueName,
    worker: WorkerId,
    lease: Duration,
) -> Result<WorkerRoles, BrokerError> {
    let queue = Arc::new(WorkerQueue::open(Arc::clone(&connections), name, worker).await?);
    let presence = Arc::new(WorkerPresence::new(connections, worker.to_string()));
    let held = Arc::<HeldEntries>::default();
    Ok(WorkerRoles {
        claims: Box::new(RedisClaims::new(Arc::clone(&queue), Arc::clone(&held))),
        target: Box::new(RedisTarget::new(Arc::clone(&queue), Arc::clone(&presence))),
        consumer: Arc::new(RedisConsumer {
            queue,
            held,
            presence,
            glance: LastGlance::default(),
            lease,
        }),
    })
}

struct RedisConsumer {
    queue: Arc<WorkerQueue>,
    held: Arc<HeldEntries>,
    presence: Arc<WorkerPresence>,
    glance: LastGlance,
    lease: Duration,
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn reclaim(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        let Self { queue, held, presence, glance, lease } = self;
        if limit == 0 {
            return Ok(Vec::new());
        }
        reclaim::reclaim((queue, held, presence), glance.take(), (*lease, limit)).await
    }

    async fn can_reclaim(&self) -> Result<bool, BrokerError> {
        let Self { queue, held, presence, glance, lease } = self;
        let mut connection = queue.connections().pool.get().await?;
        let of = (&**queue, &**held, &**presence);
        let found = reclaim::search(of, &mut connection, glance.take(), (*lease, 1)).await?;
        Ok(!found.is_empty())
    }

    async fn gateways_alive(&self, gateways: &[GatewayId]) -> Result<Vec<bool>, BrokerError> {
        self.presence.gateways_alive(gateways).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<usize, BrokerError> {
        settle::settle(&self.queue, &self.held, settlements).await
    }

    async fn renew_leases(&self, entries: &[EntryId]) -> Result<(), BrokerError> {
        // An entry that was held for less was claimed by another worker, or needs no renewal.
        let held_for = self.lease / 8;
        pending::renew(&self.queue, entries, held_for).await
    }

    async fn hand_back(&self, deliveries: Vec<Delivery>) -> Result<(), BrokerError> {
        settle::hand_back(&self.queue, &self.held, deliveries).await
    }

    async fn give_up(&self, entries: &[EntryId]) {
        self.queue.doubt(entries);
        self.held.release(entries).await;
    }

    async fn renew(&self, announcement: &Announcement) -> Result<(), BrokerError> {
        let answers =
            self.presence.renew(announcement, &self.queue, self.glance.is_wanted()).await?;
        let glance = match answers {
            Some(answers) => Glance::read(answers.into_iter(), &self.queue).ok(),
            None => None,
        };
        if let Some(glance) = &glance {
            // Before any entry is settled that Redis still counted.
            self.held.compare(&glance.oldest).await;
        }
        self.glance.set(glance);
        Ok(())
    }

    async fn leave(&self) -> Result<(), BrokerError> {
        self.presence.leave().await
    }

    async fn retire(&self) -> Result<(), BrokerError> {
        self.presence.retire().await
    }
}
