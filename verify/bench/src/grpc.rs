//! The cost of a request over gRPC against HTTP, at the same gateway in the same run.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use batchfleet_loadgen::{Pace, infer::Encoding};
use batchfleet_testkit::FleetPlan;

use crate::{
    echo::{Marked, repository},
    rig::{BenchLoad, Measurement, Rig, latency_ms},
    table::{goal, heading, line, median},
};

const ROUNDS: usize = 5;
/// The goals: the largest cost over that of HTTP, by size of the request.
const CASES: [(&str, usize, usize, f64); 2] =
    [("256 B", 256, 100, 1.15), ("12 KiB", 12288, 100, 1.0)];
/// The goal for the latency of one client: the largest difference, in milliseconds.
const MOST_MORE: f64 = 0.1;
/// Streams of HTTP/2 that are open at the same time, each on a connection of its own.
const MANY: usize = 5000;

/// Prints CPU and latency per request, over HTTP and gRPC in turn.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    let folder = repository()?;
    let plan = FleetPlan {
        serving: Some((folder.path(), "echo")),
        gateway_flags: &["--grpc-listen", "127.0.0.1:0", "--max-connections-per-address", "0"],
        ..FleetPlan::default()
    };
    let rig = Rig::start("echo", plan).await?;
    heading("echo, binary over HTTP and raw over gRPC, 40 B back");
    for (name, size, users, most) in CASES {
        let [http, grpc] = measure(&rig, name, size, users, lasts).await?;
        let cost = |runs: &[Measurement]| median(runs.iter().map(|run| run.cpu.sum()).collect());
        let ratio = cost(&grpc) / cost(&http);
        println!();
        goal(
            &format!("server CPU over gRPC against HTTP, {name}, median"),
            &format!("{ratio:.2}x"),
            ratio <= most,
            &format!("<= {most}x"),
        );
    }
    let [http, grpc] = measure(&rig, "256 B, 1 client", 256, 1, lasts).await?;
    let p50 = |runs: &[Measurement]| {
        median(runs.iter().map(|run| latency_ms(&run.report, 0.5)).collect())
    };
    let more = p50(&grpc) - p50(&http);
    let text = format!("{more:+.2} ms");
    goal("p50 of one client over gRPC against HTTP", &text, more <= MOST_MORE, "<= +0.1 ms");
    let many = rig.measure_over_grpc(&load(Encoding::Grpc, 256, MANY, lasts)?).await?;
    line(&format!("gRPC, {MANY} clients"), &many);
    let wrong = many.report.wrong;
    goal(&format!("wrong answers to {MANY} clients"), &wrong.to_string(), wrong == 0, "0");
    Ok(())
}

/// Measures a load over HTTP and over gRPC in turn.
async fn measure(
    rig: &Rig,
    name: &str,
    size: usize,
    users: usize,
    lasts: Duration,
) -> Result<[Vec<Measurement>; 2]> {
    let mut all: [Vec<Measurement>; 2] = Default::default();
    for _ in 0..ROUNDS {
        let over_http = rig.measure(&load(Encoding::Binary, size, users, lasts)?).await?;
        line(&format!("HTTP, {name}"), &over_http);
        let over_grpc = rig.measure_over_grpc(&load(Encoding::Grpc, size, users, lasts)?).await?;
        line(&format!("gRPC, {name}"), &over_grpc);
        all[0].push(over_http);
        all[1].push(over_grpc);
    }
    Ok(all)
}

fn load(encoding: Encoding, size: usize, users: usize, lasts: Duration) -> Result<BenchLoad> {
    let workload = Arc::new(Marked::new(size)?.encoded(encoding));
    Ok(BenchLoad { workload, users, pace: Pace::Closed, lasts })
}
