//! Measures the cost of a request through Redis and back, without HTTP and without a model.
//!
//! `cargo run --release -p batchfleet-broker --example throughput [seconds]`
//!
//! Closed loop: each caller submits a request and waits for the reply. One worker claims batches of
//! 32 jobs and settles them with 64-byte results.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::{collections::HashMap, sync::Arc, time::Duration};

use batchfleet_broker::{
    Broker, BrokerError, Datatype, Delivery, GatewayId, GatewayRoles, Inbound, Job, Priority,
    Producer, QueueName, Replies, Reply, RequestId, Settlement, Tensor, Timing, WorkerId,
    WorkerRoles, redis::RedisBroker, wire,
};
use batchfleet_testkit::RedisServer;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, timeout_at},
};

const BATCH: usize = 32;

type Failed = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    println!("payload  in flight      req/s  mean batch  client us/req  redis us/req");
    for payload in [1024, 12 * 1024, 150 * 1024] {
        for in_flight in [1, 100, 1000] {
            measure(payload, in_flight, Duration::from_secs(seconds)).await?;
        }
    }
    Ok(())
}

async fn measure(payload: usize, in_flight: usize, length: Duration) -> Result<(), Failed> {
    let server = RedisServer::start().await;
    let broker = RedisBroker::connect(&server.url()).await?;
    let queue = QueueName::new("model", 1);
    let gateway = Arc::new(Gateway::new(&broker, queue.clone(), payload).await?);
    let worker = broker.worker(queue, WorkerId::random()).await?;
    let admin = redis::Client::open(server.url())?.get_multiplexed_async_connection().await?;

    let (client, redis) = (client_cpu()?, redis_cpu(admin.clone()).await?);
    let started = Instant::now();
    let until = started + length;
    let work = tokio::spawn(work(worker, until));
    let inbox = tokio::spawn(Arc::clone(&gateway).inbox());
    let mut callers = JoinSet::new();
    for _ in 0..in_flight {
        callers.spawn(Arc::clone(&gateway).call(until));
    }
    let mut answered = 0_u32;
    for calls in callers.join_all().await {
        answered += calls?;
    }
    let wall = started.elapsed();
    let requests = f64::from(answered);
    let per_request = |cpu: Duration| cpu.as_secs_f64() * 1e6 / requests;
    let client = per_request(client_cpu()?.saturating_sub(client));
    let redis = per_request(redis_cpu(admin).await?.saturating_sub(redis));
    inbox.abort();
    let batches = work.await??;
    println!(
        "{payload:7}  {in_flight:9}  {:9.0}  {:10.1}  {client:13.1}  {redis:12.1}",
        requests / wall.as_secs_f64(),
        requests / f64::from(batches.max(1)),
    );
    Ok(())
}

/// A minimal gateway, with the waiting callers by request id.
struct Gateway {
    id: GatewayId,
    queue: QueueName,
    inputs: Vec<Tensor>,
    producer: Arc<dyn Producer>,
    replies: tokio::sync::Mutex<Box<dyn Replies>>,
    waiting: Mutex<HashMap<RequestId, oneshot::Sender<Reply>>>,
}

impl Gateway {
    async fn new(
        broker: &dyn Broker,
        queue: QueueName,
        payload: usize,
    ) -> Result<Self, BrokerError> {
        let id = GatewayId::random();
        let GatewayRoles { producer, replies } = broker.gateway(id).await?;
        let replies = tokio::sync::Mutex::new(replies);
        let inputs = vec![tensor(vec![1; payload].into())];
        Ok(Self { id, queue, inputs, producer, replies, waiting: Mutex::default() })
    }

    /// Submits one request after another. Returns the number of answered requests.
    async fn call(self: Arc<Self>, until: Instant) -> Result<u32, Failed> {
        let mut answered = 0;
        while Instant::now() < until {
            let (sender, reply) = oneshot::channel();
            let id = RequestId::random();
            self.waiting.lock().insert(id, sender);
            let job = Job {
                id,
                gateway: self.id,
                attempt: 0,
                priority: Priority::Default,
                ttl: Duration::from_secs(30),
                rows: 1,
                digest: wire::digest(&self.inputs),
                inputs: self.inputs.clone(),
                outputs: Vec::new(),
                trace: None,
                classes: Vec::new(),
                offer: None,
            };
            self.producer.submit(&self.queue, &job).await?;
            let reply = timeout_at(until + Duration::from_secs(10), reply).await??;
            if reply.digest != job.digest {
                return Err("a reply to another input".into());
            }
            answered += 1;
        }
        Ok(answered)
    }

    async fn inbox(self: Arc<Self>) {
        let mut inbox = self.replies.lock().await;
        loop {
            if let Inbound::Replies(replies) = inbox.receive().await {
                let mut waiting = self.waiting.lock();
                for reply in replies {
                    if let Some(caller) = waiting.remove(&reply.id) {
                        // The caller may have given up.
                        drop(caller.send(reply));
                    }
                }
            }
        }
    }
}

fn tensor(data: Bytes) -> Tensor {
    let shape = vec![1, data.len() as u64];
    Tensor { name: "x".into(), datatype: Datatype::Uint8, shape, data }
}

/// Claims and settles until all callers have finished. Returns the number of batches.
async fn work(worker: WorkerRoles, until: Instant) -> Result<u32, BrokerError> {
    let outputs = vec![tensor(vec![0; 64].into())];
    let answer = |Delivery { entry, job, .. }| Settlement {
        entry,
        gateway: job.gateway,
        reply: Reply {
            id: job.id,
            attempt: job.attempt,
            digest: job.digest,
            timing: Timing::default(),
            outcome: Ok(outputs.clone()),
            pushed: None,
        },
    };
    let WorkerRoles { mut claims, consumer, .. } = worker;
    let mut batches = 0;
    loop {
        let batch = claims.claim(BATCH).await?;
        if batch.is_empty() && Instant::now() > until {
            return Ok(batches);
        }
        batches += u32::from(!batch.is_empty());
        consumer.settle(batch.into_iter().map(answer).collect()).await?;
    }
}

/// CPU time of this process since its start.
fn client_cpu() -> Result<Duration, Failed> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// CPU time of Redis since its start.
async fn redis_cpu(mut admin: redis::aio::MultiplexedConnection) -> Result<Duration, Failed> {
    let info: String = redis::cmd("INFO").arg("cpu").query_async(&mut admin).await?;
    let field = |name| info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0").parse();
    let seconds: f64 = field("used_cpu_user:")?;
    let system: f64 = field("used_cpu_sys:")?;
    Ok(Duration::from_secs_f64(seconds + system))
}
