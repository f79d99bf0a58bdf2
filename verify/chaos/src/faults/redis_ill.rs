//! Redis that runs, but is frozen, full, out of connections, or behind a new password.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use tokio::{process::Command, time::sleep};

use crate::{
    control::Control,
    findings::{Findings, time},
    journal::{Ending, Entry, LoadJournal, is_right, quantile, status, wait},
    trial::{Scale, Trial, now},
};

const SECOND: Duration = Duration::from_secs(1);
/// The longest time from the end of a fault to the last error.
const RECOVERY: Duration = Duration::from_secs(5);

/// F19: Redis is frozen for 1, 5 and 20 s.
pub(crate) async fn frozen(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let redis = trial.fleet.control().process_id().await?;
    let load = trial.load(scale.open()).await?;
    let mut freezes = Vec::new();
    for length in [1, 5, 20] {
        signal(redis, "STOP").await?;
        let began = now();
        sleep(length * SECOND).await;
        signal(redis, "CONT").await?;
        freezes.push((length, began, now()));
        sleep(8 * SECOND).await;
    }
    let journal = trial.stop(load).await?;
    for (length, began, ended) in freezes {
        judge_freeze(&mut trial, &journal, length, journal.at(began)..journal.at(ended));
    }
    trial.finish().await
}

async fn signal(process: u32, name: &str) -> Result<()> {
    let status =
        Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().await?;
    anyhow::ensure!(status.success(), "kill -{name}: {status}");
    Ok(())
}

fn judge_freeze(
    trial: &mut Trial,
    journal: &LoadJournal,
    length: u32,
    frozen: std::ops::Range<Duration>,
) {
    let sent = |from: Duration, to: Duration| {
        journal.entries().iter().filter(move |entry| from <= entry.sent && entry.sent < to)
    };
    let bad = |entry: &&Entry| !is_right(entry);
    let findings = &mut trial.findings;
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
    findings.within("slowest 503", slowest, Duration::from_millis(1100));
    // Gateways hold requests sent just before the freeze: the deadline is longer than the freeze.
    let held = sent(frozen.start.saturating_sub(SECOND), frozen.start).filter(bad).count();
    findings.none("held requests not answered 200:", held as u64);
    let after = sent(frozen.end + 3 * SECOND, frozen.end + 7 * SECOND).filter(bad).count();
    findings.none("errors 3 s after the freeze:", after as u64);
}

/// F20: Redis refuses commands: no memory, no disk, no free client slot, a new password.
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
    let mut trial = Trial::usual(scale).await?;
    trial.findings.note("no memory");
    let load = trial.load(scale.open()).await?;
    let control = trial.fleet.control();
    let began = now();
    set(&control, "maxmemory", "1").await?;
    sleep(5 * SECOND).await;
    set(&control, "maxmemory", "0").await?;
    recovered(trial, load, began, now()).await
}

/// Redis refuses writes after a failed dump, just as with an append-only file on a full disk.
async fn disk_full(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    trial.findings.note("no disk");
    let load = trial.load(scale.open()).await?;
    let control = trial.fleet.control();
    let directory: Vec<String> = control.ask(&["CONFIG", "GET", "dir"]).await?;
    let in_the_way = std::path::Path::new(&directory[1]).join("dump.rdb/full");
    let began = now();
    fs::create_dir_all(&in_the_way)?;
    set(&control, "save", "3600 1000000000").await?;
    control.ask::<String>(&["BGSAVE"]).await?;
    sleep(5 * SECOND).await;
    let status = control.info("rdb_last_bgsave_status").await?;
    trial.findings.check(status == "err", format!("bgsave status {status}"));
    set(&control, "save", "").await?;
    recovered(trial, load, began, now()).await
}

async fn no_more_clients(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    trial.findings.note("no clients");
    let load = trial.load(scale.open()).await?;
    let control = trial.fleet.control();
    let began = now();
    // Resets the limit: while `maxclients` is 1, Redis refuses new connections.
    let mut keeper = control.connection().await?;
    redis::cmd("CONFIG").arg(&["SET", "maxclients", "1"]).exec_async(&mut keeper).await?;
    redis::cmd("CLIENT").arg(&["KILL", "SKIPME", "yes"]).exec_async(&mut keeper).await?;
    sleep(5 * SECOND).await;
    redis::cmd("CONFIG").arg(&["SET", "maxclients", "10000"]).exec_async(&mut keeper).await?;
    recovered(trial, load, began, now()).await
}

async fn new_password(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    trial.findings.note("no password");
    let load = trial.load(scale.open()).await?;
    let mut keeper = trial.fleet.control().connection().await?;
    let began = now();
    redis::cmd("CONFIG").arg(&["SET", "requirepass", "new"]).exec_async(&mut keeper).await?;
    redis::cmd("CLIENT").arg(&["KILL", "SKIPME", "yes"]).exec_async(&mut keeper).await?;
    sleep(5 * SECOND).await;
    redis::cmd("CONFIG").arg(&["SET", "requirepass", ""]).exec_async(&mut keeper).await?;
    recovered(trial, load, began, now()).await
}

/// Ends the load and checks the promises common to all parts of F20.
async fn recovered(
    mut trial: Trial,
    load: crate::load::RunningLoad,
    began: SystemTime,
    ended: SystemTime,
) -> Result<Findings> {
    sleep(8 * SECOND).await;
    let journal = trial.stop(load).await?;
    let refused = |entry: &&Entry| matches!(entry.ending, Ending::Refused(_));
    let during = journal.at(began)..journal.at(ended);
    let refusals = || journal.due_in(during.clone()).filter(refused);
    trial.findings.note(format!("{} refused", refusals().count()));
    // Until gateways know of the fault, up to 1 s, requests wait for a command that fails.
    let once_known =
        refusals().filter(|e| e.sent > journal.at(began) + SECOND + SECOND / 2).map(wait);
    trial.findings.within("p99", quantile(once_known, 0.99), Duration::from_millis(50));
    let odd = |entry: &Entry| !matches!(status(entry), None | Some(503));
    trial.findings.none("neither 200 nor 503:", journal.count(odd));
    let bad =
        journal.entries().iter().filter(|entry| !is_right(entry)).map(|entry| entry.sent).max();
    let last = bad.unwrap_or_default().saturating_sub(journal.at(ended));
    trial.findings.within("last error after", last, RECOVERY);
    let ended = trial.fleet.workers.iter().chain(&trial.fleet.gateways).filter(|m| m.is_gone());
    let ended = ended.count() as u64;
    trial.findings.none("programs that ended:", ended);
    trial.findings.note(format!("max {}", time(journal.longest())));
    trial.finish().await
}
