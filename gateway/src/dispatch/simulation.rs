//! Simulation of the dispatcher and its sweep: the production code runs on a paused clock, against
//! a queue that crashes, loses data, duplicates, reorders and stalls. Each seed is one simulated
//! world.
//!
//! In every world, each caller gets exactly one result by its deadline: the answer to its own
//! request, or an error. A caller with a long deadline gets an answer, unless the job was lost on
//! every allowed attempt. The books balance, and the ledger is empty at the end.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use batchfleet_broker::{
    Announcement, BrokerError, EntryId, Failure, FleetSnapshot, GatewayRoles, Inbound, Job,
    ObservedWorker, Producer, QueueName, Replies, Reply, ReplyError, ShardId, Timing, Traffic,
    WorkerId,
};
use bytes::Bytes;
use parking_lot::MutexGuard;
use prometheus::Registry;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use super::{
    tests::{answer_to, metric, question, spec, tensor},
    *,
};
use crate::{catalog::Catalog, ledger::MOST_ATTEMPTS};

/// The number of worlds, unless `SIMULATION_SEEDS` is set.
const SEEDS: u64 = 500;
const CALLERS: u32 = 300;
const WORKERS: usize = 4;
/// Duration of the period with faults.
const TROUBLE: Duration = Duration::from_secs(40);
/// The deadline of most callers, longer than any sequence of faults in this simulation.
const PATIENCE: Duration = Duration::from_mins(1);
/// Tolerance for results after the deadline.
const SLACK: Duration = Duration::from_millis(250);

/// A queue with faults.
struct World {
    rng: StdRng,
    down_since: Option<Instant>,
    waiting: BTreeMap<EntryId, Job>,
    claimed: BTreeMap<EntryId, Job>,
    sequence: u64,
    troubled: bool,
    /// The last attempt of each request, by its input.
    attempts: HashMap<Bytes, u8>,
}

impl World {
    fn chance(&mut self, probability: f64) -> bool {
        self.troubled && self.rng.random_bool(probability)
    }

    fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(0..=most))
    }

    fn add(&mut self, job: Job) -> EntryId {
        self.sequence += 1;
        self.attempts.insert(job.inputs[0].data.clone(), job.attempt);
        let entry =
            EntryId { priority: job.priority, sequence: self.sequence, ..EntryId::default() };
        self.waiting.insert(entry, job);
        entry
    }

    fn forget_everything(&mut self) {
        self.waiting.clear();
        self.claimed.clear();
    }
}

struct SimProducer {
    model: Arc<Model>,
    world: Mutex<World>,
    inbound: mpsc::UnboundedSender<Inbound>,
}

impl SimProducer {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    fn interrupt(&self) {
        self.inbound.send(Inbound::Interrupted(ShardId::default())).unwrap();
    }

    fn lost() -> BrokerError {
        BrokerError::unreachable("simulated")
    }
}

#[async_trait]
impl Producer for SimProducer {
    async fn submit(&self, _: &QueueName, job: &Job) -> Result<EntryId, BrokerError> {
        let pause = self.world().millis(3);
        sleep(pause).await;
        let mut world = self.world();
        if world.down_since.is_some() {
            return Err(Self::lost());
        }
        let entry = world.add(job.clone());
        // The job arrived, but its confirmation is lost.
        if world.chance(0.02) { Err(Self::lost()) } else { Ok(entry) }
    }

    async fn withdraw(&self, _: &QueueName, entry: EntryId) -> Result<(), BrokerError> {
        self.world().waiting.remove(&entry);
        Ok(())
    }

    async fn withdraw_waiting(
        &self,
        _: &QueueName,
        all: &[EntryId],
    ) -> Result<Vec<bool>, BrokerError> {
        let mut world = self.world();
        Ok(all.iter().map(|entry| world.waiting.remove(entry).is_some()).collect())
    }

    async fn outstanding(&self, _: &QueueName, all: &[EntryId]) -> Result<Vec<bool>, BrokerError> {
        sleep(Duration::from_millis(1)).await;
        let world = self.world();
        if world.down_since.is_some() {
            return Err(Self::lost());
        }
        let is_outstanding =
            |entry| world.waiting.contains_key(entry) || world.claimed.contains_key(entry);
        Ok(all.iter().map(is_outstanding).collect())
    }

    async fn report(&self, _: &[Traffic]) -> Result<(), BrokerError> {
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.world().down_since.is_none_or(|since| since.elapsed() < Duration::from_secs(1))
    }
}

struct SimReplies(mpsc::UnboundedReceiver<Inbound>);

#[async_trait]
impl Replies for SimReplies {
    async fn receive(&mut self) -> Inbound {
        self.0.recv().await.unwrap()
    }
}

/// Task: claims a few jobs, runs them and answers, or crashes.
async fn work(broker: Arc<SimProducer>) {
    loop {
        let batch: Vec<_> = {
            let mut world = broker.world();
            let size = if world.down_since.is_some() { 0 } else { 8.min(world.waiting.len()) };
            (0..size).filter_map(|_| world.waiting.pop_first()).collect()
        };
        broker.world().claimed.extend(batch.clone());
        sleep(Duration::from_millis(20)).await;
        if broker.world().chance(0.05) {
            // A crash: after the liveness period another worker reclaims the jobs.
            sleep(Duration::from_secs(4)).await;
            let mut world = broker.world();
            for (entry, job) in batch {
                if world.claimed.remove(&entry).is_some() {
                    world.waiting.insert(entry, job);
                }
            }
            continue;
        }
        while broker.world().down_since.is_some() {
            sleep(Duration::from_millis(100)).await;
        }
        answer(&broker, batch);
    }
}

/// Settles a batch: its jobs leave the queue, its replies may be lost, delayed or duplicated.
fn answer(broker: &Arc<SimProducer>, batch: Vec<(EntryId, Job)>) {
    let mut world = broker.world();
    for (entry, job) in batch {
        world.claimed.remove(&entry);
        let reply = Reply {
            id: job.id,
            attempt: job.attempt,
            digest: job.digest,
            timing: Timing::default(),
            outcome: if world.chance(0.02) { Err(unawaited()) } else { Ok(job.inputs) },
            pushed: None,
        };
        if world.chance(0.02) {
            continue; // The reply is lost.
        }
        let copies = if world.chance(0.05) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = if world.chance(0.05) { world.millis(8000) } else { world.millis(2) };
            let (broker, reply) = (broker.clone(), reply.clone());
            tokio::spawn(async move {
                sleep(delay).await;
                broker.inbound.send(Inbound::Replies(vec![reply])).unwrap();
            });
        }
    }
}

/// The error of a job that did not run, because its gateway was unsubscribed when a worker claimed
/// the job.
fn unawaited() -> ReplyError {
    ReplyError { failure: Failure::Unawaited, message: String::new() }
}

/// Task: causes outages and losses of all data during [`TROUBLE`].
async fn trouble(broker: Arc<SimProducer>) {
    let end = Instant::now() + TROUBLE;
    while Instant::now() < end {
        let pause = broker.world().millis(10_000);
        sleep(pause).await;
        let (outage, forgetful) = {
            let mut world = broker.world();
            (world.chance(0.6), world.chance(0.5))
        };
        if forgetful {
            broker.world().forget_everything();
        }
        if outage {
            broker.world().down_since = Some(Instant::now());
            let length = broker.world().millis(4000);
            sleep(length).await;
            broker.world().down_since = None;
        } else {
            sleep(Duration::from_millis(500)).await;
        }
        broker.interrupt();
    }
    broker.world().troubled = false;
}

/// Simulates one caller. Most callers wait long, some have a short deadline, some leave early.
async fn call(
    gateway: Arc<(Dispatcher, GatewayMetrics)>,
    mailbox: Mailbox,
    broker: Arc<SimProducer>,
    number: u32,
    seed: u64,
) {
    let (dispatcher, metrics) = &*gateway;
    let model = broker.model.clone();
    let mut rng = StdRng::seed_from_u64(seed ^ (u64::from(number) << 32));
    let arrival = rng.random_range(0..60_000);
    sleep(Duration::from_millis(arrival)).await;
    let patience = match number % 10 {
        0 => Duration::from_millis(rng.random_range(5..2000)),
        _ => PATIENCE,
    };
    let mut asked = question(number);
    asked.deadline = Instant::now() + patience;
    let (deadline, leaves) = (asked.deadline, number % 10 == 1);
    let answer = answer_to(dispatcher, metrics, &model, asked, &mailbox);
    if leaves {
        let stay = Duration::from_millis(rng.random_range(0..100));
        drop(tokio::time::timeout(stay, answer).await);
        return;
    }
    let outcome = answer.await;
    assert!(Instant::now() <= deadline + SLACK, "caller {number} got its result late");
    match outcome {
        Ok(reply) => assert_eq!(reply.outcome.unwrap(), [tensor(number)], "caller {number}"),
        // The request was refused immediately, because the queue was unreachable.
        Err(InferError::QueueUnreachable) if Instant::now() < deadline => {}
        Err(error) => {
            let attempts = broker.world().attempts.get(&tensor(number).data).map_or(0, |n| n + 1);
            let unlucky = attempts == MOST_ATTEMPTS;
            assert!(patience < PATIENCE || unlucky, "caller {number} got no answer: {error}");
        }
    }
}

async fn simulate(seed: u64) {
    let registry = Registry::new();
    let metrics = GatewayMetrics::new(&registry).unwrap();
    let catalog = Catalog::new(metrics.clone(), Duration::from_mins(10));
    let workers = vec![ObservedWorker::live(Announcement::new(WorkerId(1), spec()))];
    catalog.update(FleetSnapshot { workers, promises: Vec::new() });
    let model = catalog.find("m", None, |_| true).unwrap();
    let (inbound, outbound) = mpsc::unbounded_channel();
    let broker = Arc::new(SimProducer {
        model,
        world: Mutex::new(World {
            rng: StdRng::seed_from_u64(seed),
            down_since: None,
            waiting: BTreeMap::new(),
            claimed: BTreeMap::new(),
            sequence: 0,
            troubled: true,
            attempts: HashMap::new(),
        }),
        inbound,
    });
    let draining = CancellationToken::new();
    let roles = GatewayRoles { producer: broker.clone(), replies: Box::new(SimReplies(outbound)) };
    let (dispatcher, mut background) =
        Dispatcher::start(GatewayId(7), roles, 10_000, draining, &metrics);
    let gateway = Arc::new((dispatcher, metrics));
    let (mailbox, emptied) = Mailbox::open();
    background.spawn("emptied", emptied);
    background.spawn("trouble", trouble(broker.clone()));
    for _ in 0..WORKERS {
        background.spawn("work", work(broker.clone()));
    }
    let mut callers: JoinSet<_> = (0..CALLERS)
        .map(|number| call(gateway.clone(), mailbox.clone(), broker.clone(), number, seed))
        .collect();
    while let Some(called) = callers.join_next().await {
        called.unwrap();
    }
    let count = |name: &str| metric(&registry, name, "m");
    let accepted = count("batchfleet_gateway_accepted_total");
    assert_eq!(accepted, count("batchfleet_gateway_answered_total"), "the books do not balance");
    assert_eq!(count("batchfleet_gateway_in_flight"), 0);
    assert_eq!(metric(&registry, "batchfleet_gateway_misrouted_total", ""), 0);
    assert!(gateway.0.line.ledger().is_empty(), "requests are left in the ledger");
}

/// The number of worlds.
#[expect(clippy::disallowed_methods, reason = "a test has no `main` that could pass the setting")]
fn seeds() -> u64 {
    std::env::var("SIMULATION_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap())
}

#[test]
fn whatever_the_queue_does_every_caller_gets_its_own_answer_in_time() {
    for seed in 0..seeds() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(simulate(seed));
        }));
        assert!(outcome.is_ok(), "seed {seed} fails");
    }
}
