//! Requests with a malformed head or malformed framing. If a proxy and the gateway parsed such a
//! request differently, a client could smuggle a second request past the proxy.

use crate::server::{ECHO, Server, echo, post};

/// Sends bytes and expects an error without a body, with one of `statuses`, and a closed
/// connection.
async fn refused(server: &Server, bytes: impl AsRef<[u8]>, statuses: &[u16]) {
    let shown = String::from_utf8_lossy(bytes.as_ref()).chars().take(200).collect::<String>();
    let mut connection = server.connect().await;
    connection.send(bytes).await;
    let answer = connection.answer().await;
    assert!(statuses.contains(&answer.status), "{}: {shown}", answer.status);
    connection.is_closed().await;
}

/// A head with `lines`, followed by a complete smuggled request.
fn smuggled(lines: &str) -> String {
    let inner = String::from_utf8(post("", echo(&[1]))).unwrap();
    format!("POST {ECHO} HTTP/1.1\r\nhost: test\r\n{lines}\r\n\r\n0\r\n\r\n{inner}")
}

#[tokio::test]
async fn b01_b02_contradictory_body_lengths_are_refused() {
    let server = Server::start(&[]).await;
    for lines in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "content-length: 5\r\ncontent-length: 5",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5,5",
        "content-length: +5",
        "content-length: -5",
        "content-length: 0x5",
        "content-length: 18446744073709551616",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    ] {
        refused(&server, smuggled(lines), &[400]).await;
    }
    let old = smuggled("transfer-encoding: chunked").replace("HTTP/1.1", "HTTP/1.0");
    refused(&server, old, &[400]).await;
    assert!(server.metric("batchfleet_gateway_accepted_total", "").await < 0.5);
    server.serves().await;
    server.balances().await;
}

#[tokio::test]
async fn b03_malformed_chunk_sizes_are_refused() {
    let server = Server::start(&[]).await;
    for chunks in ["ffffffffffffffff1\r\n", "zz\r\n{}\r\n", "-1\r\n", "2\r\n{}5\r\n"] {
        let lines = format!("transfer-encoding: chunked\r\n\r\n{chunks}");
        refused(&server, smuggled(&lines), &[400]).await;
    }
    server.serves().await;
    server.balances().await;
}

#[tokio::test]
async fn b05_malformed_header_lines_are_refused() {
    let server = Server::start(&[]).await;
    for lines in
        ["x-a : 1", "x-a: 1\r\n folded", "x-a: 1\u{0}2", "x-a: 1\r2", "host: other", "\u{e9}: 1"]
    {
        refused(&server, smuggled(lines), &[400]).await;
    }
    server.serves().await;
    server.balances().await;
}

#[tokio::test]
async fn b06_the_size_of_a_head_is_limited() {
    let server = Server::start(&[]).await;
    let many = "x-a: 1\r\n".repeat(97);
    let long = format!("x-a: {}", "1".repeat(200 << 10));
    for lines in [many.trim_end(), &long] {
        refused(&server, smuggled(lines), &[431]).await;
    }
    let path = format!("GET /{} HTTP/1.1\r\nhost: test\r\n\r\n", "a".repeat(70_000));
    refused(&server, path, &[400, 414, 431]).await;
    server.serves().await;
}

#[tokio::test]
async fn b07_the_json_length_header_must_be_unique_and_exactly_named() {
    let server = Server::start(&[]).await;
    let with = |header: &str| post(&header.replace(';', "\r\n"), echo(&[1]));
    assert_eq!(server.ask(with("inference_header_content_length: 1;")).await.outputs(), [1]);
    let twice = "inference-header-content-length: 1;inference-header-content-length: 1;";
    let answer = server.ask(with(twice)).await;
    assert_eq!((answer.status, answer.code()), (400, "bad_header"));
    server.balances().await;
}

#[tokio::test]
async fn b08_other_protocols_are_refused() {
    let server = Server::start(&[]).await;
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on\r\n\r\n";
    refused(&server, hello, &[400]).await;
    refused(&server, "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", &[400]).await;
    let noise: Vec<u8> = (0..4096_u32).map(|n| (n * n / 7).to_le_bytes()[0]).collect();
    refused(&server, noise, &[400]).await;
    server.serves().await;
}
