//! The roles of a broker whose first connection may come late. Until then every call fails, so that
//! turns run, and statuses say that Redis is unreachable.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use batchfleet_broker::{
    Announcement, Backlog, Broker, BrokerError, BrokerHealth, Controller, FleetSnapshot, Observer,
    Outage, QueueName, ShardMemory, Target, TrafficReport,
};
use tokio::time::Instant;

/// The roles, once the broker is connected.
pub(crate) struct LateBroker {
    started: Instant,
    roles: OnceLock<(Arc<dyn Observer>, Arc<dyn Controller>)>,
}

impl LateBroker {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), roles: OnceLock::new() }
    }

    /// Takes the roles of a connected broker.
    ///
    /// # Errors
    /// Those of the broker.
    pub(crate) async fn connected(&self, broker: &dyn Broker) -> Result<(), BrokerError> {
        let roles = (broker.observer().await?, broker.controller().await?);
        self.roles.get_or_init(|| roles);
        Ok(())
    }

    fn observer(&self) -> Result<&dyn Observer, BrokerError> {
        self.roles.get().map(|(observer, _)| observer.as_ref()).ok_or_else(unconnected)
    }

    fn controller(&self) -> Result<&dyn Controller, BrokerError> {
        self.roles.get().map(|(_, controller)| controller.as_ref()).ok_or_else(unconnected)
    }
}

fn unconnected() -> BrokerError {
    BrokerError::unreachable("no connection since the start; the controller's log has the reason")
}

#[async_trait]
impl Observer for LateBroker {
    async fn fleet(&self) -> Result<FleetSnapshot, BrokerError> {
        self.observer()?.fleet().await
    }

    async fn backlog(&self, queue: &QueueName) -> Result<Backlog, BrokerError> {
        self.observer()?.backlog(queue).await
    }

    async fn held(&self, queue: &QueueName) -> Result<HashMap<String, u64>, BrokerError> {
        self.observer()?.held(queue).await
    }

    async fn traffic(&self) -> Result<Vec<TrafficReport>, BrokerError> {
        self.observer()?.traffic().await
    }

    async fn memory(&self) -> Result<Vec<ShardMemory>, BrokerError> {
        self.observer()?.memory().await
    }

    fn health(&self) -> BrokerHealth {
        match self.observer() {
            Ok(observer) => observer.health(),
            Err(error) => {
                let outage = Some(Outage { lasts: self.started.elapsed(), error });
                BrokerHealth { outage, ..BrokerHealth::default() }
            }
        }
    }
}

#[async_trait]
impl Controller for LateBroker {
    async fn next_epoch(&self, queue: &QueueName) -> Result<u64, BrokerError> {
        self.controller()?.next_epoch(queue).await
    }

    async fn publish_at(&self, queue: &QueueName, target: Target) -> Result<(), BrokerError> {
        self.controller()?.publish_at(queue, target).await
    }

    async fn promise(&self, expected: &Announcement) -> Result<(), BrokerError> {
        self.controller()?.promise(expected).await
    }

    async fn retract(&self, last: &Announcement) -> Result<(), BrokerError> {
        self.controller()?.retract(last).await
    }

    async fn forget(&self, queue: &QueueName, silent: Duration) -> Result<usize, BrokerError> {
        self.controller()?.forget(queue, silent).await
    }
}
