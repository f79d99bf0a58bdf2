//! Memory used by bad requests. The operating system records the peak per process, so each test has
//! its own server.

use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use tokio::{task::JoinSet, time::Instant};

use crate::server::{Connection, RawAnswer, Server, chunked, echo, head, post};

const MEBIBYTE: usize = 1 << 20;

/// Sends requests at the same time, and returns their answers.
async fn all_at_once(server: &Server, requests: Vec<Vec<u8>>) -> Vec<RawAnswer> {
    let mut asking = JoinSet::new();
    for request in requests {
        let mut connection = server.connect().await;
        asking.spawn(async move {
            connection.send(request).await;
            connection.answer().await
        });
    }
    asking.join_all().await
}

#[tokio::test]
async fn b04_two_hundred_thousand_chunks_of_one_byte_are_served_with_little_memory() {
    let server = Server::start(&[]).await;
    server.serves().await;
    let before = server.peak();
    let data = vec![10; 66_000];
    let body = echo(&data);
    assert!(body.len() > 200_000, "{}", body.len());
    let mut request = head("transfer-encoding: chunked\r\n").into_bytes();
    request.extend(chunked(body.as_bytes(), 1));
    assert_eq!(server.ask(request).await.outputs().len(), data.len());
    let growth = server.peak() - before;
    println!("grew by {growth} bytes");
    // Four times the body is 0.8 MB; threads and buffers of any request need the rest.
    assert!(growth < 8 * MEBIBYTE, "grew by {growth} bytes");
    server.balances().await;
}

#[tokio::test]
async fn b19_thirty_zip_bombs_stay_within_the_memory_limit_of_bodies() {
    let limit = 64 * MEBIBYTE;
    let all = (2 * limit).to_string();
    let server = Server::start(&["--max-body-bytes-in-flight", &all]).await;
    server.serves().await;
    let before = server.peak();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![b' '; 2 * limit]).unwrap();
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < limit / 500, "{}", bomb.len());
    let bombs = vec![post("content-encoding: gzip\r\n", bomb); 30];
    for answer in all_at_once(&server, bombs).await {
        assert!(
            matches!((answer.status, answer.code()), (413, "too_large") | (503, "body_bytes")),
            "{answer:?}"
        );
    }
    let growth = server.peak() - before;
    println!("grew by {growth} bytes");
    // Twice the limit, and a buffer per connection.
    assert!(growth < 2 * limit + 16 * MEBIBYTE, "grew by {growth} bytes");
    server.serves().await;
    server.balances().await;
}

#[tokio::test]
async fn many_large_bodies_stay_within_the_memory_limit_and_do_not_delay_others() {
    let all = 32 * MEBIBYTE;
    let (body, budget) = ((8 * MEBIBYTE).to_string(), all.to_string());
    let server = Server::start(&["--max-body", &body, "--max-body-bytes-in-flight", &budget]).await;
    server.serves().await;
    let before = server.peak();
    let request = post("", echo(&vec![100; MEBIBYTE]));
    assert!(request.len() > 4 * MEBIBYTE, "{}", request.len());
    let mut probe = server.connect().await;
    let asking = all_at_once(&server, vec![request; 40]);
    tokio::pin!(asking);
    let mut slowest = Duration::ZERO;
    let answers = loop {
        tokio::select! {
            answers = &mut asking => break answers,
            took = health(&mut probe) => slowest = slowest.max(took),
        }
    };
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(served > 0);
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 503)));
    // A debug build needs most of a second to parse one of these requests.
    assert!(slowest < Duration::from_millis(500), "a health check took {slowest:?}");
    let growth = server.peak() - before;
    println!("{served} served, slowest health check {slowest:?}, grew by {growth} bytes");
    assert!(growth < 4 * all, "grew by {growth} bytes");
    server.balances().await;
}

/// How long a health check takes.
async fn health(connection: &mut Connection) -> Duration {
    let asked = Instant::now();
    connection.send("GET /v2/health/live HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(connection.answer().await.status, 200);
    asked.elapsed()
}
