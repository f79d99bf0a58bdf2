//! Clients and surroundings that are unusual but not wrong: HEAD, added slashes, pages of other
//! origins, connections that are opened ahead of need, few files.

use std::time::Duration;

use batchfleet_testkit::{Program, get};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::server::{CONFIG, ECHO, Server, echo, post};

const LIMIT: Duration = Duration::from_mins(1);

/// Sends the head of a request and returns everything that the server sends until it closes.
async fn all(address: &str, line: &str, headers: &str) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let head = format!("{line} HTTP/1.1\r\nhost: test\r\n{headers}connection: close\r\n\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, connection.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

/// The sorted head of an answer without its date, and the body.
fn parts(answer: &str) -> (Vec<&str>, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut head: Vec<_> = head.split("\r\n").filter(|line| !line.starts_with("date: ")).collect();
    head.sort_unstable();
    (head, body)
}

#[tokio::test]
async fn head_is_answered_as_get_without_the_body() {
    let server = Server::start(&[]).await;
    server.serves().await;
    let admin = server.program.address("admin").await.unwrap();
    for (address, path) in [
        (&server.address, "/v2"),
        (&server.address, "/v2/health/live"),
        (&server.address, "/v2/health/ready"),
        (&server.address, "/v2/models/echo"),
        (&server.address, "/v2/models/echo/config"),
        (&server.address, "/v2/models/missing/ready"),
        (&server.address, "/openapi.json"),
        (&server.address, "/"),
        (&admin, "/livez"),
        (&admin, "/readyz"),
        (&admin, "/"),
    ] {
        let got = all(address, &format!("GET {path}"), "").await;
        let head = all(address, &format!("HEAD {path}"), "").await;
        assert_eq!(parts(&head), (parts(&got).0, ""), "{path}");
        assert_ne!(parts(&got).1, "", "{path}");
    }
    let metrics = all(&admin, "HEAD /metrics", "").await;
    assert!(metrics.starts_with("HTTP/1.1 200 OK") && metrics.ends_with("\r\n\r\n"), "{metrics}");
    let post = all(&server.address, &format!("HEAD {ECHO}"), "").await;
    assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: POST\r\n"), "{post}");
}

#[tokio::test]
async fn added_slashes_lead_to_the_same_path() {
    let server = Server::start(&[]).await;
    for path in ["/v2/", "//v2/models/echo/ready?x=1", "/v2//models/echo/", "/v2/health/live//"] {
        let answer = all(&server.address, &format!("GET {path}"), "").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{path}: {answer}");
    }
    let missing = all(&server.address, "GET /v2/models//ready", "").await;
    assert!(missing.contains("x-error-code: model_not_found"), "{missing}");
    let body = echo(&[4, 2]);
    let mut request = String::from_utf8(post("", &body)).unwrap();
    request = request.replace(ECHO, "//v2/models/echo/infer/");
    assert_eq!(server.ask(request).await.outputs(), [4, 2]);
}

#[tokio::test]
async fn only_pages_of_allowed_origins_may_send_requests() {
    let wish =
        "access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n";
    let preflight = async |server: &Server, origin: &str| {
        let headers = format!("origin: {origin}\r\n{wish}");
        all(&server.address, &format!("OPTIONS {ECHO}"), &headers).await
    };
    let closed = Server::start(&[]).await;
    assert!(preflight(&closed, "https://page.example").await.starts_with("HTTP/1.1 405"));

    let server = Server::start(&["--allow-origin", "https://page.example,https://b.example"]).await;
    let allowed = preflight(&server, "https://page.example").await;
    assert!(allowed.starts_with("HTTP/1.1 204"), "{allowed}");
    for header in [
        "access-control-allow-origin: https://page.example\r\n",
        "access-control-allow-headers: content-type\r\n",
        "access-control-allow-methods: GET, HEAD, POST\r\n",
        "vary: origin\r\n",
    ] {
        assert!(allowed.contains(header), "{allowed}");
    }
    let other = preflight(&server, "https://other.example").await;
    assert!(other.starts_with("HTTP/1.1 405") && !other.contains("access-control"), "{other}");
    assert!(other.contains("vary: origin\r\n"), "{other}");
    // Errors can be read by the page, too.
    let request = post("origin: https://b.example\r\n", "{");
    let answer = server.ask(request).await;
    assert_eq!((answer.status, answer.code()), (400, "bad_json"));
    assert_eq!(answer.headers["access-control-allow-origin"], "https://b.example");
    server.balances().await;
}

#[tokio::test]
async fn a_connection_that_was_never_used_is_kept_and_then_closed_without_a_word() {
    let server = Server::start(&["--keep-alive", "7s"]).await;
    let opened = Instant::now();
    let mut unused = server.connect().await;
    let mut late = server.connect().await;
    unused.is_closed().await;
    let kept = opened.elapsed().as_secs_f64();
    assert!((6.0..12.0).contains(&kept), "{kept} s");
    late.is_closed().await;
    let mut used = server.connect().await;
    used.send(post("", echo(&[1]))).await;
    assert_eq!(used.answer().await.outputs(), [1]);
}

#[tokio::test]
async fn clients_that_hold_many_connections_leave_files_for_the_admin_port() {
    let repository = TempDir::new().unwrap();
    std::fs::create_dir_all(repository.path().join("echo/1")).unwrap();
    std::fs::write(repository.path().join("echo/config.pbtxt"), CONFIG).unwrap();
    let program = env!("CARGO_BIN_EXE_batchfleet");
    let serve = format!(
        "ulimit -n 120; exec {program} serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
         --http-threads 2 --model-repository {}",
        repository.path().display()
    );
    let process = Program::at("/bin/sh").args(["-c", &serve]).spawn().unwrap();
    let (clients, admin) =
        (process.address("http").await.unwrap(), process.address("admin").await.unwrap());
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(TcpStream::connect(&clients).await.unwrap());
    }
    for _ in 0..20 {
        let live = timeout(Duration::from_secs(10), get(&admin, "/livez")).await.unwrap();
        assert_eq!(live.unwrap().0, 200);
    }
    drop(held);
    // Until the server has noticed the closed connections, an address may not open more.
    let served = async { while !matches!(get(&clients, "/v2/health/live").await, Ok((200, _))) {} };
    assert!(timeout(LIMIT, served).await.is_ok(), "no connection is served");
}
