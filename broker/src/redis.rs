//! The roles over one Redis (7.0 or newer).
//!
//! Jobs: one stream per model version with the consumer group `workers`; claiming is one
//! `XREADGROUP`, and what is settled is deleted, so the stream holds unanswered jobs only.
//! Replies: pub/sub, one channel per gateway boot; all of a batch's replies for one gateway are one
//! message, sent in the same `MULTI` as the acknowledgements. Large ones are left under a key, and
//! the message tells where.
//!
//! Who lives renews a key that expires after three seconds. A random text, the epoch, tells whether
//! Redis still has its data: gateways look after it, and nobody is believed dead just after it
//! changed.
//!
//! Redis may carry out a read that its worker has given up. So a worker knows what it holds, and
//! takes what else stands under its name.
//!
//! Connections of one process: one link that everybody shares and that pipelines by itself
//! (jobs, replies), one per producer for its subscription, two per consumer for its blocking
//! reads and its subscription, and a small pool for everything else. All of them come back by themselves.

mod address;
mod claim;
mod connect;
mod consumer;
mod entries;
mod keys;
mod link;
mod observer;
mod parcel;
mod place;
mod pool;
mod producer;
mod promise;
mod pulse;
mod reclaim;
mod sentinel;
mod strays;
mod target;
mod traffic;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{Pipeline, Value};
use tokio::time::sleep;
use tracing::warn;

pub use self::address::RedisAddress;
use self::{
    claim::RedisClaims,
    connect::broker_error,
    consumer::RedisConsumer,
    link::Link,
    observer::RedisObserver,
    place::Place,
    pool::Pool,
    target::{RedisController, RedisTarget},
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
    shared: Arc<Shared>,
    lease: Duration,
}

/// What the roles of one process share.
struct Shared {
    place: Arc<Place>,
    /// For control calls, and to open the connections of blocking readers.
    pool: Pool,
    /// For everything that happens per request or per batch.
    link: Link,
}

impl Shared {
    /// Runs commands on the shared link; the answers of those that are not ignored.
    async fn run(&self, commands: &Pipeline) -> Result<Vec<Value>, BrokerError> {
        let mut connection = self.link.connection().await?;
        commands.query_async(&mut connection).await.map_err(broker_error)
    }
}

impl RedisBroker {
    /// Connects to the Redis at `address`: a URL such as `redis://user:password@host:6379/0`, or
    /// more.
    ///
    /// Waits for as long as nobody answers there. Once connected, the broker finds back to Redis by
    /// itself, however long that takes; meanwhile its roles answer
    /// [`BrokerError::Unreachable`]. Call it on the process's main runtime, whose tasks keep the
    /// connections.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] if `address` is none, if one side does not trust the other's
    /// certificate, or if Redis is a cluster, or would throw jobs away when its memory is full.
    pub async fn connect(address: impl Into<RedisAddress>) -> Result<Self, BrokerError> {
        let place = Arc::new(Place::new(address.into())?);
        let mut told = false;
        loop {
            match Self::try_connect(&place).await {
                Err(BrokerError::Unreachable(cause)) => {
                    if !told {
                        for door in place.doors() {
                            connect::refuse_mistaken(door).await?;
                        }
                        warn!(reason = %cause, "Redis does not answer; waiting for it");
                        told = true;
                    }
                    sleep(RETRY).await;
                }
                connected => return connected,
            }
        }
    }

    /// Whether `address` is one that [`RedisBroker::connect`] can use; tries nothing.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] if not.
    pub fn check(address: impl Into<RedisAddress>) -> Result<(), BrokerError> {
        Place::new(address.into()).map(drop)
    }

    /// The same broker, whose consumers reclaim what was held for longer than `lease` instead of
    /// [`LEASE`].
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    async fn try_connect(place: &Arc<Place>) -> Result<Self, BrokerError> {
        let pool = Pool::new(Arc::clone(place));
        let link = Link::open(Arc::clone(place)).await.map_err(broker_error)?;
        connect::refuse_unfit(&mut link.connection().await?).await?;
        let place = Arc::clone(place);
        Ok(Self { shared: Arc::new(Shared { place, pool, link }), lease: LEASE })
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn gateway(&self, gateway: GatewayId) -> Result<GatewayRoles, BrokerError> {
        producer::open(Arc::clone(&self.shared), gateway).await
    }

    async fn worker(&self, queue: QueueName, worker: WorkerId) -> Result<WorkerRoles, BrokerError> {
        let shared = Arc::clone(&self.shared);
        let consumer = Arc::new(RedisConsumer::new(shared, queue, worker, self.lease).await?);
        Ok(WorkerRoles {
            claims: Box::new(RedisClaims::new(Arc::clone(&consumer))),
            target: Box::new(RedisTarget::new(Arc::clone(&consumer))),
            consumer,
        })
    }

    async fn observer(&self) -> Result<Arc<dyn Observer>, BrokerError> {
        Ok(Arc::new(RedisObserver::new(Arc::clone(&self.shared))))
    }

    async fn controller(&self) -> Result<Arc<dyn Controller>, BrokerError> {
        Ok(Arc::new(RedisController(Arc::clone(&self.shared))))
    }
}
