//! A drain that cannot finish, because a request waits for a hanging model.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, interval};

use crate::server::{Connection, Server, echo, post};

/// A draining server, and the connection of a request that the server cannot answer.
async fn draining(flags: &[&str]) -> (Server, Connection) {
    let parameters = r#"parameters { key: "hang_marker" value { string_value: "trap" } }"#;
    let server = Server::with_parameters(parameters, flags).await;
    server.serves().await;
    let mut connection = server.connect().await;
    connection.send(post("", echo(b"trap"))).await;
    server.metric_becomes("batchfleet_gateway_in_flight", "", 1.0).await;
    server.program.signal("TERM").await.unwrap();
    let message = "draining: finishing work in progress";
    server.program.wait_for_log(|line| line["message"] == message).await.unwrap();
    (server, connection)
}

/// The log lines of at least level WARN that the process wrote, once it has exited with status 1.
async fn complaints(mut server: Server) -> Vec<Value> {
    let status = server.program.wait().await.unwrap();
    let log = server.program.log();
    assert_eq!(status.code(), Some(1), "{log:?}");
    log.into_iter().filter(|line| line["level"] == "WARN" || line["level"] == "ERROR").collect()
}

#[tokio::test]
async fn a_second_signal_aborts_the_drain() {
    for signal in ["TERM", "INT"] {
        let began = Instant::now();
        let (mut server, _connection) = draining(&["--drain-timeout", "1h"]).await;
        // A repetition of the first signal within a second does not abort the drain.
        let mut repetitions = interval(Duration::from_millis(50));
        loop {
            tokio::select! {
                _ = repetitions.tick() => server.program.signal(signal).await.unwrap_or_default(),
                _ = server.program.wait() => break,
            }
        }
        assert!(began.elapsed() >= Duration::from_secs(1));
        let [second, failed] = &complaints(server).await[..] else { panic!("not two lines") };
        assert_eq!(second["message"], "received a second signal: aborting the drain");
        assert_eq!(failed["message"], "process failed");
        assert_eq!(failed["error"], "drain aborted by a second signal");
    }
}

#[tokio::test]
async fn the_drain_timeout_aborts_the_drain() {
    let (server, _connection) = draining(&["--drain-timeout", "50ms"]).await;
    let [failed] = &complaints(server).await[..] else { panic!("not one line") };
    assert_eq!(failed["message"], "process failed");
    assert_eq!(failed["error"], "drain aborted after the drain timeout of 50ms");
}
