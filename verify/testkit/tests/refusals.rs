//! Refusals of large requests: a gateway refuses them before it has read their tensors, and clients that
//! ask again at once do not take all of its time.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{sync::Arc, time::Duration};

use batchfleet_loadgen::{
    LoadPlan, Prepared, Sampled,
    infer::{Call, Input},
    run,
};
use batchfleet_testkit::{Fleet, FleetPlan, metric, named_echo_model};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const ROWS: usize = 64;
const ROW_BYTES: usize = 16 << 10;
/// 64 rows take more than a second, one after the other.
const ROW_MS: &str = "20";
const TIMEOUT_MS: &str = "200";

/// A fleet, and a model repository with the model `slow`.
async fn fleet() -> (Fleet, TempDir) {
    let folder = TempDir::new().unwrap();
    named_echo_model(folder.path(), "slow", 64, &[("row_ms", ROW_MS)]).unwrap();
    let serving = Some((folder.path(), "slow"));
    (Fleet::start(FleetPlan { serving, ..FleetPlan::default() }).await.unwrap(), folder)
}

/// A request that cannot be answered in time, by an idle fleet either.
fn hopeless() -> Prepared {
    let shape = vec![ROWS as u64, ROW_BYTES as u64];
    let input = Input { name: "INPUT0".to_owned(), datatype: "UINT8".to_owned(), shape };
    let mut request = Call::new("slow", vec![input]).unwrap().binary(&[&vec![7; ROWS * ROW_BYTES]]);
    request.headers.insert("x-request-timeout-ms", TIMEOUT_MS.parse().unwrap());
    request
}

/// The bytes of a request over HTTP/1.1.
fn bytes(request: &Prepared, host: &str) -> Vec<u8> {
    let mut bytes = format!("POST {} HTTP/1.1\r\nhost: {host}\r\n", request.uri).into_bytes();
    for (name, value) in &request.headers {
        bytes.extend(format!("{name}: {}\r\n", value.to_str().unwrap()).bytes());
    }
    bytes.extend(format!("content-length: {}\r\n\r\n", request.body.len()).bytes());
    bytes.extend_from_slice(&request.body);
    bytes
}

/// Reads an answer with a body of a known length.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "closed: {answer:?}");
        let text = String::from_utf8(answer.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.unwrap().parse().unwrap() {
            return text;
        }
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_in_time_is_refused_before_its_tensors_arrive() {
    let (fleet, _folder) = fleet().await;
    let gateway = &fleet.gateways[0];
    let host = gateway.address("http").await.unwrap();
    let request = bytes(&hopeless(), &host);
    let mut stream = TcpStream::connect(&host).await.unwrap();
    let (begin, rest) = request.split_at(8 << 10);
    stream.write_all(begin).await.unwrap();
    let count = async |name: &str| metric(gateway, &format!("batchfleet_gateway_{name}")).await;
    while count("offered_total").await.unwrap() < 1.0 || count("body_bytes").await.unwrap() > 0.0 {
        tokio::task::yield_now().await;
    }
    // The connection stays open for a client that sends the whole body before it reads.
    for part in [rest, &request] {
        stream.write_all(part).await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("x-error-code: queue_wait\r\n"), "{answer}");
        assert!(answer.contains("retry-after: "), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
    }
    let refused = count("refused_total").await.unwrap();
    assert!((refused - 2.0).abs() < 0.1, "{refused}");
    assert!(count("accepted_total").await.unwrap() < 0.1);
}

#[tokio::test]
async fn refused_clients_that_ask_again_at_once_have_to_take_turns() {
    let (fleet, _folder) = fleet().await;
    let target = fleet.targets()[0].parse().unwrap();
    let (users, requests) = (4, 40);
    let load = Arc::new(Sampled::of(vec![hopeless()]));
    let plan = LoadPlan { users, journal: true, ..LoadPlan::new(target, load, requests) };
    let report = run(plan).await.unwrap();
    assert_eq!(report.refusals(), requests, "{report}");
    // Each of the four waits for 25 ms at most. The first refusals do not wait.
    let took = report.journal.iter().map(|entry| entry.done).max().unwrap();
    assert!(took >= Duration::from_millis(25 * (requests / users as u64 - 2)), "{took:?}");
}
