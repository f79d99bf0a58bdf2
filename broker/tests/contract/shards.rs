//! Three brokers as the shards of one. The first counts as down, so that the others are used: with
//! few workers, a queue would stay at the first.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use batchfleet_broker::{
    Backlog, Broker, BrokerError, BrokerHealth, Claims, Controller, Delivery, FleetSnapshot,
    GatewayId, GatewayRoles, Observer, Outage, QueueName, ShardMemory, TrafficReport, WorkerId,
    WorkerRoles, sharded::ShardedBroker,
};

/// Shards of which the first is down.
pub(crate) async fn of<B: Broker + 'static>(brokers: [B; 3]) -> ShardedBroker {
    let mut shards = Vec::new();
    for (number, broker) in brokers.into_iter().enumerate() {
        let (shard, is_down) = switched(broker);
        is_down.store(number == 0, Relaxed);
        shards.push((format!("shard-{number}"), shard));
    }
    ShardedBroker::new(shards, 8).await.unwrap()
}

/// A broker, and a switch that makes it report a long outage, in which claims fail. Its other roles go
/// on, as if only this process could not reach it.
pub(crate) fn switched(broker: impl Broker + 'static) -> (Arc<dyn Broker>, Arc<AtomicBool>) {
    let is_down = Arc::<AtomicBool>::default();
    (Arc::new(Switched { broker, is_down: Arc::clone(&is_down) }), is_down)
}

struct Switched<B> {
    broker: B,
    is_down: Arc<AtomicBool>,
}

#[async_trait]
impl<B: Broker> Broker for Switched<B> {
    async fn gateway(&self, gateway: GatewayId) -> Result<GatewayRoles, BrokerError> {
        self.broker.gateway(gateway).await
    }

    async fn worker(&self, queue: QueueName, worker: WorkerId) -> Result<WorkerRoles, BrokerError> {
        let WorkerRoles { claims, consumer, target } = self.broker.worker(queue, worker).await?;
        let claims = SwitchedClaims { claims, is_down: Arc::clone(&self.is_down) };
        Ok(WorkerRoles { claims: Box::new(claims), consumer, target })
    }

    async fn observer(&self) -> Result<Arc<dyn Observer>, BrokerError> {
        let (observer, is_down) = (self.broker.observer().await?, Arc::clone(&self.is_down));
        Ok(Arc::new(SwitchedObserver { observer, is_down }))
    }

    async fn controller(&self) -> Result<Arc<dyn Controller>, BrokerError> {
        self.broker.controller().await
    }

    async fn living_workers(&self, queue: &QueueName) -> Result<usize, BrokerError> {
        self.broker.living_workers(queue).await
    }
}

struct SwitchedClaims {
    claims: Box<dyn Claims>,
    is_down: Arc<AtomicBool>,
}

#[async_trait]
impl Claims for SwitchedClaims {
    async fn claim_within(
        &mut self,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, BrokerError> {
        if self.is_down.load(Relaxed) {
            return Err(BrokerError::unreachable("switched off"));
        }
        self.claims.claim_within(limit, wait).await
    }
}

struct SwitchedObserver {
    observer: Arc<dyn Observer>,
    is_down: Arc<AtomicBool>,
}

#[async_trait]
impl Observer for SwitchedObserver {
    async fn fleet(&self) -> Result<FleetSnapshot, BrokerError> {
        self.observer.fleet().await
    }

    async fn news(&self) -> Result<Option<FleetSnapshot>, BrokerError> {
        self.observer.news().await
    }

    async fn backlog(&self, queue: &QueueName) -> Result<Backlog, BrokerError> {
        self.observer.backlog(queue).await
    }

    async fn held(&self, queue: &QueueName) -> Result<HashMap<String, u64>, BrokerError> {
        self.observer.held(queue).await
    }

    async fn traffic(&self) -> Result<Vec<TrafficReport>, BrokerError> {
        self.observer.traffic().await
    }

    async fn memory(&self) -> Result<Vec<ShardMemory>, BrokerError> {
        self.observer.memory().await
    }

    fn health(&self) -> BrokerHealth {
        let outage = self.is_down.load(Relaxed).then(|| Outage {
            lasts: Duration::from_mins(1),
            error: BrokerError::unreachable("switched off"),
        });
        BrokerHealth { outage, ..BrokerHealth::default() }
    }
}
