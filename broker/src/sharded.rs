//! The roles over several brokers, the shards: each has its own queues, reply channels, liveness keys
//! and clock, and knows nothing of the others.
//!
//! A worker lives at one shard at a time, its home: it announces itself, claims and answers there.
//! Gateways know where workers live from their announcements, and send each job to one shard. When a
//! shard cannot be reached, gateways send its jobs to other shards again, and its workers find another
//! home. So each shard may be lost without losing a request.

mod claims;
mod controller;
mod gateway;
mod home;
mod homes;
mod observer;
mod shards;
mod weights;
mod worker;

use std::{num::NonZeroUsize, sync::Arc};

use async_trait::async_trait;

use self::{
    controller::ShardedController,
    observer::ShardedObserver,
    shards::{Shard, Shards},
    weights::Weights,
};
use crate::{
    Broker, BrokerError, Controller, GatewayId, GatewayRoles, Observer, QueueName, WorkerId,
    WorkerRoles,
};

/// How many workers of a queue one shard has, unless a worker is told otherwise.
pub const WORKERS_PER_SHARD: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// A broker over several others. Clones share its state.
#[derive(Clone)]
pub struct ShardedBroker {
    shards: Arc<Shards>,
    /// What workers have announced, by shard; observers write it and producers read it.
    weights: Arc<Weights>,
}

impl ShardedBroker {
    /// Spreads queues over these brokers, each with a name. All programs of a fleet must get the same
    /// names in the same order. A queue uses one shard for each `workers_per_shard` workers.
    ///
    /// # Errors
    /// If a broker cannot be observed.
    pub async fn new(
        brokers: Vec<(String, Arc<dyn Broker>)>,
        workers_per_shard: usize,
    ) -> Result<Self, BrokerError> {
        let mut all = Vec::with_capacity(brokers.len());
        for (name, broker) in brokers {
            let observer = broker.observer().await?;
            all.push(Shard { name, broker, observer });
        }
        let weights = Arc::new(Weights::new(all.len()));
        Ok(Self { shards: Arc::new(Shards { all, workers_per_shard }), weights })
    }
}

#[async_trait]
impl Broker for ShardedBroker {
    async fn gateway(&self, gateway: GatewayId) -> Result<GatewayRoles, BrokerError> {
        gateway::open(&self.shards, &self.weights, gateway).await
    }

    async fn worker(&self, queue: QueueName, worker: WorkerId) -> Result<WorkerRoles, BrokerError> {
        worker::open(&self.shards, queue, worker).await
    }

    async fn observer(&self) -> Result<Arc<dyn Observer>, BrokerError> {
        let observer = ShardedObserver::open(&self.shards, &self.weights).await?;
        Ok(Arc::new(observer))
    }

    async fn controller(&self) -> Result<Arc<dyn Controller>, BrokerError> {
        Ok(Arc::new(ShardedController::open(&self.shards).await?))
    }

    async fn living_workers(&self, queue: &QueueName) -> Result<usize, BrokerError> {
        Ok(self.shards.living_workers(queue).await)
    }
}
