//! What an idle fleet costs Redis: workers and gateways that do what they do every second, while no
//! request is served.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use batchfleet_broker::{
    Announcement, BatchBound, Batching, Broker, BrokerError, Datatype, GatewayId, GatewayRoles,
    ModelSpec, Observer, QueueName, TensorSpec, WorkerId, WorkerRoles, redis::RedisBroker,
};
use batchfleet_testkit::RedisServer;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep},
};

use crate::{commandstats::Commandstats, table::goal};

/// How often gateways read announcements and queues, as in the gateway.
const LOOK: Duration = Duration::from_millis(200);
/// How often workers announce themselves and look for dead workers.
const TICK: Duration = Duration::from_secs(1);
/// Longer than the liveness grace period, in which no worker looks for dead workers.
const SETTLED: Duration = Duration::from_secs(5);
/// The least percent of the fleet's ticks and looks that must be done for a verdict. On a machine that
/// cannot play the whole fleet, Redis costs too little.
const ENOUGH: f64 = 95.0;
/// Programs that share connections here.
const SHARING: usize = 10;

/// A fleet, and the most percent of a core that it may cost Redis.
struct Case {
    workers: usize,
    models: usize,
    gateways: usize,
    most: f64,
}

/// What was done, over all programs.
#[derive(Default)]
struct Done {
    ticks: AtomicU64,
    looks: AtomicU64,
}

/// Prints the cost of fleets of several sizes.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    println!(
        "\n| idle fleet | % of a core of Redis | MB/s from Redis | worker ticks done | gateway looks \
         done |\n|---|---|---|---|---|"
    );
    let cases = [
        Case { workers: 300, models: 1, gateways: 50, most: 3.0 },
        Case { workers: 1000, models: 1, gateways: 200, most: 12.0 },
        Case { workers: 100, models: 100, gateways: 200, most: 40.0 },
    ];
    let mut goals = Vec::new();
    for case in cases {
        let Case { workers, models, gateways, most } = case;
        let (percent, done) = measure(&case, lasts).await?;
        let name = format!("Redis, {workers} workers of {models} models, {gateways} gateways");
        goals.push((name, percent, done, most));
    }
    println!();
    for (name, percent, done, most) in goals {
        let figure = format!("{percent:.1} % of a core, {done:.0} % of the work done");
        let kept = percent <= most && done >= ENOUGH;
        goal(&name, &figure, kept, &format!("at most {most} %, {ENOUGH:.0} % done"));
    }
    Ok(())
}

/// Runs a fleet in this process. Returns what it costs Redis, in percent of a core, and which percent
/// of its ticks and looks were done.
async fn measure(case: &Case, lasts: Duration) -> Result<(f64, f64)> {
    let server = RedisServer::start_with(&["--maxclients", "20000"]).await;
    let done = Arc::<Done>::default();
    let mut programs = JoinSet::new();
    let mut broker = RedisBroker::connect(&server.url()).await?;
    for number in 0..case.workers + case.gateways {
        if number % SHARING == 0 {
            broker = RedisBroker::connect(&server.url()).await?;
        }
        let (broker, done) = (broker.clone(), Arc::clone(&done));
        if number < case.workers {
            let queue = QueueName::new(format!("model-{}", number % case.models), 1);
            programs.spawn(work(broker, queue, done));
        } else {
            programs.spawn(look(broker, case.models, done));
        }
    }
    while done.ticks.load(Relaxed) < case.workers as u64 || done.looks.load(Relaxed) == 0 {
        sleep(LOOK).await;
    }
    sleep(SETTLED).await;
    let (began, [cpu, out]) = (Instant::now(), cost(&server).await?);
    let commands = Commandstats::read(&server).await?;
    let before = [done.ticks.load(Relaxed), done.looks.load(Relaxed)];
    sleep(lasts).await;
    let [cpu_after, out_after] = cost(&server).await?;
    let commands = Commandstats::read(&server).await?.since(&commands);
    let took = began.elapsed().as_secs_f64();
    let after = [done.ticks.load(Relaxed), done.looks.load(Relaxed)];
    if let Some(ended) = programs.try_join_next() {
        ended??;
        anyhow::bail!("a program of the fleet has ended");
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousands")]
    let share = |at: usize, programs: usize, every: Duration| {
        (after[at] - before[at]) as f64 / (programs as f64 * took / every.as_secs_f64()) * 100.0
    };
    let (ticks, looks) = (share(0, case.workers, TICK), share(1, case.gateways, LOOK));
    let percent = (cpu_after - cpu) / took * 100.0;
    println!(
        "| {} workers of {} models, {} gateways | {percent:.1} | {:.1} | {ticks:.0} % | {looks:.0} % |",
        case.workers,
        case.models,
        case.gateways,
        (out_after - out) / took / 1e6,
    );
    commands.print(took);
    Ok((percent, ticks.min(looks)))
}

/// What a worker does. Like a worker, it carries on after errors; only what succeeds is counted.
async fn work(broker: RedisBroker, queue: QueueName, done: Arc<Done>) -> Result<(), BrokerError> {
    let id = WorkerId::random();
    // A server to which a thousand programs connect at once may take its time.
    let WorkerRoles { mut claims, consumer, mut target } = loop {
        match broker.worker(queue.clone(), id).await {
            Err(BrokerError::Unreachable(_)) => sleep(LOOK).await,
            opened => break opened?,
        }
    };
    let announcement = announcement(id, queue);
    let claim = async {
        loop {
            claims.claim(32).await.ok();
        }
    };
    let follow = async {
        loop {
            target.guidance().await.ok();
        }
    };
    let tick = async {
        // Programs of a fleet do not tick together.
        sleep(TICK.mul_f32(rand::random_range(0.0..1.0))).await;
        let mut ticks = interval(TICK);
        loop {
            ticks.tick().await;
            let renewed = consumer.renew(&announcement).await;
            let looked = consumer.reclaim(1).await;
            done.ticks.fetch_add(u64::from(renewed.is_ok() && looked.is_ok()), Relaxed);
        }
    };
    tokio::select! {
        () = claim => Ok(()),
        () = follow => Ok(()),
        () = tick => Ok(()),
    }
}

/// What a gateway does.
async fn look(broker: RedisBroker, models: usize, done: Arc<Done>) -> Result<(), BrokerError> {
    let GatewayRoles { producer, replies: _replies } = loop {
        match broker.gateway(GatewayId::random()).await {
            Err(BrokerError::Unreachable(_)) => sleep(LOOK).await,
            opened => break opened?,
        }
    };
    let observer: Arc<dyn Observer> = broker.observer().await?;
    let queues: Vec<_> =
        (0..models).map(|model| QueueName::new(format!("model-{model}"), 1)).collect();
    sleep(TICK.mul_f32(rand::random_range(0.0..1.0))).await;
    let mut ticks = interval(LOOK);
    for looks in 0_usize.. {
        ticks.tick().await;
        let look = async {
            // In turns, as the gateway reads the queues of models without requests.
            let due = queues.iter().enumerate().filter(|(index, _)| index % 5 == looks % 5);
            let due: Vec<QueueName> = due.map(|(_, queue)| queue.clone()).collect();
            let is_second = looks % 5 == 0;
            observer.look(&due, is_second).await?;
            if is_second {
                producer.report(&[]).await?;
            }
            Ok::<(), BrokerError>(())
        };
        done.looks.fetch_add(u64::from(look.await.is_ok()), Relaxed);
    }
    Ok(())
}

/// An announcement of the usual size.
fn announcement(worker: WorkerId, queue: QueueName) -> Announcement {
    let tensor = |name: &str| TensorSpec::new(name, Datatype::Fp32, [-1, 64]);
    let spec = ModelSpec {
        queue,
        platform: "onnxruntime_onnx".to_owned(),
        backend: "onnxruntime".to_owned(),
        max_batch: std::num::NonZeroU32::new(64),
        inputs: vec![tensor("pixels")],
        outputs: vec![tensor("probabilities"), tensor("label")],
    };
    let batching = Batching {
        n: 32,
        bound: BatchBound::default(),
        interval: (16, 32),
        full_load_n: 32,
        slo_n: Some(64),
        keep_up_rows: Some(12.5),
        overloaded: false,
        slo_ms: 100.0,
        overhead_ms: 2.5,
        workers: 100,
        rows_per_second: Some(12_345.6),
        epoch: 0,
        curve: [1, 2, 4, 8, 16, 32, 64].map(|rows| (rows, 1.5 + f64::from(rows) / 8.0)).to_vec(),
        ..Batching::default()
    };
    Announcement {
        capacity: 4000.0,
        batch_limit: 32,
        batching: Some(batching),
        host: "batchfleet-model-0-worker-6d8f9c7b5-x2x9z".to_owned(),
        ..Announcement::new(worker, spec)
    }
}

/// Seconds of CPU time of the server, and the bytes that it has sent.
async fn cost(server: &RedisServer) -> Result<[f64; 2]> {
    let field = |info: &str, name: &str| -> Result<f64> {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
    };
    let (cpu, stats) = (server.ask("INFO cpu").await?, server.ask("INFO stats").await?);
    let cpu = field(&cpu, "used_cpu_user")? + field(&cpu, "used_cpu_sys")?;
    Ok([cpu, field(&stats, "total_net_output_bytes")?])
}
