//! The roles of programs, and the [`Broker`] that hands them out: [`Producer`] and [`Replies`] of a
//! gateway; [`Claims`], [`Consumer`] and [`TargetSubscription`] of a worker; [`Observer`];
//! [`Controller`].
//!
//! What one task alone may do takes `&mut self`; the rest is shared.

use std::{collections::HashMap, error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    Announcement, Delivery, EntryId, FleetSnapshot, GatewayId, Guidance, Job, Priority, QueueName,
    Reply, ShardId, Traffic, TrafficReport, Wish, WorkerId,
};

/// The error below a [`BrokerError`]; shared, because that one is cloned.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Why a call to the broker failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// The broker cannot be reached or did not answer in time. The command may have been carried
    /// out all the same.
    #[error("the broker is unreachable: {0}")]
    Unreachable(#[source] Cause),
    /// The broker has no room for more.
    #[error("the broker is full")]
    Full,
    /// The address is invalid, or the broker is set up so that it would lose jobs: a setting must
    /// change.
    #[error("{0}")]
    Misconfigured(#[source] Cause),
    /// The broker refused the command, or its answer cannot be read.
    #[error("the broker refused: {0}")]
    Refused(#[source] Cause),
}

impl BrokerError {
    /// Every [`code`](Self::code).
    pub const CODES: [&'static str; 4] = ["unreachable", "full", "misconfigured", "refused"];

    /// [`Unreachable`](Self::Unreachable), for this cause.
    pub fn unreachable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unreachable(cause.into().into())
    }

    /// [`Misconfigured`](Self::Misconfigured), for this cause.
    pub fn misconfigured(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Misconfigured(cause.into().into())
    }

    /// [`Refused`](Self::Refused), for this cause.
    pub fn refused(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(cause.into().into())
    }

    /// A bounded name for metrics and logs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Full => "full",
            Self::Misconfigured(_) => "misconfigured",
            Self::Refused(_) => "refused",
        }
    }
}

/// Hands out the roles. One per process.
#[async_trait]
pub trait Broker: Send + Sync {
    /// The roles of one gateway boot. Replies are received from the moment this returns.
    async fn gateway(&self, gateway: GatewayId) -> Result<GatewayRoles, BrokerError>;

    /// The roles of one worker on one queue.
    async fn worker(&self, queue: QueueName, worker: WorkerId) -> Result<WorkerRoles, BrokerError>;

    /// The role of a program that only reads.
    async fn observer(&self) -> Result<Arc<dyn Observer>, BrokerError>;

    /// The role of the controller.
    async fn controller(&self) -> Result<Arc<dyn Controller>, BrokerError>;
}

/// The roles of one gateway boot.
pub struct GatewayRoles {
    /// Submits jobs.
    pub producer: Arc<dyn Producer>,
    /// Receives their replies. Workers run jobs of this gateway as long as this is not dropped.
    pub replies: Box<dyn Replies>,
}

/// The roles of one worker on one queue.
pub struct WorkerRoles {
    /// Claims jobs.
    pub claims: Box<dyn Claims>,
    /// Settles claimed jobs, takes over those of dead workers, and announces this one.
    pub consumer: Arc<dyn Consumer>,
    /// Follows the target that is published for the queue.
    pub target: Box<dyn TargetSubscription>,
}

/// A gateway's way into the queues.
#[async_trait]
pub trait Producer: Send + Sync {
    /// Adds a job to the end of a queue.
    ///
    /// After [`BrokerError::Unreachable`] the job may be in the queue all the same.
    async fn submit(&self, queue: &QueueName, job: &Job) -> Result<EntryId, BrokerError>;

    /// Adds several jobs in this order, in one round trip; returns for each the result of
    /// [`Producer::submit`].
    async fn submit_all(&self, jobs: &[(&QueueName, &Job)]) -> Vec<Result<EntryId, BrokerError>> {
        let mut outcomes = Vec::with_capacity(jobs.len());
        for (queue, job) in jobs {
            outcomes.push(self.submit(queue, job).await);
        }
        outcomes
    }

    /// Removes a job from its queue if no worker has claimed it yet; for a caller that gave up.
    async fn withdraw(&self, queue: &QueueName, entry: EntryId) -> Result<(), BrokerError>;

    /// Which of these jobs are still in the queue, claimed or not; the others were answered or
    /// withdrawn, or the broker lost them.
    async fn outstanding(
        &self,
        queue: &QueueName,
        entries: &[EntryId],
    ) -> Result<Vec<bool>, BrokerError>;

    /// Publishes the traffic of this gateway in place of its last report; called about once a
    /// second.
    async fn report(&self, traffic: &[Traffic]) -> Result<(), BrokerError>;

    /// Whether at least one shard takes jobs: false once all have been out of reach for a second or
    /// two, true again as soon as one answers. Costs nothing.
    fn is_ready(&self) -> bool;
}

/// Replies to the jobs of one gateway.
#[async_trait]
pub trait Replies: Send {
    /// Waits for replies. Opens a broken subscription anew by itself, and reports the gap.
    async fn receive(&mut self) -> Inbound;
}

/// What a gateway receives.
#[derive(Debug)]
pub enum Inbound {
    /// Replies, at most those of one batch.
    Replies(Vec<Reply>),
    /// Jobs of this shard, or replies to them, may be lost: the subscription was broken and is open
    /// again, or the shard lost its data, or another server took its place.
    Interrupted(ShardId),
}

/// Claims the jobs of one queue.
#[async_trait]
pub trait Claims: Send {
    /// Claims up to `limit` jobs. If no job waits, waits up to a second for the first, and returns
    /// none after that.
    ///
    /// Where jobs of several classes wait, the classes share `limit` by their weights, 8 : 4 : 1;
    /// each gets at least one place if there are enough, and places that a class leaves free go to
    /// the others. The highest class comes first, within a class the oldest job.
    ///
    /// Not cancel safe: jobs that a dropped claim took are held until a later claim finds them.
    async fn claim(&mut self, limit: usize) -> Result<Vec<Delivery>, BrokerError>;
}

/// What a worker does with claimed jobs, and how it shows that it lives.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Claims up to `limit` jobs that a dead worker holds, or that any worker has held unsettled
    /// for longer than the [lease](LEASE); the oldest first, and no job that was claimed less than
    /// half a second ago. Returns at once; called about once a second.
    ///
    /// Returns none during the liveness grace period: for [`LIVENESS`] after the broker came back
    /// or lost its data, living workers may not have renewed their announcements yet.
    async fn reclaim(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError>;

    /// Which of these gateways live; all of them during the liveness grace period.
    async fn gateways_alive(&self, gateways: &[GatewayId]) -> Result<Vec<bool>, BrokerError>;

    /// Publishes replies and removes their jobs from the queue. Atomic, except when the broker is
    /// out of memory: a retry may then deliver a reply twice. Returns the number of replies whose
    /// gateway was not subscribed. A reply with [`Failure::Poison`] is also recorded as a dead
    /// letter, where the broker can store it.
    ///
    /// [`Failure::Poison`]: crate::Failure::Poison
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<usize, BrokerError>;

    /// Returns claimed jobs to the queue, for another worker.
    async fn hand_back(&self, deliveries: Vec<Delivery>) -> Result<(), BrokerError>;

    /// Renews the announcement of this worker, and that it lives, for [`LIVENESS`]; called about
    /// once a second.
    async fn renew(&self, announcement: &Announcement) -> Result<(), BrokerError>;

    /// Marks this worker as dead: it claims no more.
    async fn retire(&self) -> Result<(), BrokerError>;
}

/// A worker's subscription to the target of its queue.
#[async_trait]
pub trait TargetSubscription: Send {
    /// Waits until a target is published, at most a second, and returns what holds now; returns at
    /// once the first time. Cancel safe.
    async fn guidance(&mut self) -> Result<Guidance, BrokerError>;
}

/// A job's reply and its destination.
#[derive(Debug)]
pub struct Settlement {
    /// The job's entry in the queue.
    pub entry: EntryId,
    /// The gateway that submitted the job.
    pub gateway: GatewayId,
    /// The reply.
    pub reply: Reply,
}

/// The state of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Jobs that no worker has claimed, by class, highest first.
    pub waiting: [u64; Priority::ALL.len()],
    /// Jobs claimed and not settled.
    pub in_flight: u64,
    /// How long the oldest waiting job has waited.
    pub oldest_age: Duration,
    /// Jobs ever added, those handed back once more; starts anew when the broker lost its data.
    /// What left the queue is `added - depth() - in_flight`.
    pub added: u64,
}

impl Backlog {
    /// Jobs of all classes that no worker has claimed.
    pub fn depth(&self) -> u64 {
        self.waiting.iter().sum()
    }
}

/// How full the memory of a shard is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShardMemory {
    /// The shard.
    pub shard: ShardId,
    /// The part of its limit that is in use, 0 to 1.
    pub used: f64,
}

/// Reads the state of queues and workers.
#[async_trait]
pub trait Observer: Send + Sync {
    /// All workers and [promises](Controller::promise) of the last hour.
    async fn fleet(&self) -> Result<FleetSnapshot, BrokerError>;

    /// The state of a queue; empty if there is no such queue.
    async fn backlog(&self, queue: &QueueName) -> Result<Backlog, BrokerError>;

    /// How many jobs each worker of a queue holds: claimed and not settled. Workers that hold none
    /// may be missing.
    async fn held(&self, queue: &QueueName) -> Result<HashMap<String, u64>, BrokerError>;

    /// The traffic reports of the last minute, those of gateways that are gone included.
    async fn traffic(&self) -> Result<Vec<TrafficReport>, BrokerError>;

    /// How full the memory of each shard is; without shards that have no limit or do not report it.
    async fn memory(&self) -> Result<Vec<ShardMemory>, BrokerError>;
}

/// What a controller publishes.
#[async_trait]
pub trait Controller: Send + Sync {
    /// Publishes a target for all workers of a queue, present and future, in place of the last one.
    /// Returns its epoch, which workers announce once they follow it.
    async fn publish(&self, queue: &QueueName, wish: Wish) -> Result<u64, BrokerError>;

    /// Promises that a worker will start and announce about what is `expected` when a request for
    /// its model arrives, so that gateways let the request wait. Holds for [`PROMISED`]: to be
    /// renewed while it is true.
    async fn promise(&self, expected: &Announcement) -> Result<(), BrokerError>;

    /// Deletes the names of workers that have held nothing and claimed nothing for `silent`;
    /// returns how many. A living worker claims every second.
    async fn forget(&self, queue: &QueueName, silent: Duration) -> Result<usize, BrokerError>;
}

/// How long a worker counts as alive after it renewed its announcement, and a gateway after its
/// last heartbeat.
pub const LIVENESS: Duration = Duration::from_secs(3);

/// How long a [promise](Controller::promise) holds.
pub const PROMISED: Duration = Duration::from_secs(15);

/// How long a worker may hold a job before others may reclaim it, alive or not.
pub const LEASE: Duration = Duration::from_secs(30);

/// How long after its claim a job may not be reclaimed, even if its worker seems dead.
pub(crate) const RECLAIM_AFTER: Duration = Duration::from_millis(500);

/// How long a claim waits for its first job. Short, because Redis also gives jobs to the blocked
/// read of a worker that hangs.
pub(crate) const CLAIM_WAIT: Duration = Duration::from_secs(1);

/// How often a worker reads its target when no new one is announced.
pub(crate) const GUIDANCE_WAIT: Duration = Duration::from_secs(1);

/// How long a traffic report is kept.
pub(crate) const COUNTED: Duration = Duration::from_mins(1);

/// How long a worker's announcement is kept after its last renewal.
pub const REMEMBERED: Duration = Duration::from_hours(1);
