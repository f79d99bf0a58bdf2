//! The roles of programs, and the [`Broker`] that opens them: [`Producer`] and [`Replies`] of a
//! gateway; [`Claims`], [`Consumer`] and [`TargetSubscription`] of a worker; [`Observer`];
//! [`Controller`].
//!
//! A role that only one task may use takes `&mut self`; the other roles can be shared.

use std::{collections::HashMap, error::Error, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    Announcement, Delivery, EntryId, FleetSnapshot, GatewayId, Guidance, Job, Priority, QueueName,
    Reply, ShardId, Target, Traffic, TrafficReport, Wish, WorkerId,
};

/// The error below a [`BrokerError`]. Shared, because `BrokerError` is cloned.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Why a call to the broker failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// The broker is unreachable or did not answer in time. The command may still have been
    /// executed.
    #[error("the broker is unreachable: {0}")]
    Unreachable(#[source] Cause),
    /// The broker has no space left.
    #[error("the broker is full")]
    Full,
    /// The job is larger than the broker takes. Contains its size and the limit, in bytes.
    #[error("the job has {size} bytes, and the broker takes at most {limit}")]
    TooLarge {
        /// The size of the job.
        size: usize,
        /// The limit of the broker.
        limit: usize,
    },
    /// The address is invalid, or the broker is configured in a way that would lose jobs. Retries
    /// do not help: a setting must change.
    #[error("{0}")]
    Misconfigured(#[source] Cause),
    /// The broker does not accept the user or the password of this program, or the user lacks a
    /// permission.
    #[error("{0}")]
    Denied(#[source] Cause),
    /// The broker refused the command, or its answer cannot be parsed.
    #[error("the broker refused: {0}")]
    Refused(#[source] Cause),
}

impl BrokerError {
    /// Every [`code`](Self::code).
    pub const CODES: [&'static str; 6] =
        ["unreachable", "full", "too_large", "misconfigured", "denied", "refused"];

    /// [`Unreachable`](Self::Unreachable) with this cause.
    pub fn unreachable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unreachable(cause.into().into())
    }

    /// [`Misconfigured`](Self::Misconfigured) with this cause.
    pub fn misconfigured(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Misconfigured(cause.into().into())
    }

    /// [`Denied`](Self::Denied) with this cause.
    pub fn denied(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Denied(cause.into().into())
    }

    /// [`Refused`](Self::Refused) with this cause.
    pub fn refused(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(cause.into().into())
    }

    /// The name in metrics and logs, one of [`CODES`](Self::CODES).
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Full => "full",
            Self::TooLarge { .. } => "too_large",
            Self::Misconfigured(_) => "misconfigured",
            Self::Denied(_) => "denied",
            Self::Refused(_) => "refused",
        }
    }
}

/// Opens the roles. One per process.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Opens the roles of one gateway boot. The reply channel is open when the call returns, unless the
    /// broker cannot be reached.
    async fn gateway(&self, gateway: GatewayId) -> Result<GatewayRoles, BrokerError>;

    /// Opens the roles of one worker on one queue.
    async fn worker(&self, queue: QueueName, worker: WorkerId) -> Result<WorkerRoles, BrokerError>;

    /// Opens the role of a program that only reads.
    async fn observer(&self) -> Result<Arc<dyn Observer>, BrokerError>;

    /// Opens the role of the controller.
    async fn controller(&self) -> Result<Arc<dyn Controller>, BrokerError>;

    /// Reads the number of living workers of a queue. Cheap, and may be some seconds old.
    async fn living_workers(&self, queue: &QueueName) -> Result<usize, BrokerError>;
}

/// Whether a broker can be used.
#[derive(Clone, Debug, Default)]
pub struct BrokerHealth {
    /// The present outage; `None` if the broker can be used.
    pub outage: Option<Outage>,
    /// How long the broker has refused commands that this process needs, because its user lacks a
    /// permission; `None` if it refuses none.
    pub denied: Option<Duration>,
    /// A task of this process that the broker needs and that panicked. Only a restart of the
    /// process helps.
    pub panicked: Option<&'static str>,
}

/// A time in which a broker cannot be used.
#[derive(Clone, Debug)]
pub struct Outage {
    /// How long the outage has lasted.
    pub lasts: Duration,
    /// The reason.
    pub error: BrokerError,
}

/// The roles of one gateway boot.
pub struct GatewayRoles {
    /// Submits jobs.
    pub producer: Arc<dyn Producer>,
    /// Receives the replies. Once `replies` is dropped, workers no longer run jobs of this gateway.
    pub replies: Box<dyn Replies>,
}

/// The roles of one worker on one queue.
pub struct WorkerRoles {
    /// Claims jobs.
    pub claims: Box<dyn Claims>,
    /// Settles claimed jobs, reclaims jobs of dead workers, and announces this worker.
    pub consumer: Arc<dyn Consumer>,
    /// Follows the target published for the queue.
    pub target: Box<dyn TargetSubscription>,
}

/// Submits the jobs of one gateway.
#[async_trait]
pub trait Producer: Send + Sync {
    /// Appends a job to a queue.
    ///
    /// After [`BrokerError::Unreachable`] the job may still have been added.
    async fn submit(&self, queue: &QueueName, job: &Job) -> Result<EntryId, BrokerError>;

    /// Submits jobs in this order, in one round trip. Returns the result of [`Producer::submit`]
    /// for each job.
    async fn submit_all(&self, jobs: &[(&QueueName, &Job)]) -> Vec<Result<EntryId, BrokerError>> {
        let mut outcomes = Vec::with_capacity(jobs.len());
        for (queue, job) in jobs {
            outcomes.push(self.submit(queue, job).await);
        }
        outcomes
    }

    /// Publishes the address of this gateway's admin port for other gateways. A broker inside one
    /// process has no other gateways. Returns the published address, if any; it differs from
    /// `admin` if that is an address of every network.
    async fn introduce(&self, _admin: SocketAddr) -> Result<Option<SocketAddr>, BrokerError> {
        Ok(None)
    }

    /// Removes an unclaimed job after its caller gave up. A claimed job is left to its worker.
    async fn withdraw(&self, queue: &QueueName, entry: EntryId) -> Result<(), BrokerError>;

    /// Removes those of these jobs that no worker has claimed. Returns for each entry whether it is
    /// unclaimed. A job that a worker has claimed or handed back stays.
    async fn withdraw_waiting(
        &self,
        queue: &QueueName,
        entries: &[EntryId],
    ) -> Result<Vec<bool>, BrokerError>;

    /// Returns for each entry whether its job is still in the queue, claimed or not. A missing job
    /// was answered or withdrawn, or the broker lost it.
    async fn outstanding(
        &self,
        queue: &QueueName,
        entries: &[EntryId],
    ) -> Result<Vec<bool>, BrokerError>;

    /// Publishes the traffic of this gateway, replacing its previous report. Called about once a
    /// second.
    async fn report(&self, traffic: &[Traffic]) -> Result<(), BrokerError>;

    /// Whether at least one shard accepts jobs. Becomes false after all shards have been
    /// unreachable for 1 to 2 s, and true again with the first answer. Does no I/O.
    fn is_ready(&self) -> bool;
}

/// Receives the replies to the jobs of one gateway.
#[async_trait]
pub trait Replies: Send {
    /// Waits for replies. Reopens a broken subscription, and reports the gap as
    /// [`Inbound::Interrupted`].
    async fn receive(&mut self) -> Inbound;
}

/// An event that a gateway receives.
#[derive(Debug)]
pub enum Inbound {
    /// Replies, all from one batch.
    Replies(Vec<Reply>),
    /// Jobs of this shard, or replies to them, may be lost: the subscription broke and was
    /// reopened, the shard lost its data, or another server took its place.
    Interrupted(ShardId),
}

/// Claims the jobs of one queue.
#[async_trait]
pub trait Claims: Send {
    /// [`claim_within`](Self::claim_within) 1 s.
    async fn claim(&mut self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        self.claim_within(limit, CLAIM_WAIT).await
    }

    /// Claims up to `limit` jobs. If no job is waiting, waits for the first job for up to `wait`,
    /// rounded up to milliseconds and at most 1 s, then returns an empty list.
    ///
    /// If jobs of several classes are waiting, the classes share `limit` by weight, 8 : 4 : 1. Each
    /// class gets at least one place if `limit` allows, and unused places go to the other classes.
    /// Jobs are sorted by class, highest first, and within a class by age, oldest first.
    ///
    /// Not cancel safe: jobs taken by a dropped call stay held until a later claim finds them.
    async fn claim_within(
        &mut self,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, BrokerError>;
}

/// Settles claimed jobs, and publishes that the worker is alive.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Claims jobs held by a dead worker, or held unsettled by any worker for longer than the
    /// [lease](LEASE): up to `limit`, oldest first, but no job that was claimed less than 500 ms
    /// ago. Does not wait for jobs. Called about once a second.
    ///
    /// Returns no jobs during the liveness grace period: for [`LIVENESS`] after the broker came
    /// back or lost its data, live workers may not have renewed their announcements yet.
    async fn reclaim(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError>;

    /// Returns whether [`reclaim`](Self::reclaim) would find a job. Claims none.
    async fn can_reclaim(&self) -> Result<bool, BrokerError>;

    /// Returns for each gateway whether it is alive; `true` for all during the liveness grace
    /// period.
    async fn gateways_alive(&self, gateways: &[GatewayId]) -> Result<Vec<bool>, BrokerError>;

    /// Publishes replies and removes their jobs from the queue. Returns the number of replies whose
    /// gateway was not subscribed.
    ///
    /// Atomic, except when the broker is out of memory: a retry may then deliver a reply twice. A
    /// reply with [`Failure::Poison`] is also recorded as a dead letter, if the broker can store
    /// it.
    ///
    /// [`Failure::Poison`]: crate::Failure::Poison
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<usize, BrokerError>;

    /// Starts the [lease](LEASE) of jobs that this worker holds anew, so that no other worker
    /// reclaims them while this worker is alive.
    async fn renew_leases(&self, entries: &[EntryId]) -> Result<(), BrokerError>;

    /// Returns claimed jobs to the queue, so that another worker can claim them.
    async fn hand_back(&self, deliveries: Vec<Delivery>) -> Result<(), BrokerError>;

    /// Gives up jobs that this worker holds, because the broker is out of reach and gateways send them
    /// elsewhere. Those that are still in the queue when the broker is back are removed instead of run.
    async fn give_up(&self, _entries: &[EntryId]) {}

    /// Renews the announcement of this worker, and marks the worker as alive for [`LIVENESS`].
    /// Called about once a second.
    async fn renew(&self, announcement: &Announcement) -> Result<(), BrokerError>;

    /// Ends the wait of the claim in flight early, where that can lose no job: the worker claims no more.
    fn end_wait(&self) {}

    /// Tells gateways that this worker claims no more jobs here. Other workers leave the jobs that it
    /// still holds to it for [`LIVENESS`]. Called about once a second until it holds none.
    async fn leave(&self) -> Result<(), BrokerError>;

    /// Marks this worker as dead, because it no longer claims jobs.
    async fn retire(&self) -> Result<(), BrokerError>;
}

/// A worker's subscription to the target of its queue.
#[async_trait]
pub trait TargetSubscription: Send {
    /// Waits up to 1 s for a new target, then returns the current guidance. The first call does not
    /// wait. Cancel safe.
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
    /// Jobs that no worker has claimed, by class, highest class first.
    pub waiting: [u64; Priority::ALL.len()],
    /// Jobs that are claimed and not settled.
    pub in_flight: u64,
    /// The age of the oldest waiting job.
    pub oldest_age: Duration,
    /// Jobs added so far. A job that is handed back counts again. Restarts at 0 when the broker
    /// loses its data. The number of jobs that left the queue is `added - depth() - in_flight`.
    pub added: u64,
}

impl Backlog {
    /// Jobs of all classes that no worker has claimed.
    pub fn depth(&self) -> u64 {
        self.waiting.iter().sum()
    }
}

/// Memory usage of a shard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShardMemory {
    /// The shard.
    pub shard: ShardId,
    /// Used memory as a fraction of the limit, 0 to 1.
    pub used: f64,
}

/// What a gateway sees at one look.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The result of [`Observer::news`].
    pub news: Option<FleetSnapshot>,
    /// The result of [`Observer::backlogs`].
    pub backlogs: Vec<Backlog>,
    /// The result of [`Observer::memory`]; `None` if it was not asked for.
    pub memory: Option<Vec<ShardMemory>>,
}

/// Reads the state of queues and workers.
#[async_trait]
pub trait Observer: Send + Sync {
    /// Reads all workers and [promises](Controller::promise) of the last hour.
    async fn fleet(&self) -> Result<FleetSnapshot, BrokerError>;

    /// [`fleet`](Self::fleet) for programs that look several times a second: `None` if no worker has
    /// come or gone since the last call, and the last snapshot is less than a second old. Measurements
    /// in the announcements may be 30 s old.
    async fn news(&self) -> Result<Option<FleetSnapshot>, BrokerError> {
        self.fleet().await.map(Some)
    }

    /// Reads the state of a queue. An unknown queue is empty.
    async fn backlog(&self, queue: &QueueName) -> Result<Backlog, BrokerError>;

    /// [`backlog`](Self::backlog) of each of these queues.
    async fn backlogs(&self, queues: &[QueueName]) -> Result<Vec<Backlog>, BrokerError> {
        let mut backlogs = Vec::with_capacity(queues.len());
        for queue in queues {
            backlogs.push(self.backlog(queue).await?);
        }
        Ok(backlogs)
    }

    /// [`news`](Self::news), the [`backlogs`](Self::backlogs) of these queues, and, if `memory`, the
    /// [`memory`](Self::memory), in as few round trips as possible.
    async fn look(&self, queues: &[QueueName], memory: bool) -> Result<Look, BrokerError> {
        let news = self.news().await?;
        let backlogs = self.backlogs(queues).await?;
        let memory = if memory { Some(self.memory().await?) } else { None };
        Ok(Look { news, backlogs, memory })
    }

    /// Reads how many claimed and unsettled jobs each worker of a queue holds. Workers without jobs
    /// may be missing.
    async fn held(&self, queue: &QueueName) -> Result<HashMap<String, u64>, BrokerError>;

    /// Reads the traffic reports of the last minute, including reports of gateways that are gone.
    async fn traffic(&self) -> Result<Vec<TrafficReport>, BrokerError>;

    /// Reads the memory usage of each shard. Leaves out shards without a memory limit, and shards
    /// that do not report their usage.
    async fn memory(&self) -> Result<Vec<ShardMemory>, BrokerError>;

    /// Reads the addresses that living gateways [introduced](Producer::introduce).
    async fn gateways(&self) -> Result<Vec<SocketAddr>, BrokerError> {
        Ok(Vec::new())
    }

    /// Whether the broker takes no new jobs, because the rest of the [`memory`](Self::memory) that was
    /// last read is for replies. One shard that is full gets no jobs, and does not count.
    fn is_full(&self, memory: &[ShardMemory]) -> bool {
        memory.iter().any(|shard| shard.used >= FULL)
    }

    /// Whether the broker can be used at present. Does not wait for the broker.
    fn health(&self) -> BrokerHealth {
        BrokerHealth::default()
    }

    /// Whether each shard is out of reach at present. Does not wait for them.
    fn outages(&self) -> Vec<bool> {
        vec![self.health().outage.is_some()]
    }
}

/// Publishes the decisions of a controller.
#[async_trait]
pub trait Controller: Send + Sync {
    /// Publishes a target for all current and future workers of a queue, replacing the previous
    /// target. Returns the epoch of the target, which workers announce once they follow the target.
    async fn publish(&self, queue: &QueueName, wish: Wish) -> Result<u64, BrokerError> {
        let epoch = self.next_epoch(queue).await?;
        self.publish_at(queue, Target { epoch, wish }).await?;
        Ok(epoch)
    }

    /// An epoch above those of all targets published for the queue so far.
    async fn next_epoch(&self, queue: &QueueName) -> Result<u64, BrokerError>;

    /// [`publish`](Self::publish) with this epoch.
    async fn publish_at(&self, queue: &QueueName, target: Target) -> Result<(), BrokerError>;

    /// Promises that a worker will start when a request for its model arrives, so that gateways let
    /// the request wait. `expected` approximates the future announcement of the worker. The promise
    /// holds for [`PROMISED`], and must be renewed to last longer.
    async fn promise(&self, expected: &Announcement) -> Result<(), BrokerError>;

    /// Tells gateways that no further worker will serve the queue of `last`, the announcement of
    /// one of its workers. Once no worker is alive, gateways refuse the requests that wait there.
    /// Replaces the promise for the queue, holds for [`PROMISED`], and must be renewed to last
    /// longer; a later promise replaces it.
    async fn retract(&self, last: &Announcement) -> Result<(), BrokerError>;

    /// Deletes the names of workers that hold no jobs and have not tried to claim for `silent`.
    /// Returns the number of deleted names. A live worker claims every second.
    async fn forget(&self, queue: &QueueName, silent: Duration) -> Result<usize, BrokerError>;
}

/// The used share of a shard's memory from which the shard takes no new jobs: the rest is for replies.
pub const FULL: f64 = 0.8;

/// How long a worker counts as alive after its last renewal, and a gateway after its last
/// heartbeat.
pub const LIVENESS: Duration = Duration::from_secs(3);

/// How long a [promise](Controller::promise) holds.
pub const PROMISED: Duration = Duration::from_secs(15);

/// How long a worker may hold a job before other workers may reclaim it, even from a live worker.
pub const LEASE: Duration = Duration::from_secs(30);

/// Minimum time between a claim and a reclaim of the same job, even if the worker seems dead.
pub(crate) const RECLAIM_AFTER: Duration = Duration::from_millis(500);

/// How long a claim waits for its first job. Short, because Redis also gives jobs to the blocked
/// read of a worker that hangs.
pub(crate) const CLAIM_WAIT: Duration = Duration::from_secs(1);

/// How often a worker reads its target while no new target is announced.
pub(crate) const GUIDANCE_WAIT: Duration = Duration::from_secs(1);

/// How long a traffic report is kept.
pub(crate) const COUNTED: Duration = Duration::from_mins(1);

/// How long a worker's announcement is kept after its last renewal.
pub const REMEMBERED: Duration = Duration::from_hours(1);
