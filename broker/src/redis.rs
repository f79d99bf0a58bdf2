//! The roles over one Redis (7.0 or newer).
//!
//! Jobs: one stream per model version with the consumer group `workers`; claiming is one
//! `XREADGROUP`, and what is settled is deleted, so the stream holds unanswered jobs only.
//! Replies: pub/sub, one channel per gateway boot; all of a batch's replies for one gateway are one
//! message, sent in the same `MULTI` as the acknowledgements. Large replies are stored under a key,
//! and the message is a note with that key.
//!
//! Liveness: each gateway and worker renews a key that expires after three seconds. The epoch, a
//! random text that gateways set, tells whether Redis still has its data: just after it changed, no
//! program counts as dead.
//!
//! Strays: Redis may carry out a read that its worker has given up. So a worker knows which entries
//! it holds, and takes the others that are held in its name.
//!
//! Connections of one process: one link that all roles share and that pipelines by itself (jobs,
//! replies), one per gateway for its subscription, two per worker and queue for blocking reads and
//! the target subscription, and a small pool for everything else. All reconnect by themselves.

mod address;
mod announcement;
mod census;
mod claim;
mod classes;
mod connect;
mod connections;
mod consumer;
mod consumers;
mod controller;
mod entries;
mod errors;
mod heartbeat;
mod held;
mod keys;
mod large_reply;
mod link;
mod listeners;
mod locator;
mod observer;
mod pending;
mod pool;
mod presence;
mod producer;
mod promise;
mod queue;
mod reader;
mod reclaim;
mod replies;
mod sentinel;
mod settle;
mod strays;
mod target;
mod traffic;
mod values;
mod watched;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::sleep;
use tracing::warn;

pub use self::address::RedisAddress;
use self::{
    connections::Connections, controller::RedisController, locator::Locator,
    observer::RedisObserver,
};
use crate::{
    Broker, BrokerError, Controller, GatewayId, GatewayRoles, Observer, QueueName, WorkerId,
    WorkerRoles, roles::LEASE,
};

/// How long to wait between two attempts to connect for the first time.
const RETRY: Duration = Duration::from_millis(250);

/// A broker that lives in Redis. Clones share its connections.
#[derive(Clone)]
pub struct RedisBroker {
    connections: Arc<Connections>,
    lease: Duration,
}

impl RedisBroker {
    /// Connects to the Redis at `address`: a URL such as `redis://user:password@host:6379/0`, or
    /// more.
    ///
    /// Waits until Redis answers. Once connected, the broker reconnects by itself, however long
    /// that takes; meanwhile its roles return [`BrokerError::Unreachable`]. Call it on the
    /// process's main runtime, whose tasks keep the connections.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] if `address` is invalid, if one side does not trust the
    /// certificate of the other, if Redis is a cluster, or if it would evict jobs when its memory
    /// is full.
    pub async fn connect(address: impl Into<RedisAddress>) -> Result<Self, BrokerError> {
        let locator = Arc::new(Locator::new(address.into())?);
        let mut warned = false;
        loop {
            match Self::try_connect(&locator).await {
                Err(BrokerError::Unreachable(cause)) => {
                    if !warned {
                        for host in locator.first_hosts() {
                            connect::refuse_mistaken(host).await?;
                        }
                        warn!(reason = %cause, "waiting for Redis, which does not answer");
                        warned = true;
                    }
                    sleep(RETRY).await;
                }
                connected => return connected,
            }
        }
    }

    /// Checks whether [`RedisBroker::connect`] can use `address`; connects to nothing.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] if not.
    pub fn check(address: impl Into<RedisAddress>) -> Result<(), BrokerError> {
        Locator::new(address.into()).map(drop)
    }

    /// The same broker with another lease than [`LEASE`].
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    async fn try_connect(locator: &Arc<Locator>) -> Result<Self, BrokerError> {
        let connections = Connections::open(locator).await?;
        connect::refuse_unfit(&mut connections.link.connection().await?).await?;
        Ok(Self { connections: Arc::new(connections), lease: LEASE })
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn gateway(&self, gateway: GatewayId) -> Result<GatewayRoles, BrokerError> {
        producer::open(Arc::clone(&self.connections), gateway).await
    }

    async fn worker(&self, queue: QueueName, worker: WorkerId) -> Result<WorkerRoles, BrokerError> {
        consumer::open(Arc::clone(&self.connections), queue, worker, self.lease).await
    }

    async fn observer(&self) -> Result<Arc<dyn Observer>, BrokerError> {
        Ok(Arc::new(RedisObserver::new(Arc::clone(&self.connections))))
    }

    async fn controller(&self) -> Result<Arc<dyn Controller>, BrokerError> {
        Ok(Arc::new(RedisController(Arc::clone(&self.connections))))
    }
}
