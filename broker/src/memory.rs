//! The roles inside one process: for the standalone program, and for tests of everything that
//! stands on a broker. Jobs and replies are handed over as they are; nothing is encoded.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};

use crate::{
    Announcement, Backlog, Broker, BrokerError, Consumer, Delivery, EntryId, GatewayId, Inbound,
    Job, Observer, Producer, QueueName, Reply, Settlement, WorkerId,
    roles::{CLAIM_WAIT, LIVENESS, REMEMBERED},
};

/// A broker in this process's memory. Clones share everything.
#[derive(Clone)]
pub struct MemoryBroker(Arc<Shared>);

impl MemoryBroker {
    /// A broker each of whose queues refuses more than `max_waiting` unclaimed jobs.
    pub fn new(max_waiting: usize) -> Self {
        Self(Arc::new(Shared {
            max_waiting,
            started: Instant::now(),
            queues: Mutex::default(),
            gateways: Mutex::default(),
            workers: Mutex::default(),
        }))
    }
}

struct Shared {
    max_waiting: usize,
    /// Zero of the clock that entry ids count.
    started: Instant,
    queues: Mutex<HashMap<QueueName, Arc<Queue>>>,
    gateways: Mutex<HashMap<GatewayId, mpsc::UnboundedSender<Vec<Reply>>>>,
    workers: Mutex<HashMap<String, Presence>>,
}

impl Shared {
    fn queue(&self, name: &QueueName) -> Arc<Queue> {
        let mut queues = lock(&self.queues);
        // No `entry`: it would clone the name for every job.
        if let Some(queue) = queues.get(name) {
            return Arc::clone(queue);
        }
        Arc::clone(queues.entry(name.clone()).or_default())
    }

    /// Hands a batch's replies to one gateway; how many of them found nobody.
    fn reply(&self, gateway: GatewayId, replies: Vec<Reply>) -> usize {
        let count = replies.len();
        match lock(&self.gateways).get(&gateway) {
            Some(channel) if channel.send(replies).is_ok() => 0,
            _ => count,
        }
    }
}

/// What a worker last said, and when. `retired`: it said goodbye.
struct Presence {
    announcement: Announcement,
    seen: Instant,
    retired: bool,
}

/// One queue: jobs in the order of their ids, which is the order they came in, so that a job
/// handed back takes its old place.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    filled: Notify,
}

#[derive(Default)]
struct QueueState {
    waiting: BTreeMap<EntryId, Waiting>,
    in_flight: HashSet<EntryId>,
    sequence: u64,
}

struct Waiting {
    job: Job,
    since: Instant,
}

impl Queue {
    fn take(&self, limit: usize) -> Vec<Delivery> {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let count = limit.min(state.waiting.len());
        let mut deliveries = Vec::with_capacity(count);
        while deliveries.len() < count
            && let Some((entry, Waiting { job, since })) = state.waiting.pop_first()
        {
            state.in_flight.insert(entry);
            let deadline = since + job.ttl;
            let waited = now - since;
            deliveries.push(Delivery { entry, job, waited, claimed_at: now, deadline });
        }
        if !state.waiting.is_empty() {
            // One wake-up may stand for many jobs: pass it on.
            self.filled.notify_one();
        }
        deliveries
    }
}

/// A panic elsewhere leaves these maps whole: every change under a lock is a single call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn producer(&self, gateway: GatewayId) -> Result<Arc<dyn Producer>, BrokerError> {
        let (sender, replies) = mpsc::unbounded_channel();
        lock(&self.0.gateways).insert(gateway, sender);
        let replies = tokio::sync::Mutex::new(replies);
        Ok(Arc::new(MemoryProducer { shared: Arc::clone(&self.0), gateway, replies }))
    }

    async fn consumer(
        &self,
        queue: QueueName,
        worker: WorkerId,
    ) -> Result<Arc<dyn Consumer>, BrokerError> {
        let queue = self.0.queue(&queue);
        Ok(Arc::new(MemoryConsumer { shared: Arc::clone(&self.0), queue, worker }))
    }

    async fn observer(&self) -> Result<Arc<dyn Observer>, BrokerError> {
        Ok(Arc::new(MemoryObserver(Arc::clone(&self.0))))
    }
}

struct MemoryProducer {
    shared: Arc<Shared>,
    gateway: GatewayId,
    /// As many replies as jobs in flight at most, so the channel needs no bound of its own.
    replies: tokio::sync::Mutex<mpsc::UnboundedReceiver<Vec<Reply>>>,
}

#[async_trait]
impl Producer for MemoryProducer {
    async fn submit(&self, queue: &QueueName, job: &Job) -> Result<EntryId, BrokerError> {
        let queue = self.shared.queue(queue);
        let since = Instant::now();
        let mut state = lock(&queue.state);
        if state.waiting.len() >= self.shared.max_waiting {
            return Err(BrokerError::Full);
        }
        let milliseconds = milliseconds(since - self.shared.started);
        let entry = EntryId { milliseconds, sequence: state.sequence };
        state.sequence += 1;
        state.waiting.insert(entry, Waiting { job: job.clone(), since });
        drop(state);
        queue.filled.notify_one();
        Ok(entry)
    }

    async fn withdraw(&self, queue: &QueueName, entry: EntryId) -> Result<(), BrokerError> {
        lock(&self.shared.queue(queue).state).waiting.remove(&entry);
        Ok(())
    }

    async fn receive(&self) -> Inbound {
        match self.replies.lock().await.recv().await {
            Some(replies) => Inbound::Replies(replies),
            // Another producer took over this gateway's id: nothing will ever come here again.
            None => std::future::pending().await,
        }
    }
}

impl Drop for MemoryProducer {
    fn drop(&mut self) {
        let mut gateways = lock(&self.shared.gateways);
        self.replies.get_mut().close();
        if gateways.get(&self.gateway).is_some_and(mpsc::UnboundedSender::is_closed) {
            gateways.remove(&self.gateway);
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

struct MemoryConsumer {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    worker: WorkerId,
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn claim(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let until = Instant::now() + CLAIM_WAIT;
        loop {
            let filled = self.queue.filled.notified();
            let deliveries = self.queue.take(limit);
            if !deliveries.is_empty() || timeout_at(until, filled).await.is_err() {
                return Ok(deliveries);
            }
        }
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<usize, BrokerError> {
        let mut replies: HashMap<GatewayId, Vec<Reply>> = HashMap::new();
        let mut state = lock(&self.queue.state);
        for Settlement { entry, gateway, reply } in settlements {
            state.in_flight.remove(&entry);
            replies.entry(gateway).or_default().push(reply);
        }
        drop(state);
        Ok(replies.into_iter().map(|(gateway, replies)| self.shared.reply(gateway, replies)).sum())
    }

    async fn hand_back(&self, deliveries: Vec<Delivery>) -> Result<(), BrokerError> {
        let mut state = lock(&self.queue.state);
        for Delivery { entry, job, waited, claimed_at, .. } in deliveries {
            state.in_flight.remove(&entry);
            state.waiting.insert(entry, Waiting { job, since: claimed_at - waited });
        }
        drop(state);
        self.queue.filled.notify_one();
        Ok(())
    }

    async fn renew(&self, announcement: &Announcement) -> Result<(), BrokerError> {
        let announcement = announcement.clone();
        let presence = Presence { announcement, seen: Instant::now(), retired: false };
        lock(&self.shared.workers).insert(self.worker.to_string(), presence);
        Ok(())
    }

    async fn retire(&self) -> Result<(), BrokerError> {
        if let Some(presence) = lock(&self.shared.workers).get_mut(&self.worker.to_string()) {
            presence.retired = true;
        }
        Ok(())
    }
}

struct MemoryObserver(Arc<Shared>);

#[async_trait]
impl Observer for MemoryObserver {
    async fn announcements(&self) -> Result<Vec<Announcement>, BrokerError> {
        let mut workers = lock(&self.0.workers);
        workers.retain(|_, presence| presence.seen.elapsed() < REMEMBERED);
        Ok(workers
            .values()
            .map(|Presence { announcement, seen, retired }| Announcement {
                live: !retired && seen.elapsed() < LIVENESS,
                ..announcement.clone()
            })
            .collect())
    }

    async fn backlog(&self, queue: &QueueName) -> Result<Backlog, BrokerError> {
        // Looking must not make a queue: names come from outside.
        let Some(queue) = lock(&self.0.queues).get(queue).cloned() else {
            return Ok(Backlog::default());
        };
        let state = lock(&queue.state);
        Ok(Backlog {
            waiting: state.waiting.len() as u64,
            in_flight: state.in_flight.len() as u64,
            oldest_age: state
                .waiting
                .first_key_value()
                .map_or(Duration::ZERO, |(_, oldest)| oldest.since.elapsed()),
        })
    }
}
