//! The cost of tracing 0 %, 1 % and 100 % of the requests to an echo.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use batchfleet_loadgen::Pace;
use batchfleet_testkit::FleetPlan;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{
    echo::{Marked, repository},
    rig::{BenchLoad, Rig},
    table::{goal, heading, line, median},
};

const ROUNDS: usize = 9;
/// The goal for tracing 1 %: the largest relative increase of the CPU time of all programs.
const MOST: f64 = 0.03;

/// Prints the cost of traces. Each round starts new processes in another order: the CPU cost per
/// request differs by some percent between processes of the same program.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    let collector = collector().await?;
    let folder = repository()?;
    heading("echo, 256 B binary, 100 users");
    let (workload, pace) = (Arc::new(Marked::new(256)?), Pace::Closed);
    let load = BenchLoad { workload, users: 100, pace, lasts };
    let cases = [("no traces", None), ("1 % traced", Some("0.01")), ("all", Some("1"))];
    let mut costs: [Vec<f64>; 3] = Default::default();
    for round in 0..ROUNDS {
        for turn in 0..cases.len() {
            let case = (round + turn) % cases.len();
            let (name, share) = cases[case];
            let flags =
                share.map(|share| ["--trace-endpoint", &collector, "--trace-sample", share]);
            let plan = FleetPlan {
                serving: Some((folder.path(), "echo")),
                gateway_flags: flags.as_ref().map_or(&[], |flags| &flags[..]),
                worker_flags: flags.as_ref().map_or(&[], |flags| &flags[..2]),
                ..FleetPlan::default()
            };
            let measured = Rig::start(name, plan).await?.measure(&load).await?;
            line(name, &measured);
            costs[case].push(measured.cpu.sum());
        }
    }
    let [without, few, all] = costs.map(median);
    let more = |with: f64| format!("{:+.1} %", (with / without - 1.0) * 100.0);
    println!();
    let kept = few <= without * (1.0 + MOST);
    goal("server CPU with 1 % traced, median", &more(few), kept, "<= 3 %");
    println!("server CPU with all traced, median: {}", more(all));
    Ok(())
}

/// Starts a collector that discards all spans. Returns its URL.
async fn collector() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // An error means that the exporter has closed the connection.
            tokio::spawn(async { discard(stream).await.ok() });
        }
    });
    Ok(url)
}

/// Answers requests with 200 until the connection ends.
async fn discard(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).await?;
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().context("content-length is not a number")?;
            }
            anyhow::ensure!(!line.is_empty(), "the connection ended");
        }
        stream.read_exact(&mut vec![0; length]).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    }
}
