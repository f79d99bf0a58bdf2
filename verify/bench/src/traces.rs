//! What traces cost: the same echo without them, with one request in a hundred traced, and with all.

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
    rig::{Load, Rig},
    table::{goal, heading, line, median},
};

const ROUNDS: usize = 9;
/// What traces may cost, of the CPU time of all programs.
const MOST: f64 = 0.03;

/// Prints what traces cost. Each round starts its programs anew, in another order: of the same program
/// one process may cost some percent more than the next, for as long as it lives.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    let collector = collector().await?;
    let folder = repository()?;
    heading("echo, 256 B binary, 100 users");
    let (workload, pace) = (Arc::new(Marked::new(256)?), Pace::Closed);
    let load = Load { workload, users: 100, pace, lasts };
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

/// Starts something that takes whatever is sent to it; returns where.
async fn collector() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Whoever breaks off has nothing more to send.
            tokio::spawn(async { take(stream).await.ok() });
        }
    });
    Ok(url)
}

/// Answers requests until there are no more.
async fn take(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).await?;
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().context("an odd length")?;
            }
            anyhow::ensure!(!line.is_empty(), "the end");
        }
        stream.read_exact(&mut vec![0; length]).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    }
}
