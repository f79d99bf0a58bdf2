//! Bodies that are too large, too slow, too many, or incomplete.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::server::{Server, chunked, echo, head, post};

#[tokio::test]
async fn b13_a_client_that_expects_100_continue_is_refused_before_it_sends_the_body() {
    let server = Server::start(&["--max-body", "1000"]).await;
    let mut connection = server.connect().await;
    connection.send(head("expect: 100-continue\r\ncontent-length: 1001\r\n")).await;
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.code()), (413, "too_large"));
    connection.is_closed().await;
    let (body, mut connection) = (echo(&[7]), server.connect().await);
    let length = format!("expect: 100-continue\r\ncontent-length: {}\r\n", body.len());
    connection.send(head(&length)).await;
    assert_eq!(connection.answer().await.status, 100);
    connection.send(&body).await;
    assert_eq!(connection.answer().await.outputs(), [7]);
    server.balances().await;
}

#[tokio::test]
async fn b14_a_body_that_stalls_or_trickles_is_answered_408_and_releases_its_memory() {
    let server = Server::start(&["--body-timeout", "1s"]).await;
    for framing in ["content-length: 50000000\r\n", "transfer-encoding: chunked\r\n"] {
        let mut stalled = server.connect().await;
        stalled.send(head(framing)).await;
        stalled.send("1\r\n{\r\n").await;
        let mut trickling = server.connect().await;
        trickling.send(head(framing)).await;
        let trickle = async {
            loop {
                trickling.send("1\r\n \r\n").await;
                sleep(Duration::from_millis(50)).await;
            }
        };
        let answer = tokio::select! {
            answer = stalled.answer() => answer,
            () = trickle => unreachable!("endless loop"),
        };
        assert_eq!((answer.status, answer.code()), (408, "body_timeout"));
        assert_eq!(answer.headers["connection"], "close");
        stalled.is_closed().await;
        let answer = trickling.answer().await;
        assert_eq!((answer.status, answer.code()), (408, "body_timeout"));
        trickling.is_closed().await;
    }
    server.serves().await;
    server.balances().await;
}

#[tokio::test]
async fn b15_an_incomplete_body_is_counted_and_not_inferred() {
    let server = Server::start(&[]).await;
    for reset in [false, true] {
        let mut connection = server.connect().await;
        connection.send(head("content-length: 1000\r\n")).await;
        connection.send("{\"inputs\":").await;
        server.metric_becomes("batchfleet_gateway_body_bytes", "", 10.0).await;
        if reset {
            connection.0.get_ref().set_zero_linger().unwrap();
        }
        drop(connection);
        server.metric_becomes("batchfleet_gateway_body_bytes", "", 0.0).await;
    }
    let refused = server.metric("batchfleet_gateway_refused_total", "cancelled").await;
    assert!((refused - 2.0).abs() < 0.5, "{refused}");
    assert!(server.metric("batchfleet_gateway_accepted_total", "").await < 0.5);
    server.balances().await;
}

#[tokio::test]
async fn b17_a_content_length_above_the_limit_is_refused_before_the_body_is_read() {
    let server = Server::start(&[]).await;
    for length in [(64 << 20) + 1, u64::MAX] {
        let mut connection = server.connect().await;
        let asked = Instant::now();
        connection.send(head(&format!("content-length: {length}\r\n"))).await;
        let answer = connection.answer().await;
        assert_eq!((answer.status, answer.code()), (413, "too_large"));
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
        connection.is_closed().await;
    }
    server.serves().await;
    server.balances().await;
}

#[tokio::test]
async fn b18_a_chunked_body_is_refused_once_it_exceeds_the_limit() {
    let server = Server::start(&["--max-body", "100000"]).await;
    let mut connection = server.connect().await;
    connection.send(head("transfer-encoding: chunked\r\n")).await;
    connection.send(&chunked(&vec![b' '; 100_001], 1000)[..100_000 / 1000 * 1007]).await;
    connection.send("1\r\n \r\n").await; // One byte above the limit, and no last chunk.
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.code()), (413, "too_large"));
    connection.is_closed().await;
    server.serves().await;
    server.balances().await;
}

#[tokio::test]
async fn a_body_above_the_memory_limit_is_refused_with_retry_after() {
    let flags = ["--max-body", "1000", "--max-body-bytes-in-flight", "1000"];
    let server = Server::start(&flags).await;
    let mut holder = server.connect().await;
    holder.send(head("content-length: 1000\r\n")).await;
    holder.send([b' '; 990]).await;
    server.metric_becomes("batchfleet_gateway_body_bytes", "", 990.0).await;
    let mut refused = server.connect().await;
    let body = [b' '; 11];
    let in_chunks = head("transfer-encoding: chunked\r\n").into_bytes();
    for request in [post("", body), [in_chunks, chunked(&body, 11)].concat()] {
        refused.send(request).await;
        let answer = refused.answer().await;
        assert_eq!((answer.status, answer.code()), (503, "body_bytes"));
        assert_eq!(answer.headers["retry-after"], "1");
    }
    drop(holder);
    server.metric_becomes("batchfleet_gateway_body_bytes", "", 0.0).await;
    refused.send(post("", echo(&[9]))).await;
    assert_eq!(refused.answer().await.outputs(), [9], "on the connection of the refusals");
    server.balances().await;
}
