//! The spans of requests and batches that programs send to a collector.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod collector;

use std::{collections::HashMap, time::Duration};

use batchfleet_testkit::{Fleet, FleetPlan, metric};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use collector::{Collector, ReceivedSpan};

/// Tolerance between clocks: Redis measures the time in the queue, in whole milliseconds.
const CLOCKS: Duration = Duration::from_millis(2);
const BATCH_MS: u32 = 60;
/// The id of the caller's own span.
const CALLER: u64 = 0xb7ad_6b71_6920_3331;

/// A gateway and a worker that send spans to `collector`. The gateway traces `share` of the
/// requests that leave the decision open.
async fn fleet(collector: &str, share: &str, worker_flags: &[&str]) -> Fleet {
    let worker_flags = [&["--trace-endpoint", collector], worker_flags].concat();
    Fleet::start(FleetPlan {
        gateway_flags: &["--trace-endpoint", collector, "--trace-sample", share],
        worker_flags: &worker_flags,
        batch_ms: BATCH_MS,
        ..FleetPlan::default()
    })
    .await
    .unwrap()
}

/// The id of the nth trace.
fn trace(number: u128) -> u128 {
    (0x0af7_6519 << 96) + number
}

/// The `traceparent` header of the nth trace. Flags `01`: the caller records the trace; `00`: it
/// does not.
fn caller(number: u128, flags: &str) -> String {
    format!("traceparent: 00-{:032x}-{CALLER:016x}-{flags}\r\n", trace(number))
}

/// Sends a request with additional headers. Returns the status and the headers of the answer.
async fn ask(fleet: &Fleet, headers: &str) -> (u16, HashMap<String, String>) {
    let address = fleet.targets()[0].strip_prefix("http://").unwrap();
    let input =
        r#"{"inputs": [{"name": "INPUT0", "datatype": "UINT8", "shape": [1, 2], "data": [1, 2]}]}"#;
    let request = format!(
        "POST /v2/models/echo/infer HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-batch: 1\r\n\
         content-length: {}\r\n{headers}\r\n{input}",
        input.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    let pair = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_lowercase(), value.to_owned())
    };
    (status.split(' ').nth(1).unwrap().parse().unwrap(), headers.lines().map(pair).collect())
}

/// A field of the answer's `x-batch` header.
fn batch_field(headers: &HashMap<String, String>, name: &str) -> f64 {
    let field = headers["x-batch"].split(", ").find_map(|part| part.strip_prefix(name));
    field.unwrap().strip_prefix('=').unwrap().parse().unwrap()
}

fn of<'a>(spans: &'a [ReceivedSpan], trace: u128, name: &str) -> &'a ReceivedSpan {
    let mut found = spans.iter().filter(|span| span.trace == trace && span.name.starts_with(name));
    match (found.next(), found.next()) {
        (Some(span), None) => span,
        (one, more) => panic!("{name} of {trace}: {one:?} and {more:?} in {spans:#?}"),
    }
}

#[tokio::test]
async fn a_trace_shows_gateway_queue_batch_and_compute_as_long_as_they_took() {
    let collector = Collector::start();
    let fleet = fleet(collector.url(), "0", &["--batch", "1"]).await;
    let (headers, other) = (caller(1, "01"), caller(2, "01"));
    // A batch has one row, so one request waits while the other runs.
    let ((status, answer), (_, other)) = tokio::join!(ask(&fleet, &headers), ask(&fleet, &other));
    assert_eq!(status, 200);
    let spans = collector.wait(|spans| spans.len() == 2 * 6).await;
    for (number, answer) in [(1, answer), (2, other)] {
        let trace = trace(number);
        let [whole, read, queue, batch, compute] =
            ["POST /v2", "read", "queue", "batch", "compute"].map(|name| of(&spans, trace, name));
        assert_eq!(whole.name, "POST /v2/models/{model}/infer");
        assert_eq!(whole.parent, CALLER);
        for part in [read, queue, batch] {
            assert_eq!(part.parent, whole.id, "{part:?}");
        }
        assert_eq!(compute.parent, batch.id);
        for (span, service) in [(whole, "gateway"), (read, "gateway"), (queue, "worker")] {
            assert_eq!(span.service, format!("batchfleet-{service}"));
        }
        assert_eq!(whole.attributes["http.response.status_code"], "200");
        assert_eq!(batch.attributes["batchfleet.batch.rows"], "1");
        // The durations equal those in the answer's `x-batch` header.
        let (run, wait) = (batch_field(&answer, "run-ms"), batch_field(&answer, "queue-ms"));
        assert!((compute.milliseconds() - run).abs() < 0.01, "{compute:?}");
        assert!((queue.milliseconds() - wait).abs() < 0.01, "{queue:?}");
        assert!(compute.milliseconds() >= f64::from(BATCH_MS), "{compute:?}");
        // The spans are consecutive parts of the whole request.
        let parts = read.milliseconds() + queue.milliseconds() + batch.milliseconds();
        let clocks = CLOCKS.as_secs_f64() * 1e3;
        assert!(parts <= whole.milliseconds() + clocks, "{spans:#?}");
        assert!(whole.milliseconds() - parts < f64::from(BATCH_MS), "{spans:#?}");
        let clocks = u64::try_from(CLOCKS.as_nanos()).unwrap();
        for part in [read, queue, batch, compute] {
            assert!(part.began + clocks >= whole.began, "{part:?} of {whole:?}");
            assert!(part.ended <= whole.ended + clocks, "{part:?} of {whole:?}");
        }
        assert!(batch.began <= compute.began && compute.ended <= batch.ended);
    }
    // The later request waited for the earlier one's run.
    let waits = [1, 2].map(|number| of(&spans, trace(number), "queue").milliseconds());
    assert!(waits[0].max(waits[1]) >= f64::from(BATCH_MS) / 2.0, "{waits:?}");
}

#[tokio::test]
async fn a_batch_is_linked_to_every_traced_request_in_it() {
    let collector = Collector::start();
    // The batch lingers long enough for all requests.
    let fleet = fleet(collector.url(), "0", &["--batch", "8", "--linger", "1s"]).await;
    let traced = [caller(1, "01"), caller(2, "01"), caller(3, "01")];
    let (unrecorded, none) = (caller(4, "00"), String::new());
    let [a, b, c] = traced.each_ref().map(|headers| ask(&fleet, headers));
    let all = tokio::join!(a, b, c, ask(&fleet, &unrecorded), ask(&fleet, &none));
    assert_eq!([all.0.0, all.1.0, all.2.0, all.3.0, all.4.0], [200; 5]);
    let spans = collector.wait(|spans| spans.len() == 3 * 5 + 1).await;
    let batch = spans.iter().find(|span| span.links.len() == 3).unwrap();
    assert_eq!((batch.name.as_str(), batch.parent), ("batch", 0));
    assert_eq!(batch.attributes["batchfleet.batch.requests"], "5");
    assert_eq!(batch.attributes["batchfleet.batch.release"], "linger");
    for number in 1..=3 {
        let trace = trace(number);
        let request = of(&spans, trace, "POST");
        assert!(batch.links.contains(&(trace, request.id)), "{batch:?}");
        assert_eq!(of(&spans, trace, "batch").links, [(batch.trace, batch.id)]);
    }
}

#[tokio::test]
async fn callers_decide_for_their_own_traces_and_the_share_for_all_others() {
    let collector = Collector::start();
    let mut fleet = fleet(collector.url(), "1", &[]).await;
    let malformed = "traceparent: 00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-00\r\n";
    let twice = caller(1, "00").repeat(2);
    for headers in [&caller(7, "00"), "", malformed, &twice] {
        assert_eq!(ask(&fleet, headers).await.0, 200);
    }
    // Programs send all spans before they exit.
    assert!(fleet.gateways[0].terminate().await.unwrap().success());
    let roots: Vec<_> =
        collector.received().into_iter().filter(|span| span.name.starts_with("POST")).collect();
    assert_eq!(roots.len(), 3, "{roots:#?}");
    assert!(roots.iter().all(|root| root.parent == 0 && root.trace != trace(7)));
}

#[tokio::test]
async fn the_trace_of_a_failed_request_has_the_error() {
    let collector = Collector::start();
    let fleet = fleet(collector.url(), "0", &["--batch", "1"]).await;
    let patient = caller(1, "01");
    let hasty = format!("{}x-request-timeout-ms: 20\r\n", caller(2, "01"));
    let ((first, _), (second, _)) = tokio::join!(ask(&fleet, &patient), ask(&fleet, &hasty));
    assert_eq!(first, 200);
    assert!(second == 504 || second == 503, "{second}");
    let is_failed = |span: &ReceivedSpan| span.trace == trace(2) && span.name.starts_with("POST");
    let spans = collector.wait(|spans| spans.iter().any(is_failed)).await;
    let failed = of(&spans, trace(2), "POST");
    assert!(failed.failed && failed.attributes.contains_key("error.type"), "{failed:?}");
    assert_eq!(failed.attributes["http.response.status_code"], second.to_string());
}

#[tokio::test]
async fn requests_are_served_while_the_collector_is_unreachable() {
    let mut fleet = fleet("http://127.0.0.1:1", "1", &[]).await;
    for _ in 0..20 {
        assert_eq!(ask(&fleet, "").await.0, 200);
    }
    let complains = |line: &Value| {
        line["message"].as_str().is_some_and(|text| text.contains("failed to send traces"))
    };
    fleet.gateways[0].wait_for_log(complains).await.unwrap();
    for _ in 0..20 {
        assert_eq!(ask(&fleet, "").await.0, 200);
    }
    let stopping = fleet.gateways[0].terminate();
    assert!(timeout(Duration::from_secs(20), stopping).await.unwrap().unwrap().success());
    let log = fleet.gateways[0].log();
    assert_eq!(log.iter().filter(|line| complains(line)).count(), 1, "{log:#?}");
    assert!(!log.iter().any(|line| line["target"].as_str().unwrap().contains("opentelemetry")));
}

#[tokio::test]
async fn jobs_carry_no_trace_unless_every_worker_traces() {
    let collector = Collector::start();
    let mut fleet = fleet(collector.url(), "0", &[]).await;
    fleet.add_worker(&[]).await.unwrap();
    while metric(&fleet.gateways[0], "batchfleet_gateway_workers").await.unwrap() < 2.0 {
        tokio::task::yield_now().await;
    }
    for number in 1..=10 {
        assert_eq!(ask(&fleet, &caller(number, "01")).await.0, 200);
    }
    assert!(fleet.gateways[0].terminate().await.unwrap().success());
    assert!(fleet.workers[0].terminate().await.unwrap().success());
    let received = collector.received();
    assert_eq!(received.iter().filter(|span| span.name.starts_with("POST")).count(), 10);
    assert!(received.iter().all(|span| span.service == "batchfleet-gateway"), "{received:#?}");
}
