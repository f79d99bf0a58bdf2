//! Gateways that die, are replaced, or have a wrong clock.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep};

use crate::{
    balancer::Balancer,
    findings::{Findings, percent, time},
    load::Shape,
    metrics::Scrape,
    runs::Runs,
    seen::{Ending, Entry, Seen, status, wait},
    stage::{Scale, Stage, now},
};

const SECOND: Duration = Duration::from_secs(1);
/// How long a cluster takes to stop sending connections to what leaves.
const ENDPOINT_LAG: Duration = Duration::from_secs(5);
/// How long requests gather before a gateway is killed.
const GATHER: Duration = Duration::from_millis(200);
/// A witness's clock has milliseconds, and a kill takes effect a moment after it is counted.
const BLUR: Duration = Duration::from_millis(20);

/// F11: half of the load on the gateway that is killed, half on the other. The workers are stopped
/// for a moment before, so that it leaves many requests behind.
pub(crate) async fn killed(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    let targets = stage.fleet.targets();
    let other = scale.open_at(0.35).to(targets[..1].to_vec()).start(Vec::new())?;
    let own = stage.load(scale.open_at(0.35).to(targets[1..].to_vec())).await?;
    let (until, mut kills) = (stage.until(), Vec::new());
    while Instant::now() < until {
        for worker in &stage.fleet.workers {
            worker.program()?.signal("STOP").await?;
        }
        sleep(GATHER).await;
        kills.push(now());
        stage.fleet.kill_gateway(1).await?;
        for worker in &stage.fleet.workers {
            worker.program()?.signal("CONT").await?;
        }
        sleep(SECOND).await;
        stage.fleet.start_gateway(1).await?;
        sleep(4 * SECOND).await;
    }
    let own = stage.stop_mortal(own).await?;
    let other = stage.stop(other).await?;
    stage.all_right(&other);
    stage.findings.note(format!("{} kills", kills.len()));
    let runs = stage.runs(&own)?;
    let (waiting, skipped) = orphans(&own, &runs, &kills);
    let share = percent(skipped, waiting);
    stage.findings.check(waiting > 0, format!("{waiting} orphans not yet running"));
    stage.findings.at_least("of them skipped, %", share, 90.0);
    stage.finish().await
}

/// Requests that were not running yet when their gateway was killed, and how many never ran.
fn orphans(own: &Seen, runs: &Runs, kills: &[SystemTime]) -> (u64, u64) {
    let killed_with = |entry: &&Entry| {
        let with = |kill: &&SystemTime| {
            let kill = own.at(**kill);
            entry.sent < kill && entry.done + BLUR > kill
        };
        (entry.ending == Ending::Failed).then(|| kills.iter().find(with)).flatten().copied()
    };
    let (mut waiting, mut skipped) = (0, 0);
    for entry in own.journal() {
        let Some(kill) = killed_with(&entry) else { continue };
        let starts = || runs.starts(entry.index);
        if !starts().any(|start| *start <= kill + BLUR) {
            waiting += 1;
            skipped += u64::from(starts().next().is_none());
        }
    }
    (waiting, skipped)
}

/// F12
pub(crate) async fn rollout(scale: Scale) -> Result<Findings> {
    let mut plan = scale.plan();
    // A second more than the endpoints lag: who is still listed must still be there.
    plan.gateway_flags = ["--lame-duck".to_owned(), "6s".to_owned()].into();
    let mut stage = Stage::start(scale, &plan).await?;
    let addresses = stage.fleet.gateways.iter().map(|gateway| gateway.address.clone());
    let balancer = Balancer::start(addresses.collect()).await?;
    let load = stage.load(scale.open().to([balancer.target()].into())).await?;
    for old in 0..scale.gateways {
        let new = stage.fleet.add_gateway(plan.gateway_flags.clone()).await?;
        balancer.list(&stage.fleet.gateways[new].address);
        stage.fleet.gateways[old].program()?.signal("TERM").await?;
        sleep(ENDPOINT_LAG).await;
        balancer.unlist(&stage.fleet.gateways[old].address);
        let status = stage.fleet.gateway_ended(old).await?;
        if !status.success() {
            stage.findings.check(false, format!("a gateway ended with {status}"));
        }
    }
    sleep(2 * SECOND).await;
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    stage.findings.none("refused connections", balancer.refused());
    stage.findings.note(format!("max {}", time(seen.longest())));
    stage.finish().await
}

/// Where Debian's `faketime` puts its library, for programs with threads.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// F33: a gateway lives an hour ago, a worker an hour ahead; then all workers stop for a while, so
/// that deadlines pass.
pub(crate) async fn wrong_clocks(scale: Scale) -> Result<Findings> {
    const DEADLINE: Duration = Duration::from_secs(1);
    ensure!(Path::new(FAKETIME).exists(), "{FAKETIME} is missing: apt-get install faketime");
    let mut stage = Stage::usual(scale).await?;
    stage.fleet.kill_worker(0).await?;
    stage.fleet.workers[0].set_environment("LD_PRELOAD", FAKETIME);
    stage.fleet.workers[0].set_environment("FAKETIME", "+1h");
    stage.fleet.start_worker(0).await?;
    stage.fleet.kill_gateway(0).await?;
    stage.fleet.gateways[0].set_environment("LD_PRELOAD", FAKETIME);
    stage.fleet.gateways[0].set_environment("FAKETIME", "-1h");
    stage.fleet.start_gateway(0).await?;
    let load = stage.load(scale.open()).await?;
    sleep(scale.lasts / 2).await;
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    let ran = Scrape::of(&stage.fleet.workers[0].admin).await?;
    let ran = ran.sum("batchfleet_worker_batch_size_count", "");
    stage.findings.check(ran > 0.0, format!("{ran} batches by the worker of the future"));

    let hurried = Shape::open(100.0, scale.clients).deadline(|_| DEADLINE);
    let hurried = hurried.start(stage.fleet.targets())?;
    for worker in &stage.fleet.workers {
        worker.program()?.signal("STOP").await?;
    }
    sleep(2 * SECOND).await;
    for worker in &stage.fleet.workers {
        worker.program()?.signal("CONT").await?;
    }
    sleep(SECOND).await;
    let hurried = stage.stop(hurried).await?;
    let expired = hurried.journal().iter().filter(|entry| status(entry) == Some(504));
    let error = |entry: &Entry| wait(entry).abs_diff(DEADLINE);
    let worst = expired.clone().map(error).max().unwrap_or_default();
    stage.findings.check(expired.count() > 0, "some expired");
    stage.findings.within("error of expiry", worst, Duration::from_millis(100));
    stage.finish().await
}
