//! The cost of TLS with client certificates between the programs and Redis: 256 B and 12 KiB through
//! an echo.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use batchfleet_loadgen::Pace;
use batchfleet_testkit::{Certificates, FleetPlan};

use crate::{
    echo::{Marked, repository},
    rig::{BenchLoad, Rig},
    table::{heading, line, median},
};

const ROUNDS: usize = 5;

/// Prints the cost of TLS. The chart would switch TLS on by default if 12 KiB cost less than 15 %. Each round starts new processes in another order, because the CPU cost per
/// request differs by some percent between processes of the same program.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    let (models, certificates) = (repository()?, Certificates::new()?);
    heading("echo, binary, 100 users, Redis without and with TLS");
    let sizes = [("256 B", 256), ("12 KiB", 12_288)];
    // By size, then without and with TLS.
    let mut costs: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let secure = (round + turn) % 2;
            let rig = match secure {
                0 => plain(models.path()).await?,
                _ => encrypted(models.path(), &certificates).await?,
            };
            for (costs, (name, size)) in costs.iter_mut().zip(sizes) {
                let workload = Arc::new(Marked::new(size)?);
                let load = BenchLoad { workload, users: 100, pace: Pace::Closed, lasts };
                let measured = rig.measure(&load).await?;
                line(&format!("{name}, {}", rig.name), &measured);
                costs[secure].push(measured.cpu.sum());
            }
        }
    }
    println!();
    for ((name, _), costs) in sizes.into_iter().zip(costs) {
        let [without, with] = costs.map(median);
        let more = with / without - 1.0;
        println!(
            "server CPU with TLS to Redis, {name}, median: {:+.1} µs, {:+.0} %",
            with - without,
            more * 100.0
        );
    }
    Ok(())
}

async fn plain(models: &Path) -> Result<Rig> {
    let plan = FleetPlan { serving: Some((models, "echo")), ..FleetPlan::default() };
    Rig::start("plain", plan).await
}

async fn encrypted(models: &Path, certificates: &Certificates) -> Result<Rig> {
    let (redis, address) = certificates.start_redis(true).await?;
    let files = [certificates.ca(), certificates.certificate(), certificates.key()];
    let files: Vec<&str> = files.iter().filter_map(|file| file.to_str()).collect();
    let [ca, certificate, key] = files[..] else { anyhow::bail!("a path is not UTF-8") };
    let flags = ["--redis-ca", ca, "--redis-cert", certificate, "--redis-key", key];
    let url = format!("rediss://{address}/0");
    let plan = FleetPlan {
        serving: Some((models, "echo")),
        gateway_flags: &flags,
        worker_flags: &flags,
        redis_url: Some(&url),
        ..FleetPlan::default()
    };
    Rig::start("TLS", plan).await?.using(redis).await.context("Redis with TLS")
}
