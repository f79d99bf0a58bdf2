//! Pipelining, keep-alive, slow readers and headers.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::server::{Server, echo, head, post};

#[tokio::test]
async fn b16_pipelined_requests_are_answered_in_order() {
    let server = Server::start(&[]).await;
    let mut connection = server.connect().await;
    let requests: Vec<u8> = (0..100).flat_map(|n| post("", echo(&[n]))).collect();
    connection.send(requests).await;
    for n in 0..100 {
        assert_eq!(connection.answer().await.outputs(), [n]);
    }
    server.balances().await;
}

#[tokio::test]
async fn b16_a_connection_stays_usable_after_a_refusal() {
    let server = Server::start(&[]).await;
    let mut connection = server.connect().await;
    let body = echo(&[5]);
    let unknown = String::from_utf8(post("", &body)).unwrap().replace("/echo/", "/cats/");
    let bad_type = post("content-type: text/xml\r\n", &body);
    let bad_header = post("x-request-timeout-ms: soon\r\n", &body);
    for (wrong, status) in [(unknown.as_bytes(), 404), (&bad_type, 415), (&bad_header, 400)] {
        connection.send(wrong).await;
        assert_eq!(connection.answer().await.status, status);
        connection.send(post("", &body)).await;
        assert_eq!(connection.answer().await.outputs(), [5]);
    }
    server.balances().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_disconnected_and_its_memory_released() {
    let server = Server::start(&["--stall-timeout", "1s"]).await;
    let mut stalled = server.connect().await;
    let (json, tensor) = (
        format!(
            r#"{{"parameters":{{"binary_data_output":true}},"inputs":[{{"name":"INPUT0","datatype":"UINT8","shape":[1,{}],"parameters":{{"binary_data_size":{}}}}}]}}"#,
            32 << 20,
            32 << 20
        ),
        vec![7; 32 << 20],
    );
    let length = format!("inference-header-content-length: {}\r\n", json.len());
    stalled.send(post(&length, [json.as_bytes(), &tensor].concat())).await;
    let sent = Instant::now();
    server.metric_becomes("batchfleet_gateway_answered_total", "ok", 1.0).await;
    assert!(
        server.metric("batchfleet_gateway_body_bytes", "").await > 1e6,
        "the answer is being sent"
    );
    server.serves().await;
    server.metric_becomes("batchfleet_gateway_body_bytes", "", 0.0).await;
    assert!(sent.elapsed() < Duration::from_secs(20), "{:?}", sent.elapsed());
    server.balances().await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_its_complete_answer() {
    let server = Server::start(&["--stall-timeout", "1s"]).await;
    let mut slow = server.connect().await;
    slow.send(post("", echo(&vec![7; 1 << 20]))).await;
    sleep(Duration::from_millis(500)).await; // Below the stall timeout.
    assert_eq!(slow.answer().await.outputs().len(), 1 << 20);
    server.balances().await;
}

#[tokio::test]
async fn b67_malformed_optional_headers_are_ignored() {
    let server = Server::start(&[]).await;
    let long = "0".repeat(64 << 10);
    for value in ["00-zz-1-1", "\u{7f}", "ü", &long] {
        let header = format!("traceparent: {value}\r\nx-forwarded-for: {value:.9}\r\n");
        let answer = server.ask(post(&header, echo(&[1]))).await;
        // A control character makes the header itself invalid.
        assert!(answer.status == 200 || value == "\u{7f}", "{}", answer.status);
    }
    server.serves().await;
}

#[tokio::test]
async fn b68_the_public_port_serves_no_admin_paths() {
    let server = Server::start(&[]).await;
    for path in ["/metrics", "/livez", "/readyz", "/debug", "/debug/pprof", "/admin", "/"] {
        let answer = server.ask(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{path}");
    }
}

#[tokio::test]
async fn b66_timeouts_are_integers_from_1_on_and_priorities_are_names() {
    let server = Server::start(&["--max-deadline", "31s"]).await;
    for header in [
        "x-request-timeout-ms: 0",
        "x-request-timeout-ms: -1",
        "x-request-timeout-ms: soon",
        "x-request-timeout-ms: 1.5",
        "x-priority: urgent",
        "x-priority:",
    ] {
        let answer = server.ask(post(&format!("{header}\r\n"), echo(&[1]))).await;
        assert_eq!((answer.status, answer.code()), (400, "bad_parameter"), "{header}");
    }
    for header in [
        "x-request-timeout-ms: 18446744073709551615",
        "x-priority: critical",
        "x-priority: Default",
        "x-priority: sheddable",
    ] {
        let answer = server.ask(post(&format!("{header}\r\n"), echo(&[1]))).await;
        assert_eq!(answer.outputs(), [1], "{header}");
    }
    server.balances().await;
}

#[tokio::test]
async fn b14_an_incomplete_head_is_answered_408() {
    let server = Server::start(&[]).await;
    let mut connection = server.connect().await;
    connection.send(head("").trim_end()).await;
    assert_eq!(connection.answer().await.status, 408);
    connection.is_closed().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_keep_alive_time() {
    let server = Server::start(&["--keep-alive", "2s"]).await;
    let mut connection = server.connect().await;
    connection.send(post("", echo(&[1]))).await;
    assert_eq!(connection.answer().await.outputs(), [1]);
    let idle = Instant::now();
    connection.is_closed().await;
    let kept = idle.elapsed().as_secs_f64();
    assert!((1.0..5.0).contains(&kept), "{kept} s");
}
