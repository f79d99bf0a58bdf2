//! Redis lives, but freezes, is full, takes nobody in, or has a new password.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use tokio::{process::Command, time::sleep};

use crate::{
    control::Control,
    findings::{Findings, time},
    seen::{Ending, Entry, Seen, is_right, quantile, status, wait},
    stage::{Scale, Stage, now},
};

const SECOND: Duration = Duration::from_secs(1);
/// How soon all is well again after the cause of a fault has ended.
const RECOVERY: Duration = Duration::from_secs(5);

/// F19
pub(crate) async fn frozen(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    let redis = stage.fleet.control().process_id().await?;
    let load = stage.load(scale.open()).await?;
    let mut freezes = Vec::new();
    for length in [1, 5, 20] {
        signal(redis, "STOP").await?;
        let began = now();
        sleep(length * SECOND).await;
        signal(redis, "CONT").await?;
        freezes.push((length, began, now()));
        sleep(8 * SECOND).await;
    }
    let seen = stage.stop(load).await?;
    for (length, began, ended) in freezes {
        judge_freeze(&mut stage, &seen, length, seen.at(began)..seen.at(ended));
    }
    stage.finish().await
}

async fn signal(process: u32, name: &str) -> Result<()> {
    let status =
        Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().await?;
    anyhow::ensure!(status.success(), "kill -{name}: {status}");
    Ok(())
}

fn judge_freeze(stage: &mut Stage, seen: &Seen, length: u32, frozen: std::ops::Range<Duration>) {
    let sent = |from: Duration, to: Duration| {
        seen.journal().iter().filter(move |entry| from <= entry.sent && entry.sent < to)
    };
    let bad = |entry: &&Entry| !is_right(entry);
    let findings = &mut stage.findings;
    if length == 1 {
        let errors: Vec<_> =
            sent(frozen.start, frozen.end + 4 * SECOND).filter(bad).map(|e| &e.ending).collect();
        let first = errors.first();
        findings.check(errors.is_empty(), format!("1 s: {} errors {first:?}", errors.len()));
        return;
    }
    let refused = |entry: &&Entry| status(entry) == Some(503);
    let refusals = || sent(frozen.start, frozen.end).filter(refused);
    let slowest = refusals().map(wait).max().unwrap_or_default();
    findings.note(format!("{length} s: {} x 503", refusals().count()));
    findings.within("each told after", slowest, Duration::from_millis(1100));
    // Those sent in the first moments are held, and their deadline allows for it.
    let held = sent(frozen.start.saturating_sub(SECOND), frozen.start).filter(bad).count();
    findings.none("held ones not answered:", held as u64);
    let after = sent(frozen.end + 3 * SECOND, frozen.end + 7 * SECOND).filter(bad).count();
    findings.none("errors 3 s after it:", after as u64);
}

/// F20
pub(crate) async fn refusing(scale: Scale) -> Result<Findings> {
    let mut findings = full(scale).await?;
    findings = findings.and(disk_full(scale).await?);
    findings = findings.and(no_more_clients(scale).await?);
    Ok(findings.and(new_password(scale).await?))
}

async fn set(control: &Control, name: &str, value: &str) -> Result<()> {
    control.ask::<()>(&["CONFIG", "SET", name, value]).await
}

async fn full(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    stage.findings.note("no memory");
    let load = stage.load(scale.open()).await?;
    let control = stage.fleet.control();
    let began = now();
    set(&control, "maxmemory", "1").await?;
    sleep(5 * SECOND).await;
    set(&control, "maxmemory", "0").await?;
    recovered(stage, load, began, now()).await
}

/// A dump that cannot be written stops writes as an append-only file on a full disk does.
async fn disk_full(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    stage.findings.note("no disk");
    let load = stage.load(scale.open()).await?;
    let control = stage.fleet.control();
    let directory: Vec<String> = control.ask(&["CONFIG", "GET", "dir"]).await?;
    let in_the_way = std::path::Path::new(&directory[1]).join("dump.rdb/full");
    let began = now();
    fs::create_dir_all(&in_the_way)?;
    set(&control, "save", "3600 1000000000").await?;
    control.ask::<String>(&["BGSAVE"]).await?;
    sleep(5 * SECOND).await;
    let status = control.info("rdb_last_bgsave_status").await?;
    stage.findings.check(status == "err", format!("bgsave status {status}"));
    set(&control, "save", "").await?;
    recovered(stage, load, began, now()).await
}

async fn no_more_clients(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    stage.findings.note("no clients");
    let load = stage.load(scale.open()).await?;
    let control = stage.fleet.control();
    let began = now();
    // The connection that changes it back must be among them.
    let mut keeper = control.connection().await?;
    redis::cmd("CONFIG").arg(&["SET", "maxclients", "1"]).exec_async(&mut keeper).await?;
    redis::cmd("CLIENT").arg(&["KILL", "SKIPME", "yes"]).exec_async(&mut keeper).await?;
    sleep(5 * SECOND).await;
    redis::cmd("CONFIG").arg(&["SET", "maxclients", "10000"]).exec_async(&mut keeper).await?;
    recovered(stage, load, began, now()).await
}

async fn new_password(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    stage.findings.note("no password");
    let load = stage.load(scale.open()).await?;
    let mut keeper = stage.fleet.control().connection().await?;
    let began = now();
    redis::cmd("CONFIG").arg(&["SET", "requirepass", "new"]).exec_async(&mut keeper).await?;
    redis::cmd("CLIENT").arg(&["KILL", "SKIPME", "yes"]).exec_async(&mut keeper).await?;
    sleep(5 * SECOND).await;
    redis::cmd("CONFIG").arg(&["SET", "requirepass", ""]).exec_async(&mut keeper).await?;
    recovered(stage, load, began, now()).await
}

/// What must hold whatever Redis refused, and why.
async fn recovered(
    mut stage: Stage,
    load: crate::load::Load,
    began: SystemTime,
    ended: SystemTime,
) -> Result<Findings> {
    sleep(8 * SECOND).await;
    let seen = stage.stop(load).await?;
    let refused = |entry: &&Entry| matches!(entry.ending, Ending::Refused(_));
    let during = seen.at(began)..seen.at(ended);
    let refusals = || seen.due_in(during.clone()).filter(refused);
    stage.findings.note(format!("{} refused", refusals().count()));
    // The first ones find out; a second is what a command may take.
    let once_known = refusals().filter(|e| e.sent > seen.at(began) + SECOND + SECOND / 2).map(wait);
    stage.findings.within("p99", quantile(once_known, 0.99), Duration::from_millis(50));
    let odd = |entry: &Entry| !matches!(status(entry), None | Some(503));
    stage.findings.none("neither 200 nor 503:", seen.count(odd));
    let bad = seen.journal().iter().filter(|entry| !is_right(entry)).map(|entry| entry.sent).max();
    let last = bad.unwrap_or_default().saturating_sub(seen.at(ended));
    stage.findings.within("last trouble after", last, RECOVERY);
    let ended = stage.fleet.workers.iter().chain(&stage.fleet.gateways).filter(|m| m.is_gone());
    let ended = ended.count() as u64;
    stage.findings.none("programs that ended:", ended);
    stage.findings.note(format!("max {}", time(seen.longest())));
    stage.finish().await
}
