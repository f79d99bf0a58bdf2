//! The shards at which one worker lives and has lived.

use std::{collections::HashSet, sync::Arc};

use batchfleet_policy::shards_in_use;
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, OnceCell, watch},
    time::{Duration, Instant},
};

use super::{
    home::{self, Home},
    shards::Shards,
};
use crate::{
    BrokerError, Claims, Consumer, Delivery, EntryId, QueueName, ShardId, TargetSubscription,
    WorkerId, WorkerRoles,
};

/// How often a worker counts the workers of its queue, to know how many shards are in use.
const COUNTED: Duration = Duration::from_secs(5);

/// The roles of one worker at one shard.
pub(super) struct AtShard {
    pub(super) claims: AsyncMutex<Box<dyn Claims>>,
    pub(super) target: AsyncMutex<Box<dyn TargetSubscription>>,
    pub(super) consumer: Arc<dyn Consumer>,
    /// The entries that the worker holds here.
    held: Mutex<HashSet<EntryId>>,
}

impl AtShard {
    /// Notes deliveries of this shard, and names it in their entries.
    pub(super) fn hold(&self, mut deliveries: Vec<Delivery>, shard: usize) -> Vec<Delivery> {
        self.held.lock().extend(deliveries.iter().map(|delivery| delivery.entry));
        for delivery in &mut deliveries {
            delivery.entry.shard = ShardId(u16::try_from(shard).unwrap_or(u16::MAX));
        }
        deliveries
    }

    /// Notes that the worker no longer holds these entries of this shard.
    pub(super) fn release(&self, entries: &[EntryId]) {
        let mut held = self.held.lock();
        for entry in entries {
            held.remove(entry);
        }
    }

    /// Whether the worker holds no jobs here, and claims none.
    pub(super) fn is_done(&self) -> bool {
        // A claim adds what it holds before it unlocks.
        self.claims.try_lock().is_ok() && self.held.lock().is_empty()
    }
}

/// Where one worker lives, and its roles there and at former homes.
pub(super) struct Homes {
    pub(super) shards: Arc<Shards>,
    queue: QueueName,
    worker: WorkerId,
    /// One for each shard at which the worker has lived.
    roles: Vec<OnceCell<AtShard>>,
    home: Mutex<Home>,
    /// The home, for tasks that wait for another one.
    moved: watch::Sender<usize>,
    /// The workers of the queue, and when they were counted.
    counted: Mutex<Option<(usize, Instant)>>,
}

impl Homes {
    pub(super) fn new(shards: &Arc<Shards>, queue: QueueName, worker: WorkerId) -> Self {
        Self {
            roles: shards.all.iter().map(|_| OnceCell::new()).collect(),
            shards: Arc::clone(shards),
            queue,
            worker,
            home: Mutex::default(),
            moved: watch::Sender::default(),
            counted: Mutex::default(),
        }
    }

    /// The shard at which the worker lives.
    pub(super) fn current(&self) -> usize {
        self.home.lock().current()
    }

    /// Tells when the worker moves.
    pub(super) fn moves(&self) -> watch::Receiver<usize> {
        self.moved.subscribe()
    }

    /// The roles at a shard, opened at first use.
    pub(super) async fn at(&self, shard: usize) -> Result<&AtShard, BrokerError> {
        let open = || async move {
            let broker = &self.shards.all[shard].broker;
            let opened = broker.worker(self.queue.clone(), self.worker).await?;
            let WorkerRoles { claims, consumer, target } = opened;
            let (claims, target) = (AsyncMutex::new(claims), AsyncMutex::new(target));
            Ok::<_, BrokerError>(AtShard { claims, target, consumer, held: Mutex::default() })
        };
        self.roles[shard].get_or_try_init(open).await
    }

    /// The home, and the roles there.
    pub(super) async fn at_home(&self) -> Result<(usize, &AtShard), BrokerError> {
        let shard = self.current();
        Ok((shard, self.at(shard).await?))
    }

    /// Finds the best home, and moves there if it is time. Returns the home.
    pub(super) async fn compare(&self) -> usize {
        let in_use = {
            let shards = self.shards.all.len();
            shards_in_use(self.count().await, self.shards.workers_per_shard, shards)
        };
        let all = self.shards.all.iter();
        let ups: Vec<_> = all.map(|shard| (shard.name.as_str(), shard.is_up())).collect();
        let (worker, queue) = (self.worker.to_string(), self.queue.to_string());
        let best = home::home(&worker, &queue, &ups, in_use);
        let mut home = self.home.lock();
        let before = home.current();
        let current = home.compare(best, ups[before].1, Instant::now());
        drop(home);
        if current != before {
            let shard = ups[current].0;
            tracing::info!(queue, shard, "moved to another Redis");
            self.moved.send_replace(current);
        }
        current
    }

    /// Whether the worker could live at another shard than this one.
    pub(super) fn has_other(&self, shard: usize) -> bool {
        let mut others = self.shards.all.iter().enumerate().filter(|(other, _)| *other != shard);
        others.any(|(_, other)| other.is_up())
    }

    /// The number of living workers of the queue, counted lately.
    async fn count(&self) -> usize {
        let known = *self.counted.lock();
        if let Some((workers, _)) = known.filter(|(_, counted)| counted.elapsed() < COUNTED) {
            return workers;
        }
        let workers = self.shards.living_workers(&self.queue).await;
        *self.counted.lock() = Some((workers, Instant::now()));
        workers
    }
}
