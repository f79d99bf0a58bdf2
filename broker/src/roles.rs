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
    /// Receives their replies. While it lives, workers count on this gateway to listen.
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
    /// After [`BrokerError::Unreachable`] the job may stand in the queue all the same.
    async fn submit(&self, queue: &QueueName, job: &Job) -> Result<EntryId, BrokerError>;

    /// Adds several jobs in this order, cheaper than one by one; tells of each what
    /// [`Producer::submit`] would.
    async fn submit_all(&self, jobs: &[(&QueueName, &Job)]) -> Vec<Result<EntryId, BrokerError>> {
        let mut outcomes = Vec::with_capacity(jobs.len());
        for (queue, job) in jobs {
            outcomes.push(self.submit(queue, job).await);
        }
        outcomes
    }

    /// Takes a job that nobody waits for out of its queue, if no worker has claimed it yet.
    async fn withdraw(&self, queue: &QueueName, entry: EntryId) -> Result<(), BrokerError>;

    /// Which of these jobs are still in the queue, claimed or not; the others were answered or
    /// withdrawn, or the broker lost them.
    async fn outstanding(
        &self,
        queue: &QueueName,
        entries: &[EntryId],
    ) -> Result<Vec<bool>, BrokerError>;

    /// Says what this gateway has counted, in place of what it said last; called about once a
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

/// What reaches a gateway.
#[derive(Debug)]
pub enum Inbound {
    /// Answers, at most one batch's worth.
    Replies(Vec<Reply>),
    /// Jobs of this shard, or answers to them, may be lost: the subscription was broken and is open
    /// again, or the shard lost its data, or another server took its place.
    Interrupted(ShardId),
}

/// Claims the jobs of one queue.
#[async_trait]
pub trait Claims: Send {
    /// Claims `limit` jobs or however many there are; waits up to a second for the first, and
    /// returns nothing when none came.
    ///
    /// Where several classes wait, they share `limit` by their weights, 8 : 4 : 1, each gets at
    /// least one place if there are enough, and what one leaves free goes to the others. The
    /// highest class comes first, within a class the oldest.
    ///
    /// Not cancel safe: jobs that a dropped claim took are held until a later claim finds them.
    async fn claim(&mut self, limit: usize) -> Result<Vec<Delivery>, BrokerError>;
}

/// What a worker does with claimed jobs, and how it shows that it lives.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Claims up to `limit` jobs that a dead worker holds, or that anybody has held unsettled for
    /// longer than the [lease](LEASE); the oldest first, none that is held for less than half a
    /// second. Returns at once; called about once a second.
    ///
    /// Returns nothing for a few seconds after the broker came back or lost its data: living
    /// workers may not have said yet that they live.
    async fn reclaim(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError>;

    /// Which of these gateways live and wait for answers. In doubt they do: when the broker came
    /// back or lost its data a moment ago.
    async fn gateways_alive(&self, gateways: &[GatewayId]) -> Result<Vec<bool>, BrokerError>;

    /// Sends replies and removes their jobs from the queue, all or nothing; only a full broker may
    /// have heard a reply that comes once more after an error. Returns how many
    /// replies found no gateway listening. A reply that says [`Failure::Poison`] is also recorded
    /// where the broker can keep it.
    ///
    /// [`Failure::Poison`]: crate::Failure::Poison
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<usize, BrokerError>;

    /// Gives claimed jobs back, unanswered, for another worker.
    async fn hand_back(&self, deliveries: Vec<Delivery>) -> Result<(), BrokerError>;

    /// Says that this worker is alive and serves `announcement.model`; good for the liveness
    /// period, so called about once a second.
    async fn renew(&self, announcement: &Announcement) -> Result<(), BrokerError>;

    /// Says that this worker claims no more, so that nobody counts on it.
    async fn retire(&self) -> Result<(), BrokerError>;
}

/// A worker's subscription to the target of its queue.
#[async_trait]
pub trait TargetSubscription: Send {
    /// Waits until a target is published, at most a second, and returns what holds now; returns at
    /// once the first time. Cancel safe.
    async fn guidance(&mut self) -> Result<Guidance, BrokerError>;
}

/// A job's reply, and where it goes.
#[derive(Debug)]
pub struct Settlement {
    /// The job's place in the queue.
    pub entry: EntryId,
    /// The gateway that asked.
    pub gateway: GatewayId,
    /// The answer.
    pub reply: Reply,
}

/// What stands in one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Jobs that no worker has claimed, by class, highest first.
    pub waiting: [u64; Priority::ALL.len()],
    /// Jobs claimed and not settled.
    pub in_flight: u64,
    /// How long the oldest waiting job has waited.
    pub oldest_age: Duration,
    /// Jobs ever added, those handed back once more; starts anew when the broker lost its data. What
    /// left the queue is `added - depth() - in_flight`.
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

/// Looks at queues and workers without touching them.
#[async_trait]
pub trait Observer: Send + Sync {
    /// All workers and [promises](Controller::promise) of the last hour.
    async fn fleet(&self) -> Result<FleetSnapshot, BrokerError>;

    /// What stands in a queue.
    async fn backlog(&self, queue: &QueueName) -> Result<Backlog, BrokerError>;

    /// How many jobs each worker of a queue has claimed and not settled, by its name; those that
    /// hold none are there as well, or not.
    async fn held(&self, queue: &QueueName) -> Result<HashMap<String, u64>, BrokerError>;

    /// What gateways have counted, those that fell silent a while ago included.
    async fn traffic(&self) -> Result<Vec<TrafficReport>, BrokerError>;

    /// How full the memory of each shard is; without those that have no limit, or may not be asked.
    async fn memory(&self) -> Result<Vec<ShardMemory>, BrokerError>;
}

/// Tells workers what to go by.
#[async_trait]
pub trait Controller: Send + Sync {
    /// Publishes a wish for all workers of a queue, in place of the last one; those that come later
    /// find it as well. Returns its epoch, by which one can tell who goes by it.
    async fn publish(&self, queue: &QueueName, wish: Wish) -> Result<u64, BrokerError>;

    /// Promises that a worker will start and announce about what is `expected` when a request for
    /// its model arrives, so that gateways let the request wait. Holds for [`PROMISED`]: to be
    /// renewed while it is true.
    async fn promise(&self, expected: &Announcement) -> Result<(), BrokerError>;

    /// Forgets the names of workers that have held nothing and claimed nothing for so long; returns
    /// how many. Only those who are gone are so silent.
    async fn forget(&self, queue: &QueueName, silent: Duration) -> Result<usize, BrokerError>;
}

/// How long a worker counts as alive after it renewed its announcement, and a gateway after its
/// last sign of life.
pub const LIVENESS: Duration = Duration::from_secs(3);

/// How long a [promise](Controller::promise) holds.
pub const PROMISED: Duration = Duration::from_secs(15);

/// How long a worker may hold a job before others may reclaim it, alive or not.
pub const LEASE: Duration = Duration::from_secs(30);

/// How long a job is left alone after it was claimed, even if its worker seems dead.
pub(crate) const RECLAIM_AFTER: Duration = Duration::from_millis(500);

/// How long a claim waits for its first job. Redis hands what comes meanwhile to whoever waits,
/// frozen or not, so the wait is short.
pub(crate) const CLAIM_WAIT: Duration = Duration::from_secs(1);

/// How long a worker goes by what it was told, unless it hears that there is something new.
pub(crate) const GUIDANCE_WAIT: Duration = Duration::from_secs(1);

/// How long what a gateway counted is remembered after it said so for the last time.
pub(crate) const COUNTED: Duration = Duration::from_mins(1);

/// How long a worker's announcement is remembered after its last renewal.
pub const REMEMBERED: Duration = Duration::from_hours(1);
