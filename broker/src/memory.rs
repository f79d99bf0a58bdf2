//! The roles inside one process, for the program `batchfleet` and for tests of the code that uses a
//! broker. Jobs and replies are moved, not encoded.

mod queue;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, timeout, timeout_at},
};

use self::queue::Queue;
use crate::{
    Announcement, Backlog, Broker, BrokerError, Claims, Consumer, Controller, Delivery, EntryId,
    FleetSnapshot, GatewayId, GatewayRoles, Guidance, Inbound, Job, ObservedWorker, Observer,
    Producer, Promise, QueueName, Replies, Reply, Settlement, ShardMemory, Target,
    TargetSubscription, Traffic, TrafficReport, WorkerId, WorkerRoles,
    roles::{CLAIM_WAIT, COUNTED, GUIDANCE_WAIT, LEASE, LIVENESS, PROMISED, REMEMBERED},
};

/// A broker in the memory of this process. Clones share the same state.
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
    lease: Duration,
}

impl MemoryBroker {
    /// Creates a broker whose queues hold at most `max_waiting` unclaimed jobs each.
    pub fn new(max_waiting: usize) -> Self {
        let shared = Arc::new(Shared {
            max_waiting,
            started: Instant::now(),
            queues: Mutex::default(),
            gateways: Mutex::default(),
            workers: Mutex::default(),
            targets: Mutex::default(),
            traffic: Mutex::default(),
            promises: Mutex::default(),
        });
        Self { shared, lease: LEASE }
    }

    /// Replaces the default lease, [`LEASE`].
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }
}

struct Shared {
    max_waiting: usize,
    /// Entry ids count milliseconds from this time.
    started: Instant,
    queues: Mutex<HashMap<QueueName, Arc<Queue>>>,
    gateways: Mutex<HashMap<GatewayId, mpsc::UnboundedSender<Vec<Reply>>>>,
    workers: Mutex<HashMap<WorkerId, LastRenewal>>,
    targets: Mutex<HashMap<QueueName, watch::Sender<Option<Target>>>>,
    traffic: Mutex<HashMap<GatewayId, (Instant, Vec<Traffic>)>>,
    promises: Mutex<HashMap<QueueName, Promised>>,
}

/// A promise, or a retracted one, and its time.
struct Promised {
    at: Instant,
    expected: Announcement,
    retracted: bool,
}

impl Shared {
    fn queue(&self, name: &QueueName) -> Arc<Queue> {
        let mut queues = self.queues.lock();
        // `entry` would clone the name for every job.
        if let Some(queue) = queues.get(name) {
            return Arc::clone(queue);
        }
        Arc::clone(queues.entry(name.clone()).or_default())
    }

    /// Returns the sender that publishes the target of a queue.
    fn target(&self, queue: &QueueName) -> watch::Sender<Option<Target>> {
        self.targets.lock().entry(queue.clone()).or_default().clone()
    }

    /// Sets for each delivery whether its gateway is subscribed.
    fn set_awaited(&self, deliveries: &mut [Delivery]) {
        let gateways = self.gateways.lock();
        for Delivery { job, awaited, .. } in deliveries {
            *awaited = gateways.get(&job.gateway).is_some_and(|channel| !channel.is_closed());
        }
    }

    /// Stores a promise, or a retracted one.
    fn promised(&self, expected: &Announcement, retracted: bool) {
        let promised = Promised { at: Instant::now(), expected: expected.clone(), retracted };
        self.promises.lock().insert(expected.model.queue.clone(), promised);
    }

    /// Sends replies to a gateway. Returns the number of replies that did not reach it.
    fn reply(&self, gateway: GatewayId, replies: Vec<Reply>) -> usize {
        let count = replies.len();
        match self.gateways.lock().get(&gateway) {
            Some(channel) if channel.send(replies).is_ok() => 0,
            _ => count,
        }
    }
}

/// The last announcement of a worker, and the time of its last sign of life.
struct LastRenewal {
    announcement: Announcement,
    seen: Instant,
    /// Whether the worker claims no more jobs.
    has_left: bool,
    retired: bool,
}

impl LastRenewal {
    /// Whether the worker claims jobs.
    fn live(&self) -> bool {
        !self.has_left && self.keeps_jobs()
    }

    /// Whether the jobs that the worker holds are left to it.
    fn keeps_jobs(&self) -> bool {
        !self.retired && self.seen.elapsed() < LIVENESS
    }

    fn serves(&self, queue: &QueueName) -> bool {
        self.announcement.model.queue == *queue
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn gateway(&self, gateway: GatewayId) -> Result<GatewayRoles, BrokerError> {
        let (sender, replies) = mpsc::unbounded_channel();
        self.shared.gateways.lock().insert(gateway, sender);
        let shared = || Arc::clone(&self.shared);
        Ok(GatewayRoles {
            producer: Arc::new(MemoryProducer { shared: shared(), gateway }),
            replies: Box::new(MemoryReplies { shared: shared(), gateway, replies }),
        })
    }

    async fn worker(&self, queue: QueueName, worker: WorkerId) -> Result<WorkerRoles, BrokerError> {
        let mut target = self.shared.target(&queue).subscribe();
        // A target published earlier is new to this worker.
        target.mark_changed();
        let (shared, lease) = (|| Arc::clone(&self.shared), self.lease);
        let jobs = self.shared.queue(&queue);
        let no_more = Arc::new(Notify::new());
        let claims = MemoryClaims {
            shared: shared(),
            queue: Arc::clone(&jobs),
            worker,
            no_more: no_more.clone(),
        };
        let consumer = MemoryConsumer { shared: shared(), queue: jobs, worker, lease, no_more };
        Ok(WorkerRoles {
            claims: Box::new(claims),
            consumer: Arc::new(consumer),
            target: Box::new(MemoryTarget { shared: shared(), queue, target }),
        })
    }

    async fn observer(&self) -> Result<Arc<dyn Observer>, BrokerError> {
        Ok(Arc::new(MemoryObserver(Arc::clone(&self.shared))))
    }

    async fn controller(&self) -> Result<Arc<dyn Controller>, BrokerError> {
        Ok(Arc::new(MemoryController(Arc::clone(&self.shared))))
    }

    async fn living_workers(&self, queue: &QueueName) -> Result<usize, BrokerError> {
        let workers = self.shared.workers.lock();
        Ok(workers.values().filter(|renewal| renewal.live() && renewal.serves(queue)).count())
    }
}

struct MemoryProducer {
    shared: Arc<Shared>,
    gateway: GatewayId,
}

#[async_trait]
impl Producer for MemoryProducer {
    async fn submit(&self, queue: &QueueName, job: &Job) -> Result<EntryId, BrokerError> {
        let Shared { max_waiting, started, .. } = *self.shared;
        self.shared.queue(queue).add(job.clone(), max_waiting, started).ok_or(BrokerError::Full)
    }

    async fn withdraw(&self, queue: &QueueName, entry: EntryId) -> Result<(), BrokerError> {
        self.shared.queue(queue).withdraw(entry);
        Ok(())
    }

    async fn withdraw_waiting(
        &self,
        queue: &QueueName,
        entries: &[EntryId],
    ) -> Result<Vec<bool>, BrokerError> {
        let queue = self.shared.queue(queue);
        Ok(entries.iter().map(|entry| queue.withdraw(*entry)).collect())
    }

    async fn outstanding(
        &self,
        queue: &QueueName,
        entries: &[EntryId],
    ) -> Result<Vec<bool>, BrokerError> {
        Ok(self.shared.queue(queue).outstanding(entries))
    }

    async fn report(&self, traffic: &[Traffic]) -> Result<(), BrokerError> {
        let report = (Instant::now(), traffic.to_vec());
        self.shared.traffic.lock().insert(self.gateway, report);
        Ok(())
    }

    fn is_ready(&self) -> bool {
        true
    }
}

struct MemoryReplies {
    shared: Arc<Shared>,
    gateway: GatewayId,
    /// Unbounded, because the jobs in flight limit the number of replies.
    replies: mpsc::UnboundedReceiver<Vec<Reply>>,
}

#[async_trait]
impl Replies for MemoryReplies {
    async fn receive(&mut self) -> Inbound {
        match self.replies.recv().await {
            Some(replies) => Inbound::Replies(replies),
            // Another role took over the gateway's id, so no more replies will arrive.
            None => std::future::pending().await,
        }
    }
}

impl Drop for MemoryReplies {
    fn drop(&mut self) {
        let mut gateways = self.shared.gateways.lock();
        self.replies.close();
        if gateways.get(&self.gateway).is_some_and(mpsc::UnboundedSender::is_closed) {
            gateways.remove(&self.gateway);
        }
    }
}

struct MemoryClaims {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    worker: WorkerId,
    /// Ends the wait of a claim.
    no_more: Arc<Notify>,
}

#[async_trait]
impl Claims for MemoryClaims {
    async fn claim_within(
        &mut self,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, BrokerError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let until = Instant::now() + wait.min(CLAIM_WAIT);
        loop {
            let filled = self.queue.filled.notified();
            let mut deliveries = self.queue.claim(self.worker, limit);
            self.shared.set_awaited(&mut deliveries);
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            tokio::select! {
                filled = timeout_at(until, filled) => if filled.is_err() {
                    return Ok(deliveries);
                },
                () = self.no_more.notified() => return Ok(deliveries),
            }
        }
    }
}

struct MemoryConsumer {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    worker: WorkerId,
    lease: Duration,
    no_more: Arc<Notify>,
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn reclaim(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        let workers = self.shared.workers.lock();
        let keeps = |worker| workers.get(&worker).is_some_and(LastRenewal::keeps_jobs);
        let dead = |worker| worker != self.worker && !keeps(worker);
        let mut deliveries = self.queue.reclaim(self.worker, limit, self.lease, dead);
        self.shared.set_awaited(&mut deliveries);
        Ok(deliveries)
    }

    async fn can_reclaim(&self) -> Result<bool, BrokerError> {
        let workers = self.shared.workers.lock();
        let keeps = |worker| workers.get(&worker).is_some_and(LastRenewal::keeps_jobs);
        let dead = |worker| worker != self.worker && !keeps(worker);
        Ok(self.queue.has_overdue(self.lease, dead))
    }

    async fn gateways_alive(&self, gateways: &[GatewayId]) -> Result<Vec<bool>, BrokerError> {
        let known = self.shared.gateways.lock();
        Ok(gateways.iter().map(|gateway| known.contains_key(gateway)).collect())
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<usize, BrokerError> {
        let mut replies: HashMap<GatewayId, Vec<Reply>> = HashMap::new();
        self.queue.remove(settlements.iter().map(|settlement| settlement.entry));
        for Settlement { gateway, reply, .. } in settlements {
            replies.entry(gateway).or_default().push(reply);
        }
        Ok(replies.into_iter().map(|(gateway, replies)| self.shared.reply(gateway, replies)).sum())
    }

    async fn renew_leases(&self, entries: &[EntryId]) -> Result<(), BrokerError> {
        self.queue.renew_leases(self.worker, entries);
        Ok(())
    }

    async fn hand_back(&self, deliveries: Vec<Delivery>) -> Result<(), BrokerError> {
        self.queue.hand_back(deliveries);
        Ok(())
    }

    async fn renew(&self, announcement: &Announcement) -> Result<(), BrokerError> {
        let announcement = announcement.clone();
        let (has_left, retired) = (false, false);
        let renewal = LastRenewal { announcement, seen: Instant::now(), has_left, retired };
        self.shared.workers.lock().insert(self.worker, renewal);
        Ok(())
    }

    fn end_wait(&self) {
        self.no_more.notify_one();
    }

    async fn leave(&self) -> Result<(), BrokerError> {
        if let Some(renewal) = self.shared.workers.lock().get_mut(&self.worker) {
            (renewal.has_left, renewal.seen) = (true, Instant::now());
        }
        Ok(())
    }

    async fn retire(&self) -> Result<(), BrokerError> {
        if let Some(renewal) = self.shared.workers.lock().get_mut(&self.worker) {
            renewal.retired = true;
        }
        Ok(())
    }
}

struct MemoryTarget {
    shared: Arc<Shared>,
    queue: QueueName,
    target: watch::Receiver<Option<Target>>,
}

#[async_trait]
impl TargetSubscription for MemoryTarget {
    async fn guidance(&mut self) -> Result<Guidance, BrokerError> {
        // The sender lives as long as the broker, and a timeout is no failure.
        drop(timeout(GUIDANCE_WAIT, self.target.changed()).await);
        let target = *self.target.borrow_and_update();
        let serves = |renewal: &&LastRenewal| renewal.live() && renewal.serves(&self.queue);
        let workers = self.shared.workers.lock().values().filter(serves).count();
        Ok(Guidance { workers: Some(workers), target })
    }
}

struct MemoryObserver(Arc<Shared>);

#[async_trait]
impl Observer for MemoryObserver {
    async fn fleet(&self) -> Result<FleetSnapshot, BrokerError> {
        let mut workers = self.0.workers.lock();
        workers.retain(|_, renewal| renewal.seen.elapsed() < REMEMBERED);
        let observe = |renewal: &LastRenewal| ObservedWorker {
            announcement: renewal.announcement.clone(),
            live: renewal.live(),
        };
        let mut promises = self.0.promises.lock();
        promises.retain(|_, promised| promised.at.elapsed() < REMEMBERED);
        let promise = |promised: &Promised| {
            let (is_recent, retracted) = (promised.at.elapsed() < PROMISED, promised.retracted);
            Promise {
                expected: promised.expected.clone(),
                holds: is_recent && !retracted,
                retracted: is_recent && retracted,
            }
        };
        Ok(FleetSnapshot {
            workers: workers.values().map(observe).collect(),
            promises: promises.values().map(promise).collect(),
        })
    }

    async fn backlog(&self, queue: &QueueName) -> Result<Backlog, BrokerError> {
        // Looks up the queue without creating it, because the name may be unknown.
        let queue = self.0.queues.lock().get(queue).cloned();
        Ok(queue.map_or_else(Backlog::default, |queue| queue.backlog()))
    }

    async fn held(&self, queue: &QueueName) -> Result<HashMap<String, u64>, BrokerError> {
        let queue = self.0.queues.lock().get(queue).cloned();
        Ok(queue.map_or_else(HashMap::new, |queue| queue.held()))
    }

    async fn traffic(&self) -> Result<Vec<TrafficReport>, BrokerError> {
        let mut reports = self.0.traffic.lock();
        reports.retain(|_, (published, _)| published.elapsed() < COUNTED);
        let report = |(gateway, (published, traffic)): (&GatewayId, &(Instant, Vec<Traffic>))| {
            let (gateway, traffic) = (gateway.to_string(), traffic.clone());
            TrafficReport { gateway, age: published.elapsed(), traffic }
        };
        Ok(reports.iter().map(report).collect())
    }

    async fn memory(&self) -> Result<Vec<ShardMemory>, BrokerError> {
        Ok(Vec::new())
    }
}

struct MemoryController(Arc<Shared>);

#[async_trait]
impl Controller for MemoryController {
    async fn next_epoch(&self, queue: &QueueName) -> Result<u64, BrokerError> {
        let now = u64::try_from(self.0.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let last = *self.0.target(queue).borrow();
        Ok(now.max(last.map_or(0, |last| last.epoch) + 1))
    }

    async fn publish_at(&self, queue: &QueueName, target: Target) -> Result<(), BrokerError> {
        self.0.target(queue).send_replace(Some(target));
        Ok(())
    }

    async fn promise(&self, expected: &Announcement) -> Result<(), BrokerError> {
        self.0.promised(expected, false);
        Ok(())
    }

    async fn retract(&self, last: &Announcement) -> Result<(), BrokerError> {
        self.0.promised(last, true);
        Ok(())
    }

    async fn forget(&self, _: &QueueName, _: Duration) -> Result<usize, BrokerError> {
        // This broker keeps no names of workers without jobs.
        Ok(0)
    }
}
