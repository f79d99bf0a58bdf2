//! The cost of large inputs through Redis, and fetched from the gateway: images of 600 KiB and 150 KiB
//! through an echo.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use batchfleet_loadgen::Pace;
use batchfleet_testkit::FleetPlan;

use crate::{
    echo::{Marked, repository},
    rig::{BenchLoad, Cpu, Rig},
    table::{goal, heading, line, median},
};

const ROUNDS: usize = 5;
const USERS: usize = 32;
/// The most that Redis may use for an image that does not pass through it, in microseconds.
const MOST_REDIS: f64 = 20.0;
/// The most that all programs may use of what they use if images pass through Redis.
const MOST_SHARE: f64 = 0.5;

/// Prints the cost of images. Each round starts new processes in another order, because the CPU cost per
/// request differs by some percent between processes of the same program.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    let models = repository()?;
    heading("echo, binary, 32 users, 40 B back, images through Redis and past it");
    let sizes = [("600 KiB", 600 << 10), ("150 KiB", 150 << 10)];
    // By size, then through Redis and past it.
    let mut costs: [[Vec<Cpu>; 2]; 2] = Default::default();
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let past = (round + turn) % 2;
            let rig = rig(models.path(), past == 1).await?;
            for (of_size, (name, size)) in costs.iter_mut().zip(sizes) {
                let workload = Arc::new(Marked::new(size)?);
                let load = BenchLoad { workload, users: USERS, pace: Pace::Closed, lasts };
                let measured = rig.measure(&load).await?;
                line(&format!("{name}, {}", rig.name), &measured);
                of_size[past].push(measured.cpu);
            }
        }
    }
    println!();
    for ((name, size), costs) in sizes.into_iter().zip(costs) {
        let of = |runs: &[Cpu], figure: fn(&Cpu) -> f64| median(runs.iter().map(figure).collect());
        for (way, runs) in ["through Redis", "past Redis"].iter().zip(&costs) {
            println!(
                "{name} {way}, median: gateway {:.0} µs, Redis {:.0} µs, worker {:.0} µs",
                of(runs, |cpu| cpu.gateway),
                of(runs, |cpu| cpu.redis),
                of(runs, |cpu| cpu.worker),
            );
        }
        let [through, past] = [&costs[0], &costs[1]].map(|runs| of(runs, |cpu| cpu.sum()));
        let redis = of(&costs[1], |cpu| cpu.redis);
        if size == sizes[0].1 {
            goal(
                &format!("Redis per image of {name} past it, median"),
                &format!("{redis:.1} µs"),
                redis <= MOST_REDIS,
                &format!("<= {MOST_REDIS} µs"),
            );
            goal(
                &format!("server CPU per image of {name} past Redis, median"),
                &format!("{past:.0} µs, {:.0} % of {through:.0} µs", past / through * 100.0),
                past <= MOST_SHARE * through,
                &format!("<= {:.0} %", MOST_SHARE * 100.0),
            );
        } else {
            println!("{name}: {past:.0} µs past Redis, {through:.0} µs through it");
        }
    }
    Ok(())
}

async fn rig(models: &Path, past_redis: bool) -> Result<Rig> {
    let (name, gateway_flags): (_, &[&str]) = if past_redis {
        ("past Redis", &["--tensors-listen", "127.0.0.1:0"])
    } else {
        ("through Redis", &[])
    };
    let serving = Some((models, "echo"));
    Rig::start(name, FleetPlan { serving, gateway_flags, ..FleetPlan::default() }).await
}
