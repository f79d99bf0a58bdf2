//! Gateways that are killed, are replaced, or have a wrong clock.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep};

use super::upgrade::roll_gateways;
use crate::{
    balancer::Balancer,
    findings::{Findings, percent, time},
    journal::{Ending, Entry, LoadJournal, status, wait},
    load::LoadShape,
    metrics::Scrape,
    runs::Runs,
    trial::{Scale, Trial, now},
};

const SECOND: Duration = Duration::from_secs(1);
/// How long the workers are paused before a gateway is killed, so that requests queue up.
const GATHER: Duration = Duration::from_millis(200);
/// Tolerance when a run is compared with a kill: the run log has whole milliseconds, and the
/// process dies shortly after the time of the kill is recorded.
const BLUR: Duration = Duration::from_millis(20);

/// F11: one of two gateways is killed repeatedly; each gets half of the load. The workers are
/// paused before each kill, so that many requests wait in the queue.
pub(crate) async fn killed(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let targets = trial.fleet.targets();
    let other = scale.open_at(0.35).to(targets[..1].to_vec()).start(Vec::new())?;
    let own = trial.load(scale.open_at(0.35).to(targets[1..].to_vec())).await?;
    let (until, mut kills) = (trial.until(), Vec::new());
    while Instant::now() < until {
        for worker in &trial.fleet.workers {
            worker.program()?.signal("STOP").await?;
        }
        sleep(GATHER).await;
        kills.push(now());
        trial.fleet.kill_gateway(1).await?;
        for worker in &trial.fleet.workers {
            worker.program()?.signal("CONT").await?;
        }
        sleep(SECOND).await;
        trial.fleet.start_gateway(1).await?;
        sleep(4 * SECOND).await;
    }
    let own = trial.stop_cut(own).await?;
    let other = trial.stop(other).await?;
    trial.all_right(&other);
    trial.findings.note(format!("{} kills", kills.len()));
    let runs = trial.runs(&own)?;
    let (waiting, skipped) = orphans(&own, &runs, &kills);
    let share = percent(skipped, waiting);
    trial.findings.check(waiting > 0, format!("{waiting} requests waited at a kill"));
    trial.findings.at_least("of these never run, %", share, 90.0);
    trial.finish().await
}

/// The number of requests in the queue whose gateway was killed, and how many of them never ran.
fn orphans(own: &LoadJournal, runs: &Runs, kills: &[SystemTime]) -> (u64, u64) {
    let killed_with = |entry: &&Entry| {
        let with = |kill: &&SystemTime| {
            let kill = own.at(**kill);
            entry.sent < kill && entry.done + BLUR > kill
        };
        (entry.ending == Ending::Failed).then(|| kills.iter().find(with)).flatten().copied()
    };
    let (mut waiting, mut skipped) = (0, 0);
    for entry in own.entries() {
        let Some(kill) = killed_with(&entry) else { continue };
        let starts = || runs.starts(entry.index);
        if !starts().any(|start| *start <= kill + BLUR) {
            waiting += 1;
            skipped += u64::from(starts().next().is_none());
        }
    }
    (waiting, skipped)
}

/// F12: all gateways are replaced one after the other behind a load balancer.
pub(crate) async fn rollout(scale: Scale) -> Result<Findings> {
    let mut plan = scale.plan();
    // One second longer than a balancer lists a gateway that shuts down.
    plan.gateway_flags = ["--lame-duck".to_owned(), "6s".to_owned()].into();
    let mut trial = Trial::start(scale, &plan).await?;
    let addresses = trial.fleet.gateways.iter().map(|gateway| gateway.load_address().to_owned());
    let balancer = Balancer::start(addresses.collect()).await?;
    let target = scale.protocol.url(balancer.address());
    let load = trial.load(scale.open().to([target].into())).await?;
    roll_gateways(&mut trial, &balancer, (0, None), plan.gateway_flags).await?;
    sleep(2 * SECOND).await;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    trial.findings.none("refused connections", balancer.refused());
    trial.findings.note(format!("max {}", time(journal.longest())));
    trial.finish().await
}

/// Debian's `faketime` library for multithreaded programs.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// F33: one gateway's clock is an hour slow, one worker's an hour fast. In the second half all
/// workers are paused for 2 s, so that requests expire.
pub(crate) async fn wrong_clocks(scale: Scale) -> Result<Findings> {
    const DEADLINE: Duration = Duration::from_secs(1);
    ensure!(Path::new(FAKETIME).exists(), "{FAKETIME} is missing: apt-get install faketime");
    let mut trial = Trial::usual(scale).await?;
    trial.fleet.kill_worker(0).await?;
    trial.fleet.workers[0].set_environment("LD_PRELOAD", FAKETIME);
    trial.fleet.workers[0].set_environment("FAKETIME", "+1h");
    trial.fleet.start_worker(0).await?;
    trial.fleet.kill_gateway(0).await?;
    trial.fleet.gateways[0].set_environment("LD_PRELOAD", FAKETIME);
    trial.fleet.gateways[0].set_environment("FAKETIME", "-1h");
    trial.fleet.start_gateway(0).await?;
    let load = trial.load(scale.open()).await?;
    sleep(scale.lasts / 2).await;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    let ran = Scrape::of(&trial.fleet.workers[0].admin).await?;
    let ran = ran.sum("batchfleet_worker_batch_size_count", "");
    trial.findings.check(ran > 0.0, format!("{ran} batches by the worker with the fast clock"));

    let hurried = LoadShape::open(100.0, scale.clients).deadline(|_| DEADLINE);
    let hurried = hurried.start(trial.fleet.targets())?;
    for worker in &trial.fleet.workers {
        worker.program()?.signal("STOP").await?;
    }
    sleep(2 * SECOND).await;
    for worker in &trial.fleet.workers {
        worker.program()?.signal("CONT").await?;
    }
    sleep(SECOND).await;
    let hurried = trial.stop(hurried).await?;
    let expired = hurried.entries().iter().filter(|entry| status(entry) == Some(504));
    let error = |entry: &Entry| wait(entry).abs_diff(DEADLINE);
    let worst = expired.clone().map(error).max().unwrap_or_default();
    trial.findings.check(expired.count() > 0, "some requests expired");
    trial.findings.within("expiry off by", worst, Duration::from_millis(100));
    trial.finish().await
}
