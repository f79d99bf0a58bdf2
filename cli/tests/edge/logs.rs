//! A log that cannot be written: its reader has left, does not read, or the disk is full.

use std::{
    fs::{self, File, OpenOptions},
    process::Stdio,
};

use batchfleet_testkit::get;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
};

use crate::server::{Connection, echo, post};

/// More requests than the log lines that a pipe holds.
const REQUESTS: usize = 1000;

/// A server whose log the test reads, or does not read.
struct Server {
    http: String,
    admin: String,
    log: Lines<BufReader<ChildStderr>>,
    _child: Child,
    _repository: TempDir,
}

fn repository() -> TempDir {
    let repository = TempDir::new().unwrap();
    fs::create_dir_all(repository.path().join("echo/1")).unwrap();
    fs::write(repository.path().join("echo/config.pbtxt"), crate::server::CONFIG).unwrap();
    repository
}

fn serve(repository: &TempDir, stderr: Stdio) -> Child {
    Command::new(env!("CARGO_BIN_EXE_batchfleet"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(["--log", "trace", "--model-repository"])
        .arg(repository.path())
        .stderr(stderr)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

impl Server {
    /// Starts a server and reads its log until both ports listen.
    async fn start() -> Self {
        let repository = repository();
        let mut child = serve(&repository, Stdio::piped());
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut addresses = [String::new(), String::new()];
        while addresses.iter().any(String::is_empty) {
            let line = log.next_line().await.unwrap().unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "listening" {
                let port = usize::from(line["port_name"] == "admin");
                addresses[port] = line["address"].as_str().map(str::to_owned).unwrap();
            }
        }
        let [http, admin] = addresses;
        Self { http, admin, log, _child: child, _repository: repository }
    }
}

/// Sends requests, each of which makes the server log several lines.
async fn serves(address: &str) {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut connection = Connection(BufReader::new(stream));
    for _ in 0..REQUESTS {
        connection.send(post("", echo(&[1, 2, 3]))).await;
        assert_eq!(connection.answer().await.outputs(), [1, 2, 3]);
    }
}

#[tokio::test]
async fn a_server_serves_on_after_the_reader_of_its_log_has_left() {
    let Server { http, admin, log, _child, _repository } = Server::start().await;
    drop(log);
    serves(&http).await;
    let (_, metrics) = get(&admin, "/metrics").await.unwrap();
    let lost =
        metrics.lines().find_map(|line| line.strip_prefix("batchfleet_log_lines_lost_total "));
    assert_ne!(lost, Some("0"), "lost lines are counted");
}

#[tokio::test]
async fn a_server_serves_on_while_its_log_is_not_read() {
    let server = Server::start().await;
    serves(&server.http).await;
    drop(server.log);
}

#[tokio::test]
async fn a_full_disk_does_not_end_a_program_that_complains() {
    let full = || -> File { OpenOptions::new().write(true).open("/dev/full").unwrap() };
    let status = Command::new(env!("CARGO_BIN_EXE_batchfleet"))
        .args(["serve", "--no-such-flag"])
        .stderr(full())
        .status();
    assert_eq!(status.await.unwrap().code(), Some(64));
}
