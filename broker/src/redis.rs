//! The roles over one Redis (7.0 or newer).
//!
//! Jobs: each model version has one stream per class, with the consumer group `workers`. A claim
//! reads with `XREADGROUP`. Settled entries are deleted, so the streams hold unanswered jobs only.
//!
//! Replies: pub/sub, with one channel per gateway boot. The replies of a batch to one gateway are
//! one message, sent in the same `MULTI` as the acknowledgements. Large replies are stored under a
//! key, and the message is a note with that key.
//!
//! Liveness: each gateway and worker renews a key that expires after 3 s. The epoch, a random text
//! set by gateways, shows whether Redis still has its data: just after the epoch changed, no
//! program counts as dead.
//!
//! Strays: Redis may execute a read that its worker has given up. Each worker therefore tracks the
//! entries that it holds, and takes over any other entries held in its name.
//!
//! Cluster: each partition is a whole broker, whose names all begin with one hash tag, over
//! connections to the node that owns the slot of the tag. An answer that shows that the node does
//! not have the partition, or not all of it, counts as an outage, and all connections look for the
//! owner again.
//!
//! Connections: each process has one pipelining link shared by all roles (jobs, replies) and a
//! small pool for everything else. A gateway has one more connection, for its subscription, and a
//! worker has two more per queue, for blocking reads and the target subscription. All connections
//! reconnect automatically.

pub mod acl;
mod address;
mod announcement;
mod announcements;
mod beats;
mod census;
mod channels;
mod claim;
mod classes;
mod clock;
mod codes;
mod connect;
mod connections;
mod consumer;
mod consumers;
mod controller;
mod denials;
mod directory;
mod entries;
mod errors;
mod findings;
mod glance;
mod heartbeat;
mod held;
mod keys;
mod large_reply;
mod large_values;
mod link;
mod listeners;
mod liveness;
mod locator;
mod look;
mod news;
mod observer;
mod partitions;
mod pending;
mod pool;
mod pooled;
mod presence;
mod producer;
mod promise;
mod queue;
mod reader;
mod reclaim;
mod replies;
mod roll;
mod routed;
mod settle;
mod slots;
mod strays;
mod summary;
mod target;
mod tasks;
mod traffic;
mod transfers;
mod unfit;
mod users;
mod value_limit;
mod values;
mod watched;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use tracing::warn;

pub use self::{
    address::{RedisAddress, urls_in},
    denials::{Denials, denials},
    users::RedisUsers,
};
use self::{
    connections::Connections, controller::RedisController, locator::Locator,
    observer::RedisObserver, unfit::refuse_unfit,
};
use crate::{
    Broker, BrokerError, Controller, GatewayId, GatewayRoles, Observer, QueueName, WorkerId,
    WorkerRoles, roles::LEASE,
};

/// Delay between attempts to connect at startup.
const RETRY: Duration = Duration::from_millis(250);

/// A broker over Redis. Clones share its connections.
#[derive(Clone)]
pub struct RedisBroker {
    connections: Arc<Connections>,
    lease: Duration,
}

impl RedisBroker {
    /// Connects to the Redis at `address`: a URL such as `redis://user:password@host:6379/0`, or a
    /// [`RedisAddress`] with certificates.
    ///
    /// Waits until Redis answers. Once connected, the broker reconnects automatically, without a
    /// time limit; meanwhile its roles return [`BrokerError::Unreachable`]. Must be called on the
    /// main runtime of the process, whose tasks maintain the connections.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] if `address` is invalid, if one side does not trust the
    /// certificate of the other side, if Redis is older than 7.0, if it is a cluster and `address` does
    /// not say so or has another number of partitions than other programs, or if Redis would
    /// evict jobs when its memory is full. [`BrokerError::Denied`] if Redis does not accept user or
    /// password.
    pub async fn connect(address: impl Into<RedisAddress>) -> Result<Self, BrokerError> {
        Self::wait(&Arc::new(Locator::new(address.into())?)).await
    }

    /// Like [`connect`](Self::connect), but waits no longer than `enough`. A broker whose Redis has not
    /// answered by then reports an outage since this call, and takes Redis into use once it answers.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect), as far as Redis answers in time. Later a Redis that must not
    /// be used stays out of use, and the log has the reason.
    pub async fn connect_or_go_on(
        address: impl Into<RedisAddress>,
        enough: impl Future<Output = ()>,
    ) -> Result<Self, BrokerError> {
        let since = Instant::now();
        let locator = Arc::new(Locator::new(address.into())?);
        tokio::select! {
            biased;
            connected = Self::wait(&locator) => connected,
            () = enough => {
                warn!(address = locator.name(), "starting without this Redis, which does not answer");
                let connections = Arc::new(Connections::open_later(&locator, since));
                Ok(Self { connections, lease: LEASE })
            }
        }
    }

    async fn wait(locator: &Arc<Locator>) -> Result<Self, BrokerError> {
        let mut warned = false;
        loop {
            match Self::try_connect(locator).await {
                Err(BrokerError::Unreachable(cause)) => {
                    if !warned {
                        let mut reason = cause.to_string();
                        for host in locator.first_hosts() {
                            if let Some(refusal) = connect::refusal(&host).await {
                                reason = refusal;
                                break;
                            }
                            connect::refuse_mistaken(&host).await?;
                        }
                        warn!(reason, "waiting for Redis, which does not answer");
                        warned = true;
                    }
                    sleep(RETRY).await;
                }
                connected => return connected,
            }
        }
    }

    /// Checks whether `address` is valid for [`RedisBroker::connect`], without connecting.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] if not.
    pub fn check(address: impl Into<RedisAddress>) -> Result<(), BrokerError> {
        Locator::new(address.into()).map(drop)
    }

    /// Replaces the default lease, [`LEASE`].
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// Host and port of the Redis, those of its sentinels, or those of the nodes of the cluster with the
    /// partition.
    pub fn name(&self) -> String {
        self.connections.locator.name()
    }

    async fn try_connect(locator: &Arc<Locator>) -> Result<Self, BrokerError> {
        let connections = Connections::open(locator).await?;
        let mut connection = connections.link.connection().await?;
        refuse_unfit(&mut connection, locator).await?;
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

    async fn living_workers(&self, queue: &QueueName) -> Result<usize, BrokerError> {
        roll::living(self.connections.keys, &mut *self.connections.pool.get().await?, queue).await
    }
}
