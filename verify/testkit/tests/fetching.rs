//! Large inputs that workers fetch from the gateways: right answers whatever happens to the way
//! between them.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "the tests print their figures")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use batchfleet_broker::{
    Announcement, Broker, ModelSpec, QueueName, Reply, Settlement, Tensor, Timing, WorkerId,
    WorkerRoles, redis::RedisBroker,
};
use batchfleet_loadgen::{Echo, Length, LoadPlan, Report, Stop, Target, infer::Encoding, run};
use batchfleet_testkit::{CuttingProxy, Fleet, FleetPlan, Program, metric};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};

const LISTEN: [&str; 2] = ["--tensors-listen", "127.0.0.1:0"];
const OFFERED: &str = "batchfleet_gateway_tensors_offered_total";
const UNFETCHED: &str = "batchfleet_gateway_tensors_unfetched_total";
/// The size of an input: a part of an image.
const LARGE: u64 = 200 << 10;

/// A load of requests of one row of [`LARGE`] bytes that runs until it is stopped.
struct Load {
    stop: Stop,
    running: JoinHandle<Report>,
}

impl Load {
    fn start(fleet: &Fleet, users: usize) -> Self {
        let plan = plan(fleet.targets(), users, Length::Time(Duration::from_mins(1)));
        let stop = plan.stop.clone();
        Self { stop, running: tokio::spawn(async move { run(plan).await.unwrap() }) }
    }

    async fn end(self) -> Report {
        self.stop.now();
        self.running.await.unwrap()
    }
}

fn plan(targets: &[String], users: usize, length: Length) -> LoadPlan {
    let targets: Vec<Target> = targets.iter().map(|target| target.parse().unwrap()).collect();
    let echo = Echo::new("echo", "INPUT0", 1, LARGE, Encoding::Binary).unwrap();
    let one = LoadPlan::new(targets[0].clone(), Arc::new(echo), 0);
    LoadPlan { targets, users, length, ..one }
}

async fn sum(programs: &[Program], name: &str) -> u64 {
    let mut sum = 0.0;
    for program in programs {
        sum += metric(program, name).await.unwrap();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let sum = sum as u64;
    sum
}

/// Waits until a metric of the programs has grown by `more`.
async fn grown(programs: &[Program], name: &str, more: u64) {
    let enough = sum(programs, name).await + more;
    let growing = async {
        while sum(programs, name).await < enough {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(Duration::from_secs(30), growing).await.is_ok(), "{name} does not grow");
}

fn assert_flawless(report: &Report) {
    assert!(report.is_flawless() && report.sent > 0, "{report}");
}

/// A fleet with one gateway whose port for workers is behind `proxy`.
async fn behind(proxy: SocketAddr, workers: usize) -> (Fleet, SocketAddr) {
    let advertised = proxy.to_string();
    let [flag, listen] = LISTEN;
    let gateway_flags = &[flag, listen, "--tensors-advertise", &advertised];
    let plan = FleetPlan { gateway_flags, workers, batch_ms: 5, ..FleetPlan::default() };
    let fleet = Fleet::start(plan).await.unwrap();
    let port = fleet.gateways[0].address("tensors").await.unwrap();
    (fleet, port.parse().unwrap())
}

#[tokio::test]
async fn large_inputs_are_fetched_and_small_ones_travel_through_redis() {
    let plan_of_fleet = FleetPlan {
        gateways: 2,
        gateway_flags: &LISTEN,
        workers: 2,
        batch_ms: 5,
        ..FleetPlan::default()
    };
    let fleet = Fleet::start(plan_of_fleet).await.unwrap();
    let report = run(plan(fleet.targets(), 16, Length::Requests(300))).await.unwrap();
    assert_flawless(&report);
    println!("{report}");
    assert_eq!(sum(&fleet.gateways, OFFERED).await, 300);
    assert_eq!(sum(&fleet.gateways, UNFETCHED).await, 0);
    let fetched = sum(&fleet.workers, "batchfleet_worker_fetched_bytes_total").await;
    assert_eq!(fetched, 300 * LARGE);
    let sent = sum(&fleet.gateways, "batchfleet_gateway_tensors_sent_bytes_total").await;
    assert_eq!(sent, fetched);
    // The outputs are as large.
    let received = sum(&fleet.gateways, "batchfleet_gateway_tensors_received_bytes_total").await;
    assert_eq!(received, 300 * LARGE);
    assert_eq!(sum(&fleet.workers, "batchfleet_worker_push_failures_total").await, 0);
    let through_redis = fleet.redis.info("total_net_input_bytes").await.unwrap();
    println!("Redis has received {through_redis} bytes");
    assert!(through_redis < 300 * LARGE / 10, "{through_redis}");
    let small = Echo::new("echo", "INPUT0", 1, 32, Encoding::Binary).unwrap();
    let few = plan(fleet.targets(), 4, Length::Requests(20));
    assert_flawless(&run(LoadPlan { workload: Arc::new(small), ..few }).await.unwrap());
    assert_eq!(sum(&fleet.gateways, OFFERED).await, 300);
}

/// The inputs wait at the gateways while all workers are stopped, and hardly anything in Redis.
#[tokio::test]
async fn inputs_that_wait_take_no_memory_of_redis() {
    let fleet = FleetPlan { gateway_flags: &LISTEN, batch_ms: 5, ..FleetPlan::default() };
    let fleet = Fleet::start(fleet).await.unwrap();
    let before = fleet.redis.info("used_memory").await.unwrap();
    fleet.workers[0].signal("STOP").await.unwrap();
    let load = tokio::spawn(run(plan(fleet.targets(), 64, Length::Requests(64))));
    grown(&fleet.gateways, OFFERED, 64).await;
    let grown_by = fleet.redis.info("used_memory").await.unwrap().saturating_sub(before);
    println!("64 inputs of {LARGE} bytes: Redis has {grown_by} bytes more");
    assert!(grown_by < 64 * LARGE / 4, "{grown_by}");
    fleet.workers[0].signal("CONT").await.unwrap();
    assert_flawless(&load.await.unwrap().unwrap());
}

/// The network between the workers and the port drops every packet. One second later the inputs
/// travel through Redis, and no request is lost.
#[tokio::test]
async fn a_port_that_stalls_costs_a_second_once() {
    let proxy = CuttingProxy::start(([127, 0, 0, 1], 9).into()).await.unwrap();
    let (fleet, port) = behind(proxy.address(), 2).await;
    proxy.redirect(port);
    let load = Load::start(&fleet, 8);
    grown(&fleet.gateways, OFFERED, 50).await;
    assert_eq!(sum(&fleet.gateways, UNFETCHED).await, 0);
    proxy.stall();
    grown(&fleet.gateways, UNFETCHED, 1).await;
    let offered = sum(&fleet.gateways, OFFERED).await;
    grown(&fleet.gateways, "batchfleet_gateway_accepted_total", 100).await;
    assert_eq!(sum(&fleet.gateways, OFFERED).await, offered, "offers are paused");
    let report = load.end().await;
    assert_flawless(&report);
    let slowest = report.latency(1.0);
    println!("{report}");
    assert!(slowest < Duration::from_secs(6), "{slowest:?}");
    let logged = fleet.gateways[0].log();
    let warnings = logged.iter().filter(|line| {
        line["message"].as_str().is_some_and(|text| text.starts_with("worker failed to fetch"))
    });
    assert_eq!(warnings.count(), 1);
    let failures = sum(&fleet.workers, "batchfleet_worker_fetch_failures_total").await;
    assert!(failures > 0);
}

#[tokio::test]
async fn a_port_that_cannot_be_reached_costs_no_request() {
    // Nothing listens at the advertised address.
    let (fleet, _) = behind(([127, 0, 0, 1], 9).into(), 1).await;
    let report = run(plan(fleet.targets(), 8, Length::Requests(50))).await.unwrap();
    assert_flawless(&report);
    let offered = sum(&fleet.gateways, OFFERED).await;
    assert!(sum(&fleet.gateways, UNFETCHED).await > 0 && offered < 50, "{offered}");
}

/// Forwards connections to the port for workers, and changes a byte of each answer after `spared`.
async fn tamper(listener: TcpListener, port: SocketAddr) {
    loop {
        let (worker, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let (mut from_worker, mut to_worker) = worker.into_split();
            let (mut from_port, mut to_port) = TcpStream::connect(port).await.unwrap().into_split();
            tokio::spawn(async move { copy(&mut from_worker, &mut to_port).await });
            let (mut buffer, mut seen) = (vec![0; 64 << 10], 0);
            while let Ok(length @ 1..) = from_port.read(&mut buffer).await {
                // A byte of the first inputs.
                if (seen..seen + length).contains(&1000) {
                    buffer[1000 - seen] ^= 1;
                }
                seen += length;
                if to_worker.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
            }
        });
    }
}

#[tokio::test]
async fn changed_inputs_are_never_run() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (fleet, port) = behind(listener.local_addr().unwrap(), 1).await;
    let tampering = tokio::spawn(tamper(listener, port));
    let report = run(plan(fleet.targets(), 8, Length::Requests(100))).await.unwrap();
    assert_flawless(&report);
    assert!(sum(&fleet.gateways, UNFETCHED).await > 0);
    let (_, text) =
        batchfleet_testkit::get(&fleet.workers[0].address("admin").await.unwrap(), "/metrics")
            .await
            .unwrap();
    let wrong = text.lines().find(|line| {
        line.starts_with("batchfleet_worker_fetch_failures_total") && line.contains("\"digest\"")
    });
    assert!(wrong.is_some_and(|line| !line.ends_with(" 0")), "{wrong:?}");
    tampering.abort();
}

/// A gateway is killed while its port holds back what a worker fetches. The requests of the other
/// gateway get their answers.
#[tokio::test]
async fn a_gateway_killed_during_a_fetch_costs_only_its_own_requests() {
    let proxy = CuttingProxy::start(([127, 0, 0, 1], 9).into()).await.unwrap();
    let (mut fleet, port) = behind(proxy.address(), 1).await;
    proxy.redirect(port);
    proxy.hold_after(Some(100_000));
    fleet.add_gateway(&LISTEN).await.unwrap();
    let doomed = tokio::spawn(run(LoadPlan {
        timeout: Duration::from_secs(5),
        ..plan(&fleet.targets()[..1], 4, Length::Requests(4))
    }));
    // The worker fetches what it has claimed.
    let observer =
        RedisBroker::connect(&fleet.redis.url()).await.unwrap().observer().await.unwrap();
    let claimed = async || observer.backlog(&QueueName::new("echo", 1)).await.unwrap().in_flight;
    while claimed().await == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let others = plan(&fleet.targets()[1..], 8, Length::Requests(100));
    let others = tokio::spawn(run(others));
    fleet.gateways[0].kill().await.unwrap();
    assert_flawless(&others.await.unwrap().unwrap());
    let report = doomed.await.unwrap().unwrap();
    assert_eq!((report.right + report.failed, report.wrong), (report.sent, 0), "{report}");
    assert_eq!(sum(&fleet.gateways[1..], UNFETCHED).await, 0);
}

#[tokio::test]
async fn a_killed_worker_costs_no_request() {
    let plan_of_fleet = FleetPlan {
        gateway_flags: &LISTEN,
        workers: 3,
        worker_flags: &["--batch", "4"],
        batch_ms: 20,
        ..FleetPlan::default()
    };
    let mut fleet = Fleet::start(plan_of_fleet).await.unwrap();
    let load = Load::start(&fleet, 24);
    grown(&fleet.gateways, OFFERED, 60).await;
    fleet.workers[0].kill().await.unwrap();
    // Its jobs are reclaimed after three seconds.
    grown(&fleet.workers[1..], "batchfleet_worker_reclaimed_total", 1).await;
    grown(&fleet.gateways, OFFERED, 60).await;
    assert_flawless(&load.end().await);
    assert_eq!(sum(&fleet.gateways, UNFETCHED).await, 0);
}

/// Announces another worker of the echo.
async fn announce(fleet: &Fleet, fetches: bool) -> WorkerRoles {
    let broker = RedisBroker::connect(&fleet.redis.url()).await.unwrap();
    let queue = QueueName::new("echo", 1);
    let snapshot = broker.observer().await.unwrap().fleet().await.unwrap();
    let spec: ModelSpec = snapshot.workers[0].announcement.model.clone();
    let worker = WorkerId::random();
    let roles = broker.worker(queue, worker).await.unwrap();
    let announcement = Announcement {
        capacity: 100.0,
        batch_limit: 8,
        fetches,
        ..Announcement::new(worker, spec)
    };
    roles.consumer.renew(&announcement).await.unwrap();
    let consumer = Arc::clone(&roles.consumer);
    tokio::spawn(async move {
        while consumer.renew(&announcement).await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    });
    roles
}

/// One worker that does not fetch suffices, and nothing is offered.
#[tokio::test]
async fn nothing_is_offered_while_a_worker_does_not_fetch() {
    let fleet = FleetPlan { gateway_flags: &LISTEN, batch_ms: 5, ..FleetPlan::default() };
    let fleet = Fleet::start(fleet).await.unwrap();
    let old = announce(&fleet, false).await;
    let workers = async || sum(&fleet.gateways, "batchfleet_gateway_workers").await;
    while workers().await < 2 {
        sleep(Duration::from_millis(5)).await;
    }
    let offered = sum(&fleet.gateways, OFFERED).await;
    assert_flawless(&run(plan(fleet.targets(), 8, Length::Requests(50))).await.unwrap());
    assert_eq!(sum(&fleet.gateways, OFFERED).await, offered);
    drop(old);
}

/// A worker of an earlier version that cannot read a job without its inputs removes it. It has joined
/// between the offer and the claim.
#[tokio::test]
async fn a_job_that_a_worker_could_not_read_is_sent_again_with_its_inputs() {
    let fleet = FleetPlan { gateway_flags: &LISTEN, ..FleetPlan::default() };
    let mut fleet = Fleet::start(fleet).await.unwrap();
    let WorkerRoles { mut claims, consumer, .. } = announce(&fleet, true).await;
    let workers = async |fleet: &Fleet| sum(&fleet.gateways, "batchfleet_gateway_workers").await;
    while workers(&fleet).await < 2 {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(fleet.workers[0].terminate().await.unwrap().success());
    let asked = tokio::spawn(run(plan(fleet.targets(), 1, Length::Requests(1))));
    let mut claim = async || loop {
        if let Some(delivery) = claims.claim(1).await.unwrap().pop() {
            return delivery;
        }
    };
    let offered = claim().await;
    assert!(offered.job.lacks_inputs());
    fleet.redis.ask("XTRIM bf:{echo:1}:q:default MAXLEN 0").await.unwrap();
    let again = timeout(Duration::from_secs(15), claim()).await.unwrap();
    assert_eq!((again.job.id, again.job.attempt), (offered.job.id, 1));
    let output = Tensor { name: "OUTPUT0".to_owned(), ..again.job.inputs[0].clone() };
    assert_eq!(output.data.len() as u64, LARGE);
    let reply = Reply {
        id: again.job.id,
        attempt: again.job.attempt,
        digest: again.job.digest,
        timing: Timing::default(),
        outcome: Ok(vec![output]),
        pushed: None,
    };
    let settlement = Settlement { entry: again.entry, gateway: again.job.gateway, reply };
    consumer.settle(vec![settlement]).await.unwrap();
    assert_flawless(&asked.await.unwrap().unwrap());
}
