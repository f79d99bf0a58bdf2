//! API keys, limits and classes of clients.

use std::{fs, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::time::Instant;

use crate::server::{RawAnswer, Server, echo, head, post};

/// The SHA-256 of "secret" and of "other".
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
const OTHER: &str = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa";

async fn with_keys(lines: &str) -> (Server, TempDir) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys");
    fs::write(&file, lines).unwrap();
    (Server::start(&["--api-keys", path(&file)]).await, folder)
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}

async fn get(server: &Server, path: &str, headers: &str) -> RawAnswer {
    server.ask(format!("GET {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n")).await
}

#[tokio::test]
async fn b63_without_a_valid_key_nothing_about_models_is_revealed() {
    let (server, _folder) = with_keys(&format!("{SECRET} alice\n")).await;
    for headers in [
        "",
        "x-api-key: wrong\r\n",
        "x-api-key:\r\n",
        "authorization: Bearer wrong\r\n",
        "authorization: Basic secret\r\n",
        "authorization: Bearer\r\n",
        &format!("x-api-key: {SECRET}\r\n"),
    ] {
        let answer = server.ask(post(headers, echo(&[1]))).await;
        assert_eq!((answer.status, answer.code()), (401, "unauthorized"), "{headers}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        for path in ["/v2/models/echo", "/v2/models/echo/ready", "/v2/models/cats"] {
            assert_eq!(get(&server, path, headers).await.status, 401, "{path}");
        }
        assert_eq!(get(&server, "/v2/models/stats", headers).await.status, 401);
    }
    for headers in [
        "x-api-key: secret\r\n",
        "authorization: Bearer secret\r\n",
        "Authorization: bearer secret\r\n",
    ] {
        assert_eq!(server.ask(post(headers, echo(&[1]))).await.outputs(), [1]);
    }
    assert_eq!(get(&server, "/v2/health/live", "").await.status, 200);
    assert_eq!(get(&server, "/v2/health/ready", "").await.status, 200);
    server.balances().await;
}

#[tokio::test]
async fn b13_a_client_without_a_key_is_refused_before_it_sends_the_body() {
    let (server, _folder) = with_keys(&format!("{SECRET} alice\n")).await;
    let answer = server.ask(head("expect: 100-continue\r\ncontent-length: 10\r\n")).await;
    assert_eq!((answer.status, answer.code()), (401, "unauthorized"));
}

#[tokio::test]
async fn b64_a_model_outside_the_scope_of_a_key_looks_unknown() {
    let (server, _folder) =
        with_keys(&format!("{SECRET} alice models=cats,dogs\n{OTHER} bob models=echo\n")).await;
    let alice = "x-api-key: secret\r\n";
    let refused = server.ask(post(alice, echo(&[1]))).await;
    assert_eq!((refused.status, refused.code()), (404, "model_not_found"));
    let unknown = get(&server, "/v2/models/cats/versions/1", alice).await.body;
    let hidden = get(&server, "/v2/models/echo/versions/1", alice).await.body;
    let unknown = String::from_utf8(unknown).unwrap();
    assert_eq!(unknown.replace("cats", "echo"), String::from_utf8(hidden).unwrap());
    let stats = get(&server, "/v2/models/stats", alice).await.body;
    assert_eq!(stats, br#"{"model_stats":[]}"#);
    assert_eq!(server.ask(post("x-api-key: other\r\n", echo(&[1]))).await.outputs(), [1]);
    server.balances().await;
}

#[tokio::test]
async fn b65_a_client_above_its_rate_gets_retry_after_and_others_are_served() {
    let (server, _folder) = with_keys(&format!("{SECRET} alice rate=0.1\n{OTHER} bob\n")).await;
    let mut connection = server.connect().await;
    let request = post("x-api-key: secret\r\n", echo(&[1]));
    connection.send(&request).await;
    assert_eq!(connection.answer().await.outputs(), [1]);
    for _ in 0..20 {
        let asked = Instant::now();
        connection.send(&request).await;
        let answer = connection.answer().await;
        assert_eq!((answer.status, answer.code()), (429, "quota"));
        assert_eq!(answer.headers["retry-after"], "10");
        assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    }
    assert_eq!(server.ask(post("x-api-key: other\r\n", echo(&[1]))).await.outputs(), [1]);
    server.balances().await;
}

#[tokio::test]
async fn b65_requests_in_flight_of_a_client_are_limited() {
    let server = Server::start(&["--client-in-flight", "2"]).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut connection = server.connect().await;
        connection.send(head("content-length: 100\r\n") + "{").await;
        waiting.push(connection);
    }
    server.metric_becomes("batchfleet_gateway_body_bytes", "", 2.0).await;
    let refused = server.ask(post("", echo(&[1]))).await;
    assert_eq!((refused.status, refused.code()), (429, "concurrency"));
    assert_eq!(refused.headers["retry-after"], "1");
    drop(waiting);
    server.metric_becomes("batchfleet_gateway_body_bytes", "", 0.0).await;
    server.serves().await;
    server.balances().await;
}

#[tokio::test]
async fn b67_only_trusted_proxies_can_set_the_client_address() {
    let spoofed = Server::start(&["--client-rate", "0.01"]).await;
    let behind_a_proxy =
        Server::start(&["--client-rate", "0.01", "--trusted-proxies", "127.0.0.0/8"]).await;
    for (server, second) in [(&spoofed, 429), (&behind_a_proxy, 200)] {
        let one = server.ask(post("x-forwarded-for: 1.2.3.4\r\n", echo(&[1]))).await;
        assert_eq!(one.status, 200);
        let other = server.ask(post("x-forwarded-for: 5.6.7.8\r\n", echo(&[1]))).await;
        assert_eq!(other.status, second);
        server.balances().await;
    }
}

#[tokio::test]
async fn denied_requests_are_counted_by_reason_on_every_path() {
    let (server, _folder) = with_keys(&format!(
        "{SECRET} alice expires=2020-01-01\n{OTHER} bob expires=2999-12-31T23:59:59Z\n"
    ))
    .await;
    let expired = server.ask(post("x-api-key: secret\r\n", echo(&[1]))).await;
    assert_eq!((expired.status, expired.code()), (401, "unauthorized"));
    assert!(String::from_utf8_lossy(&expired.body).contains("has expired"));
    assert_eq!(server.ask(post("x-api-key: other\r\n", echo(&[1]))).await.outputs(), [1]);
    for path in ["/v2/models/echo", "/v2/models/echo/stats", "/v2/models/stats"] {
        assert_eq!(get(&server, path, "").await.status, 401);
        assert_eq!(get(&server, path, "authorization: Bearer guessed\r\n").await.status, 401);
    }
    let denied = "batchfleet_gateway_denied_total";
    for (reason, count) in [("expired_key", 1.0), ("missing", 3.0), ("unknown_key", 3.0)] {
        server.metric_becomes(denied, &format!("reason=\"{reason}\""), count).await;
    }
    server.metric_becomes(denied, "", 7.0).await;
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_slowed_down_and_valid_keys_still_pass() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys");
    fs::write(&file, format!("{SECRET} alice\n")).unwrap();
    let flags = ["--api-keys", path(&file), "--auth-failure-rate", "0.1"];
    let server = Server::start(&[&flags[..], &["--trusted-proxies", "127.0.0.1"]].concat()).await;
    let from = |address, key| format!("x-forwarded-for: {address}\r\nx-api-key: {key}\r\n");
    let guess = || server.ask(post(&from("1.2.3.4", "guessed"), echo(&[1])));
    assert_eq!(guess().await.status, 401);
    let refused = guess().await;
    assert_eq!((refused.status, refused.code()), (429, "auth_failures"));
    assert!((1..=10).contains(&refused.headers["retry-after"].parse::<u32>().unwrap()));
    let valid = server.ask(post(&from("1.2.3.4", "secret"), echo(&[1]))).await;
    assert_eq!(valid.outputs(), [1]);
    let elsewhere = server.ask(post(&from("5.6.7.8", "guessed"), echo(&[1]))).await;
    assert_eq!(elsewhere.status, 401);
    let throttled = "reason=\"throttled\"";
    server.metric_becomes("batchfleet_gateway_denied_total", throttled, 1.0).await;
    server.balances().await;
}

#[tokio::test]
async fn a_deleted_key_file_is_counted_and_its_keys_stay_valid() {
    let (server, folder) = with_keys(&format!("{SECRET} alice\n")).await;
    fs::remove_file(folder.path().join("keys")).unwrap();
    let failures = "batchfleet_gateway_reload_failures_total";
    server.metric_becomes(failures, "file=\"api_keys\"", 1.0).await;
    assert_eq!(server.ask(post("x-api-key: secret\r\n", echo(&[1]))).await.outputs(), [1]);
}

#[tokio::test]
async fn a_changed_key_file_is_reloaded_and_a_malformed_one_is_ignored() {
    let (server, folder) = with_keys(&format!("{SECRET} alice\n")).await;
    let file = folder.path().join("keys");
    fs::write(&file, "broken").unwrap();
    let kept = |line: &serde_json::Value| {
        line["message"] == "failed to reload API keys, keeping the previous ones"
    };
    server.program.wait_for_log(kept).await.unwrap();
    assert_eq!(server.ask(post("x-api-key: secret\r\n", echo(&[1]))).await.outputs(), [1]);
    fs::write(&file, format!("{OTHER} bob\n")).unwrap();
    let changed = |line: &serde_json::Value| line["message"] == "reloaded API keys";
    server.program.wait_for_log(changed).await.unwrap();
    assert_eq!(server.ask(post("x-api-key: secret\r\n", echo(&[1]))).await.status, 401);
    assert_eq!(server.ask(post("x-api-key: other\r\n", echo(&[1]))).await.outputs(), [1]);
}
