//! Worker processes that die: other workers answer the claimed jobs.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "the tests print their figures")]

use std::{
    collections::HashMap,
    fs::File,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    sync::Arc,
    time::Duration,
};

use batchfleet_broker::{
    Announcement, Broker, Consumer, Datatype, Failure, GatewayId, GatewayRoles, Inbound, Job,
    ModelSpec, Priority, Producer, QueueName, Replies, Reply, RequestId, Tensor, WorkerId,
    WorkerRoles, redis::RedisBroker,
};
use batchfleet_testkit::{LogReading, Program, RedisServer, echo_model, get};
use tempfile::TempDir;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// The flag of `open` on Linux with which a write to a full pipe fails instead of waiting.
const O_NONBLOCK: i32 = 0o4000;

fn queue() -> QueueName {
    QueueName::new("echo", 1)
}

/// Workers of an echo model on one Redis. The test submits jobs itself, without a gateway.
struct Bench {
    broker: RedisBroker,
    producer: Arc<dyn Producer>,
    inbox: Mutex<Box<dyn Replies>>,
    gateway: GatewayId,
    redis: RedisServer,
    repository: TempDir,
}

impl Bench {
    async fn start(parameters: &[(&str, &str)]) -> Self {
        let repository = TempDir::new().unwrap();
        echo_model(repository.path(), parameters).unwrap();
        let redis = RedisServer::start().await;
        let broker = RedisBroker::connect(&redis.url()).await.unwrap();
        let gateway = GatewayId::random();
        let GatewayRoles { producer, replies } = broker.gateway(gateway).await.unwrap();
        Self { broker, producer, inbox: Mutex::new(replies), gateway, redis, repository }
    }

    /// Starts `COUNT` workers, and waits until they are ready.
    async fn workers<const COUNT: usize>(&self, flags: &[&str]) -> [Program; COUNT] {
        let (redis, repository) = (self.redis.url(), self.repository.path().to_str().unwrap());
        let common = ["--redis-url", &redis, "--model-repository", repository];
        let workers = [(); COUNT].map(|()| {
            let worker = Program::named("batchfleet-worker").unwrap().args(common);
            worker
                .args(["--admin-listen", "127.0.0.1:0"])
                .args(flags.iter().copied())
                .spawn()
                .unwrap()
        });
        for worker in &workers {
            let admin = worker.address("admin").await.unwrap();
            while get(&admin, "/readyz").await.unwrap().0 != 200 {
                tokio::task::yield_now().await;
            }
        }
        workers
    }

    /// Submits a job of one row.
    async fn submit(&self, row: &str) -> RequestId {
        let input = Tensor {
            name: "INPUT0".to_owned(),
            datatype: Datatype::Uint8,
            shape: vec![1, row.len() as u64],
            data: row.to_owned().into(),
        };
        let job = Job {
            id: RequestId::random(),
            gateway: self.gateway,
            attempt: 0,
            priority: Priority::Default,
            ttl: Duration::from_mins(1),
            rows: 1,
            digest: 0,
            inputs: vec![input],
            outputs: Vec::new(),
            trace: None,
            classes: Vec::new(),
            offer: None,
        };
        self.producer.submit(&queue(), &job).await.unwrap();
        job.id
    }

    /// Waits for `count` replies. Returns each with the time of its arrival.
    async fn replies(&self, count: usize) -> HashMap<RequestId, (Reply, Instant)> {
        let mut inbox = self.inbox.lock().await;
        let mut all = HashMap::new();
        while all.len() < count {
            let inbound = timeout(PATIENCE, inbox.receive()).await.unwrap();
            let Inbound::Replies(replies) = inbound else { panic!("the replies were interrupted") };
            all.extend(replies.into_iter().map(|reply| (reply.id, (reply, Instant::now()))));
        }
        all
    }

    /// Starts a worker that has claimed `count` jobs and renews its liveness key until aborted.
    async fn doomed(&self, count: usize) -> tokio::task::JoinHandle<()> {
        let worker = WorkerId::random();
        let roles = self.broker.worker(queue(), worker).await.unwrap();
        let WorkerRoles { mut claims, consumer, .. } = roles;
        assert_eq!(claims.claim(count).await.unwrap().len(), count);
        tokio::spawn(live(consumer, worker))
    }
}

async fn live(consumer: Arc<dyn Consumer>, worker: WorkerId) {
    let model = ModelSpec {
        queue: queue(),
        platform: String::new(),
        backend: String::new(),
        max_batch: std::num::NonZeroU32::new(64),
        inputs: Vec::new(),
        outputs: Vec::new(),
    };
    let announcement = Announcement::new(worker, model);
    loop {
        consumer.renew(&announcement).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
}

fn failure(reply: &Reply) -> Option<Failure> {
    reply.outcome.as_ref().err().map(|error| error.failure)
}

/// Kills one of four workers, which has claimed 64 jobs, and measures the time until all 64 are
/// answered, while `load` other jobs wait in the queue.
async fn recover_64(load: usize) {
    let bench = Bench::start(&[("batch_ms", "20"), ("row_ms", "0.5")]).await;
    let mut victims = Vec::new();
    for _ in 0..64 {
        victims.push(bench.submit("innocent").await);
    }
    let doomed = bench.doomed(64).await;
    let _workers: [Program; 3] = bench.workers(&["--batch", "64"]).await;
    for _ in 0..load {
        bench.submit("other").await;
    }
    doomed.abort();
    let killed = Instant::now();
    let replies = bench.replies(64 + load).await;
    assert!(replies.values().all(|(reply, _)| reply.outcome.is_ok()));
    let mut after: Vec<_> = victims.iter().map(|id| replies[id].1 - killed).collect();
    after.sort_unstable();
    println!(
        "64 jobs of a killed worker, 3 others, {load} jobs waiting: answered {:.1?} to {:.1?} after the kill",
        after[0], after[63]
    );
    assert!(after[0] <= Duration::from_secs(5), "{:?}", after[0]);
    assert!(after[63] <= Duration::from_secs(8), "{:?}", after[63]);
}

#[tokio::test]
async fn a_killed_workers_batch_is_answered_by_the_others_within_seconds() {
    recover_64(0).await;
}

#[tokio::test]
async fn a_killed_workers_batch_is_answered_however_much_else_waits() {
    // Ten seconds of work for three workers.
    recover_64(35_000).await;
}

#[tokio::test]
async fn an_input_that_kills_three_workers_is_answered_by_the_fourth() {
    let bench = Bench::start(&[("abort_marker", "killer")]).await;
    let mut workers: [Program; 4] = bench.workers(&["--batch", "16"]).await;
    let mut neighbours = vec![bench.submit("neighbour").await];
    let killer = bench.submit("killer").await;
    for _ in 0..20 {
        neighbours.push(bench.submit("neighbour").await);
    }
    let replies = bench.replies(22).await;
    assert_eq!(failure(&replies[&killer].0), Some(Failure::Poison));
    assert!(neighbours.iter().all(|id| replies[id].0.outcome.is_ok()));
    let mut left = 0;
    for worker in &mut workers {
        if worker.signal("TERM").await.is_ok() && worker.wait().await.unwrap().success() {
            left += 1;
        }
    }
    assert_eq!(left, 1, "three of four workers should have died");
}

#[tokio::test]
async fn a_run_that_hangs_ends_its_worker_and_all_other_jobs_are_answered() {
    let bench = Bench::start(&[("hang_marker", "trap"), ("batch_ms", "100")]).await;
    let [mut first] = bench.workers(&["--max-batch-time", "2s"]).await;
    for _ in 0..10 {
        bench.submit("neighbour").await;
    }
    bench.submit("trap").await;
    let hung = Instant::now();
    let status = first.wait().await.unwrap();
    assert_eq!(status.code(), Some(70), "{:?}", first.log());
    println!("--max-batch-time 2s: gone after {:.2?}", hung.elapsed());
    assert!(hung.elapsed() < Duration::from_secs(3), "{:?}", hung.elapsed());
    let _second: [Program; 1] = bench.workers(&["--max-batch-time", "2s"]).await;
    for (reply, _) in bench.replies(10).await.values() {
        assert!(reply.outcome.is_ok());
    }
}

/// Fills the pipe of a program's standard error, so that the next write to it blocks.
fn fill_log(program: &Program) {
    let path = format!("/proc/{}/fd/2", program.id().unwrap());
    let mut pipe = File::options().write(true).custom_flags(O_NONBLOCK).open(path).unwrap();
    // A write of up to 4096 bytes is taken as a whole or not at all.
    for chunk in [&[b' '; 4096][..], b" "] {
        let full = loop {
            if let Err(error) = pipe.write(chunk) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn a_run_that_hangs_ends_its_worker_although_nothing_reads_its_log() {
    let bench = Bench::start(&[("hang_marker", "trap")]).await;
    let [mut worker] = bench.workers(&["--max-batch-time", "2s"]).await;
    worker.read_log(LogReading::Paused);
    fill_log(&worker);
    bench.submit("trap").await;
    let hung = Instant::now();
    assert_eq!(worker.exit().await.unwrap().code(), Some(70));
    assert!(hung.elapsed() < Duration::from_secs(4), "{:?}", hung.elapsed());
}

#[tokio::test]
async fn a_lost_device_ends_its_worker_at_once_without_answering() {
    let bench = Bench::start(&[("fatal_marker", "bang")]).await;
    let [mut first] = bench.workers(&[]).await;
    bench.submit("bang").await;
    let lost = Instant::now();
    let status = first.wait().await.unwrap();
    assert_eq!(status.code(), Some(71), "{:?}", first.log());
    println!("a lost device: gone after {:.2?}", lost.elapsed());
    assert!(lost.elapsed() < Duration::from_secs(1), "{:?}", lost.elapsed());
    let neighbour = bench.submit("neighbour").await;
    let _second: [Program; 1] = bench.workers(&[]).await;
    assert!(bench.replies(1).await[&neighbour].0.outcome.is_ok());
}

#[tokio::test]
async fn a_redis_url_of_another_scheme_is_a_wrong_setting() {
    let repository = TempDir::new().unwrap();
    echo_model(repository.path(), &[]).unwrap();
    let mut worker = Program::named("batchfleet-worker")
        .unwrap()
        .args(["--redis-url", "http://127.0.0.1:1", "--admin-listen", "127.0.0.1:0"])
        .args(["--model-repository".as_ref(), repository.path().as_os_str()])
        .spawn()
        .unwrap();
    let status = worker.wait().await.unwrap();
    assert_eq!(status.code(), Some(64), "{:?}", worker.log());
    let loaded = worker.log().iter().any(|line| line["message"] == "loaded and warmed up");
    assert!(!loaded, "{:?}", worker.log());
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_reported_even_without_redis() {
    let mut worker = Program::named("batchfleet-worker")
        .unwrap()
        .args(["--redis-url", "redis://127.0.0.1:1", "--model-repository", "/nowhere"])
        .args(["--admin-listen", "127.0.0.1:0"])
        .spawn()
        .unwrap();
    let status = worker.wait().await.unwrap();
    assert_eq!(status.code(), Some(64), "{:?}", worker.log());
}
