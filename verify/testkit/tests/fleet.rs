//! This build's programs on a real Redis, under load that checks every answer.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "the tests print their figures")]

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{Broker, QueueName, redis::RedisBroker};
use batchfleet_loadgen::{Echo, Length, LoadPlan, Report, Target, infer::Encoding, run};
use batchfleet_testkit::{Fleet, FleetPlan, Program, metric};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A closed loop on the echo with one row per request; the users are spread over the gateways.
fn plan(fleet: &Fleet, users: usize, length: Length) -> LoadPlan {
    let targets: Vec<Target> =
        fleet.targets().iter().map(|target| target.parse().unwrap()).collect();
    let echo = Echo::new("echo", "INPUT0", 1, 32, Encoding::Binary).unwrap();
    let one = LoadPlan::new(targets[0].clone(), Arc::new(echo), 0);
    LoadPlan { targets, users, length, ..one }
}

fn assert_flawless(report: &Report) {
    assert!(report.is_flawless(), "{report}");
    assert!(report.sent > 0, "{report}");
}

#[tokio::test]
async fn one_batch_is_made_of_requests_to_many_gateways() {
    // Four users per gateway: a batch from a single gateway would have at most 4 of 16 rows.
    let fleet = Fleet::start(FleetPlan {
        gateways: 8,
        worker_flags: &["--batch", "16"],
        batch_ms: 40,
        ..FleetPlan::default()
    })
    .await
    .unwrap();
    let report = run(plan(&fleet, 32, Length::Requests(1600))).await.unwrap();
    assert_flawless(&report);
    let rows = metric(&fleet.workers[0], "batchfleet_worker_batch_size_sum").await.unwrap();
    let batches = metric(&fleet.workers[0], "batchfleet_worker_batch_size_count").await.unwrap();
    println!("8 gateways x 4 users, N = 16: mean batch {:.2}", rows / batches);
    assert!(rows / batches >= 14.0, "{rows} rows in {batches} batches");
}

#[tokio::test]
async fn gateways_report_as_many_requests_as_were_sent() {
    let fleet = Fleet::start(FleetPlan { gateways: 2, batch_ms: 5, ..FleetPlan::default() });
    let fleet = fleet.await.unwrap();
    let report = run(plan(&fleet, 8, Length::Requests(400))).await.unwrap();
    assert_flawless(&report);
    let broker = RedisBroker::connect(&fleet.redis.url()).await.unwrap();
    let observer = broker.observer().await.unwrap();
    let all_reported = async {
        loop {
            let reports = observer.traffic().await.unwrap();
            let models: Vec<_> = reports.iter().flat_map(|report| &report.traffic).collect();
            if models.iter().map(|model| model.answered).sum::<u64>() == report.sent {
                break (reports.len(), models.iter().map(|model| model.offered).sum::<u64>());
            }
        }
    };
    // Gateways publish traffic reports once a second.
    let (gateways, offered) = timeout(Duration::from_secs(20), all_reported).await.unwrap();
    assert_eq!((gateways, offered), (2, report.sent));
}

#[tokio::test]
async fn five_thousand_users_each_get_their_own_answer() {
    const USERS: u32 = 5000;
    let fleet = Fleet::start(FleetPlan {
        worker_flags: &["--batch", "64"],
        batch_ms: 5,
        ..FleetPlan::default()
    })
    .await
    .unwrap();
    let gateway = &fleet.gateways[0];
    let before = resident(gateway);
    let idle = idle_connections(&fleet.targets()[0], USERS).await;
    let per_connection = (resident(gateway) - before) / u64::from(USERS);
    drop(idle);
    println!("an idle keep-alive connection costs the gateway {per_connection} bytes");

    let users = plan(&fleet, USERS as usize, Length::Requests(4 * u64::from(USERS)));
    let report = run(LoadPlan { timeout: Duration::from_mins(1), ..users }).await.unwrap();
    println!("{USERS} users: {report}");
    assert_flawless(&report);
    for balance in ["accepted", "offered"] {
        let count = metric(gateway, &format!("batchfleet_gateway_{balance}_total")).await.unwrap();
        assert!((count - f64::from(4 * USERS)).abs() < 0.5, "{balance}: {count}");
    }
    assert_empty(&fleet).await;
}

#[tokio::test]
async fn an_idle_http2_connection_is_small() {
    const CONNECTIONS: u32 = 1000;
    const MOST: u64 = 40 << 10;
    let flags = ["--grpc-listen", "127.0.0.1:0", "--max-connections-per-address", "0"];
    for (name, port, call) in [("gRPC", "grpc", grpc_call()), ("HTTP/2", "http", http2_request())] {
        let fleet = Fleet::start(FleetPlan { gateway_flags: &flags, ..FleetPlan::default() });
        let fleet = fleet.await.unwrap();
        let gateway = &fleet.gateways[0];
        let address = gateway.address(port).await.unwrap();
        let before = resident(gateway);
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(idle_http2_connection(&address, &call).await);
        }
        let per_connection = resident(gateway).saturating_sub(before) / u64::from(CONNECTIONS);
        drop(idle);
        println!("an idle connection of {name} costs the gateway {per_connection} bytes");
        assert!(per_connection <= MOST, "{name}: {per_connection} bytes");
    }
}

#[tokio::test]
async fn a_worker_that_is_stopped_costs_no_request() {
    let mut fleet = Fleet::start(FleetPlan {
        workers: 2,
        worker_flags: &["--batch", "8"],
        batch_ms: 10,
        ..FleetPlan::default()
    })
    .await
    .unwrap();
    let load = tokio::spawn(run(plan(&fleet, 40, Length::Requests(4000))));
    let mut stopping = fleet.workers.remove(0);
    while metric(&stopping, "batchfleet_worker_batch_size_count").await.unwrap() < 10.0 {
        tokio::task::yield_now().await;
    }
    let status = stopping.terminate().await.unwrap();
    assert!(status.success(), "{status}");
    assert_flawless(&load.await.unwrap().unwrap());
    assert_empty(&fleet).await;
}

#[tokio::test]
async fn a_gateway_that_is_stopped_answers_the_requests_it_accepted() {
    let mut fleet = Fleet::start(FleetPlan {
        gateway_flags: &["--lame-duck", "0s"],
        batch_ms: 200,
        ..FleetPlan::default()
    })
    .await
    .unwrap();
    let load = tokio::spawn(run(plan(&fleet, 5, Length::Requests(5))));
    let mut gateway = fleet.gateways.remove(0);
    while metric(&gateway, "batchfleet_gateway_accepted_total").await.unwrap() < 4.5 {
        tokio::task::yield_now().await;
    }
    let status = gateway.terminate().await.unwrap();
    assert!(status.success(), "{status}");
    let report = load.await.unwrap().unwrap();
    assert_eq!(report.right, 5, "{report}");
}

#[tokio::test]
async fn wrong_settings_end_a_program_with_status_64_and_one_line() {
    for (program, flags, complaint) in [
        ("batchfleet-gateway", &["--batch-size", "3"][..], "unexpected argument '--batch-size'"),
        ("batchfleet-gateway", &["--deadline", "5m"], "--deadline must not exceed --max-deadline"),
        ("batchfleet-gateway", &["--redis-url", "http://x"], "not a Redis URL"),
        ("batchfleet-gateway", &["--redis-ca", "x"], "does not begin with rediss"),
        ("batchfleet-gateway", &["--redis-cert", "x"], "--redis-key"),
        (
            "batchfleet-worker",
            &["--model-repository", ".", "--redis-url", "rediss://x", "--redis-ca", "/nowhere"],
            "--redis-ca /nowhere: No such file",
        ),
        ("batchfleet-worker", &["--model-repository", ".", "--batch", "0"], "--batch"),
        ("batchfleet-worker", &[], "--model-repository"),
        ("batchfleet", &["serve", "--model-repository", "/nowhere"], "/nowhere"),
    ] {
        let mut process =
            Program::named(program).unwrap().args(flags.iter().copied()).spawn().unwrap();
        let status = process.wait().await.unwrap();
        assert_eq!(status.code(), Some(64), "{program} {flags:?}: {:?}", process.log());
        let log = process.log();
        let complaints: Vec<_> = log.iter().filter_map(|line| line.as_str()).collect();
        assert_eq!(complaints.len(), 1, "{program} {flags:?}: {log:?}");
        assert!(complaints[0].contains(complaint), "{program} {flags:?}: {complaints:?}");
    }
}

/// Asserts that no job is left in the echo's queue.
async fn assert_empty(fleet: &Fleet) {
    let broker = RedisBroker::connect(&fleet.redis.url()).await.unwrap();
    let queue = QueueName::new("echo", 1);
    let backlog = broker.observer().await.unwrap().backlog(&queue).await.unwrap();
    assert_eq!((backlog.depth(), backlog.in_flight), (0, 0));
}

/// Opens keep-alive connections, each idle after one answer.
async fn idle_connections(target: &str, count: u32) -> Vec<TcpStream> {
    let address = target.strip_prefix("http://").unwrap();
    let mut idle = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{:?}", &answer[..read]);
        idle.push(stream);
    }
    idle
}

/// The types and flags of frames of HTTP/2.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame of HTTP/2 with a short payload.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A header value of HPACK, not compressed.
fn text(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// The frames of a call of `ServerLive`.
fn grpc_call() -> Vec<u8> {
    // The names of the headers and the first two values are numbers of HPACK's static table.
    let head = [
        &[0x83, 0x86, 0x04][..], // POST, http, path
        &text("/inference.GRPCInferenceService/ServerLive"),
        &[0x01], // authority
        &text("x"),
        &[0x0f, 0x10], // content-type
        &text("application/grpc"),
    ];
    let head = frame(HEADERS, END_HEADERS, 1, &head.concat());
    [head, frame(DATA, END_STREAM, 1, &[0; 5])].concat()
}

/// The frame of `GET /v2/health/live`.
fn http2_request() -> Vec<u8> {
    let head = [&[0x82, 0x86, 0x04][..], &text("/v2/health/live"), &[0x01], &text("x")];
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &head.concat())
}

/// Opens an HTTP/2 connection that is idle after the answer to a call.
async fn idle_http2_connection(address: &str, call: &[u8]) -> TcpStream {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut stream = TcpStream::connect(address).await.unwrap();
    let sent = [PREFACE, &frame(SETTINGS, 0, 0, &[]), call].concat();
    stream.write_all(&sent).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        if [DATA, HEADERS].contains(&head[3]) && head[4] & END_STREAM != 0 {
            return stream;
        }
    }
}

/// Resident memory of a program, in bytes.
fn resident(program: &Program) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", program.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn requests_of_a_deleted_fleet_are_refused_at_once_and_claimed_ones_are_answered() {
    const USERS: u64 = 12;
    let mut fleet = Fleet::start(FleetPlan {
        gateways: 2,
        worker_flags: &["--batch", "1"],
        batch_ms: 1000,
        ..FleetPlan::default()
    })
    .await
    .unwrap();
    let load = tokio::spawn(run(plan(&fleet, 12, Length::Requests(USERS))));
    let broker = RedisBroker::connect(&fleet.redis.url()).await.unwrap();
    let (observer, controller) =
        (broker.observer().await.unwrap(), broker.controller().await.unwrap());
    let queue = QueueName::new("echo", 1);
    let waiting = async { while observer.backlog(&queue).await.unwrap().depth() < USERS / 2 {} };
    timeout(Duration::from_secs(20), waiting).await.unwrap();
    let announcement = observer.fleet().await.unwrap().workers[0].announcement.clone();
    controller.retract(&announcement).await.unwrap();
    let answered = fleet.workers[0].terminate();
    let (ended, report) = tokio::join!(answered, timeout(Duration::from_secs(10), load));
    assert!(ended.unwrap().success());
    let report = report.unwrap().unwrap().unwrap();
    let refused = report.reasons.get("503 no_workers").copied().unwrap_or_default();
    assert!(report.right > 0 && refused > 0, "{report}");
    assert_eq!(report.right + refused, USERS, "{report}");
}
