//! What programs see of several shards: the sums.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use tokio::sync::Mutex;

use super::{
    shards::{Shards, some},
    weights::{LEFT_TO_LAST, Weights},
};
use crate::{
    Backlog, BrokerError, BrokerHealth, FleetSnapshot, Look, ObservedWorker, Observer, QueueName,
    ShardId, ShardMemory, TrafficReport, roles::FULL,
};

/// The role of a program that only reads.
pub(super) struct ShardedObserver {
    shards: Arc<Shards>,
    weights: Arc<Weights>,
    observers: Vec<Arc<dyn Observer>>,
    /// The last snapshot of each shard; `None` if the shard could not be read.
    last: Mutex<Vec<Option<FleetSnapshot>>>,
}

impl ShardedObserver {
    pub(super) async fn open(
        shards: &Arc<Shards>,
        weights: &Arc<Weights>,
    ) -> Result<Self, BrokerError> {
        let observers =
            try_join_all(shards.all.iter().map(|shard| shard.broker.observer())).await?;
        let last = Mutex::new(vec![None; observers.len()]);
        let (shards, weights) = (Arc::clone(shards), Arc::clone(weights));
        Ok(Self { shards, weights, observers, last })
    }

    /// The sum over the shards of each of these queues. A job that waits where no worker lives any longer
    /// is not counted: its gateway sends it to another shard. Without this, jobs that the last worker has
    /// handed back would count until another worker comes. The same holds for jobs that it took with it.
    fn sums(&self, queues: &[QueueName], shards: &[(usize, Vec<Backlog>)]) -> Vec<Backlog> {
        let mut answered = vec![false; self.observers.len()];
        for (shard, _) in shards {
            answered[*shard] = true;
        }
        let of_queue = |(index, queue): (usize, &QueueName)| {
            let backlogs = shards.iter().filter_map(|(shard, backlogs)| {
                let backlog = *backlogs.get(index)?;
                let deserted = self.weights.deserted_for(queue, *shard, &answered);
                Some(deserted.map_or(backlog, |lasts| of_deserted(backlog, lasts)))
            });
            sum(backlogs)
        };
        queues.iter().enumerate().map(of_queue).collect()
    }

    /// Notes which shards have memory left for jobs. One that tells nothing, for instance because its
    /// memory is not limited, has.
    fn note_memory(&self, known: &[ShardMemory]) {
        for shard in 0..self.observers.len() {
            let is_full =
                |memory: &ShardMemory| usize::from(memory.shard.0) == shard && memory.used >= FULL;
            self.weights.set_full(shard, known.iter().any(is_full));
        }
    }

    /// Asks all shards that can be reached.
    async fn ask<'a, T, Asking>(
        &'a self,
        ask: impl Fn(&'a dyn Observer) -> Asking,
    ) -> Result<Vec<T>, BrokerError>
    where
        Asking: Future<Output = Result<T, BrokerError>>,
    {
        some(join_all(self.observers.iter().map(|observer| ask(observer.as_ref()))).await)
    }
}

/// Joins the snapshots of all shards. A worker that has moved is announced at several; where it lives
/// counts.
fn join(snapshots: Vec<FleetSnapshot>) -> FleetSnapshot {
    let mut workers = HashMap::<String, ObservedWorker>::new();
    let (mut promises, mut promised) = (Vec::new(), HashSet::new());
    for snapshot in snapshots {
        for worker in snapshot.workers {
            let name = worker.announcement.worker.clone();
            let is_better = |known: &ObservedWorker| worker.live && !known.live;
            if workers.get(&name).is_none_or(is_better) {
                workers.insert(name, worker);
            }
        }
        let new = snapshot.promises.into_iter();
        promises
            .extend(new.filter(|promise| promised.insert(promise.expected.model.queue.clone())));
    }
    FleetSnapshot { workers: workers.into_values().collect(), promises }
}

/// The sum of the backlogs of one queue.
fn sum(backlogs: impl Iterator<Item = Backlog>) -> Backlog {
    backlogs.fold(Backlog::default(), |mut sum, backlog| {
        for (sum, waiting) in sum.waiting.iter_mut().zip(backlog.waiting) {
            *sum += waiting;
        }
        sum.in_flight += backlog.in_flight;
        sum.added += backlog.added;
        sum.oldest_age = sum.oldest_age.max(backlog.oldest_age);
        sum
    })
}

/// What counts of a backlog at a shard where no worker has lived for so long.
fn of_deserted(backlog: Backlog, lasts: Duration) -> Backlog {
    let in_flight = if lasts < LEFT_TO_LAST { backlog.in_flight } else { 0 };
    Backlog { waiting: Default::default(), oldest_age: Duration::ZERO, in_flight, ..backlog }
}

fn of_shard(shard: usize, memory: Vec<ShardMemory>) -> impl Iterator<Item = ShardMemory> {
    let shard = ShardId(u16::try_from(shard).unwrap_or(u16::MAX));
    memory.into_iter().map(move |memory| ShardMemory { shard, ..memory })
}

#[async_trait]
impl Observer for ShardedObserver {
    async fn fleet(&self) -> Result<FleetSnapshot, BrokerError> {
        let read = join_all(self.observers.iter().map(|observer| observer.fleet())).await;
        let known: Vec<_> = read.iter().map(|snapshot| snapshot.as_ref().ok().cloned()).collect();
        self.weights.update(&known);
        some(read).map(join)
    }

    async fn news(&self) -> Result<Option<FleetSnapshot>, BrokerError> {
        self.look(&[], false).await.map(|look| look.news)
    }

    async fn backlog(&self, queue: &QueueName) -> Result<Backlog, BrokerError> {
        let backlogs = self.backlogs(std::slice::from_ref(queue)).await?;
        Ok(backlogs.into_iter().next().unwrap_or_default())
    }

    async fn backlogs(&self, queues: &[QueueName]) -> Result<Vec<Backlog>, BrokerError> {
        let read = join_all(self.observers.iter().map(|observer| observer.backlogs(queues))).await;
        let read = read.into_iter().enumerate();
        let read = read.map(|(shard, backlogs)| Ok((shard, backlogs?))).collect();
        Ok(self.sums(queues, &some(read)?))
    }

    async fn look(&self, queues: &[QueueName], memory: bool) -> Result<Look, BrokerError> {
        let mut last = self.last.lock().await;
        let looks = self.observers.iter().map(|observer| observer.look(queues, memory));
        let looks = join_all(looks).await;
        let (mut is_new, mut answered) = (false, Vec::with_capacity(looks.len()));
        let mut news = vec![None; looks.len()];
        for (shard, look) in looks.into_iter().enumerate() {
            match look {
                Ok(mut look) => {
                    if let Some(snapshot) = look.news.take() {
                        is_new = true;
                        last[shard] = Some(snapshot.clone());
                        news[shard] = Some(snapshot);
                    }
                    answered.push(Ok((shard, look)));
                }
                Err(error) => {
                    // The workers of this shard are unknown now; who needs them allows them time.
                    is_new |= last[shard].take().is_some();
                    if !self.shards.all[shard].is_up() {
                        // They find another home. When the shard is back, no job may go there before
                        // a worker does.
                        news[shard] = Some(FleetSnapshot::default());
                    }
                    answered.push(Err(error));
                }
            }
        }
        self.weights.update(&news);
        let answered = some(answered)?;
        let backlogs: Vec<_> =
            answered.iter().map(|(shard, look)| (*shard, look.backlogs.clone())).collect();
        let memory = memory.then(|| {
            let known = answered.into_iter().map(|(shard, look)| (shard, look.memory));
            let known: Vec<_> = known
                .flat_map(|(shard, memory)| of_shard(shard, memory.unwrap_or_default()))
                .collect();
            self.note_memory(&known);
            known
        });
        let news = is_new.then(|| join(last.iter().flatten().cloned().collect()));
        Ok(Look { news, backlogs: self.sums(queues, &backlogs), memory })
    }

    async fn held(&self, queue: &QueueName) -> Result<HashMap<String, u64>, BrokerError> {
        let mut held = HashMap::new();
        for (worker, jobs) in self.ask(|observer| observer.held(queue)).await?.into_iter().flatten()
        {
            *held.entry(worker).or_default() += jobs;
        }
        Ok(held)
    }

    async fn traffic(&self) -> Result<Vec<TrafficReport>, BrokerError> {
        let mut latest = HashMap::<String, TrafficReport>::new();
        for report in self.ask(Observer::traffic).await?.into_iter().flatten() {
            let age = latest.get(&report.gateway).map_or(Duration::MAX, |known| known.age);
            if report.age < age {
                latest.insert(report.gateway.clone(), report);
            }
        }
        Ok(latest.into_values().collect())
    }

    async fn memory(&self) -> Result<Vec<ShardMemory>, BrokerError> {
        let read = join_all(self.observers.iter().map(|observer| observer.memory())).await;
        let read = read.into_iter().enumerate();
        let read = read.map(|(shard, memory)| memory.map(|memory| (shard, memory))).collect();
        let read = some(read)?.into_iter();
        Ok(read.flat_map(|(shard, memory)| of_shard(shard, memory)).collect())
    }

    async fn gateways(&self) -> Result<Vec<SocketAddr>, BrokerError> {
        let gateways: HashSet<_> =
            self.ask(Observer::gateways).await?.into_iter().flatten().collect();
        Ok(gateways.into_iter().collect())
    }

    fn is_full(&self, _: &[ShardMemory]) -> bool {
        let usable: Vec<_> = self.outages().into_iter().map(|is_away| !is_away).collect();
        self.weights.are_full(&usable)
    }

    fn health(&self) -> BrokerHealth {
        self.shards.health()
    }

    fn outages(&self) -> Vec<bool> {
        self.shards.all.iter().map(|shard| shard.outage().is_some()).collect()
    }
}
