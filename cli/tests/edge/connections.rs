//! What connections may do besides asking one thing.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::server::{Server, echo, head, post};

#[tokio::test]
async fn b16_requests_sent_ahead_are_answered_each_with_its_own_and_in_order() {
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
async fn b16_a_request_after_a_refusal_is_answered_on_the_same_connection() {
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
async fn a_caller_that_does_not_take_its_answer_is_cut_off_and_frees_what_it_holds() {
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
    assert!(server.metric("batchfleet_gateway_body_bytes", "").await > 1e6, "it is being sent");
    server.serves().await;
    server.metric_becomes("batchfleet_gateway_body_bytes", "", 0.0).await;
    assert!(sent.elapsed() < Duration::from_secs(20), "{:?}", sent.elapsed());
    server.balances().await;
}

#[tokio::test]
async fn a_caller_that_takes_its_answer_slowly_gets_all_of_it() {
    let server = Server::start(&["--stall-timeout", "1s"]).await;
    let mut slow = server.connect().await;
    slow.send(post("", echo(&vec![7; 1 << 20]))).await;
    sleep(Duration::from_millis(500)).await; // Slower than it could, faster than it must.
    assert_eq!(slow.answer().await.outputs().len(), 1 << 20);
    server.balances().await;
}

#[tokio::test]
async fn b67_headers_nobody_reads_may_hold_anything() {
    let server = Server::start(&[]).await;
    let long = "0".repeat(64 << 10);
    for value in ["00-zz-1-1", "\u{7f}", "ü", &long] {
        let header = format!("traceparent: {value}\r\nx-forwarded-for: {value:.9}\r\n");
        let answer = server.ask(post(&header, echo(&[1]))).await;
        // A control character is no header at all.
        assert!(answer.status == 200 || value == "\u{7f}", "{}", answer.status);
    }
    server.serves().await;
}

#[tokio::test]
async fn b68_what_is_for_operators_is_not_on_the_public_port() {
    let server = Server::start(&[]).await;
    for path in ["/metrics", "/livez", "/readyz", "/debug", "/debug/pprof", "/admin", "/"] {
        let answer = server.ask(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{path}");
    }
}

#[tokio::test]
async fn b66_deadlines_are_whole_numbers_from_1_on_and_classes_have_names() {
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
async fn b14_a_head_that_does_not_end_is_cut_off() {
    let server = Server::start(&[]).await;
    let mut connection = server.connect().await;
    connection.send(head("").trim_end()).await;
    assert_eq!(connection.answer().await.status, 408);
    connection.is_closed().await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_as_long_as_was_set() {
    let server = Server::start(&["--keep-alive", "2s"]).await;
    let mut connection = server.connect().await;
    connection.send(post("", echo(&[1]))).await;
    assert_eq!(connection.answer().await.outputs(), [1]);
    let idle = Instant::now();
    connection.is_closed().await;
    let kept = idle.elapsed().as_secs_f64();
    assert!((1.0..5.0).contains(&kept), "{kept} s");
}
