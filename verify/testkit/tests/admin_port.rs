//! Probes reach the admin port of a program whatever other connections do there.

use std::time::Duration;

use batchfleet_testkit::{Program, RedisServer, get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Twice the most connections of an admin port.
const CONNECTIONS: usize = 64;
/// The time limit of probes in the chart.
const PROBE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn connections_that_wait_send_slowly_or_read_nothing_do_not_lock_out_probes() {
    let redis = RedisServer::start().await;
    let flags = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let gateway = Program::named("batchfleet-gateway").unwrap().args(flags);
    let gateway = gateway.args(["--redis-url", &redis.url()]).spawn().unwrap();
    let address = gateway.address("admin").await.unwrap();
    let whole = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    let unread = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(200);
    for sent in ["", "GET /li", &format!("{whole}GET /li"), &unread] {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut connection = TcpStream::connect(&address).await.unwrap();
            connection.write_all(sent.as_bytes()).await.ok();
            connections.push(connection);
        }
        let probed = timeout(PROBE, get(&address, "/livez")).await;
        assert_eq!(probed.unwrap().unwrap().0, 200, "{sent:.20}");
    }
}

#[tokio::test]
async fn pages_of_the_admin_port_tolerate_a_slash_and_errors_have_a_code() {
    let redis = RedisServer::start().await;
    let flags = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let gateway = Program::named("batchfleet-gateway").unwrap().args(flags);
    let gateway = gateway.args(["--redis-url", &redis.url()]).spawn().unwrap();
    let address = gateway.address("admin").await.unwrap();
    for page in ["/livez", "/metrics"] {
        assert_eq!(get(&address, &format!("{page}/")).await.unwrap().0, 200, "{page}");
    }
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = "GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("x-error-code: not_found\r\n"));
    assert!(answer.contains("x-content-type-options: nosniff\r\n"), "{answer}");
}
