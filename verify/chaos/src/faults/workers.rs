//! Workers that are killed, paused or shut down.

use std::time::Duration;

use anyhow::Result;
use rand::RngExt;
use tokio::time::{Instant, sleep};

use crate::{
    findings::{Findings, time},
    journal::{self, status, wait},
    load::LoadShape,
    trial::{POLL, Scale, Trial, now},
};

const SECOND: Duration = Duration::from_secs(1);

/// F01: random workers are killed and restarted one after the other.
pub(crate) async fn killed_in_turn(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let load = trial.load(scale.closed()).await?;
    let (until, mut kills) = (trial.until(), 0);
    while Instant::now() < until {
        let victim = trial.random.random_range(0..scale.workers);
        let next = Instant::now() + 2 * SECOND;
        trial.fleet.kill_worker(victim).await?;
        kills += 1;
        sleep(SECOND).await;
        trial.fleet.start_worker(victim).await?;
        tokio::time::sleep_until(next).await;
    }
    let journal = trial.stop(load).await?;
    trial.findings.note(format!("{kills} kills"));
    trial.all_right(&journal);
    let (baseline, p99) = (trial.baseline(&journal), trial.p99(&journal));
    trial.findings.within("p99", p99, baseline + 5 * SECOND);
    trial.findings.within("max", journal.longest(), 12 * SECOND);
    trial.finish().await
}

/// F02: all workers are killed, and restarted after 10 s.
pub(crate) async fn all_killed(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let load = trial.load(scale.closed()).await?;
    for index in 0..scale.workers {
        trial.fleet.kill_worker(index).await?;
    }
    let killed = now();
    sleep(10 * SECOND).await;
    let back = now();
    for index in 0..scale.workers {
        trial.fleet.start_worker(index).await?;
    }
    sleep(5 * SECOND).await;
    let journal = trial.stop(load).await?;
    let (killed, back) = (journal.at(killed), journal.at(back));
    let is_no_worker = |entry: &journal::Entry| match &entry.ending {
        journal::Ending::Refused(refusal) => {
            refusal.status == 503 && &*refusal.code == "no_workers"
        }
        _ => false,
    };
    let others = journal.count(|entry| status(entry).is_some() && !is_no_worker(entry));
    trial.findings.none("neither 200 nor 503 no_workers:", others);
    let odd = journal.entries().iter().filter(|e| status(e).is_some() && !is_no_worker(e));
    let when = odd.map(|entry| entry.sent.saturating_sub(killed));
    if let (Some(first), Some(last)) = (when.clone().min(), when.max()) {
        trial.findings.note(format!("sent {} to {} after the kill", time(first), time(last)));
    }
    let held = journal.entries().iter().filter(|e| e.sent <= killed && e.done > killed);
    let last = held.map(|entry| entry.done).max().unwrap_or_default();
    trial.findings.within(
        "held requests done after the return",
        last.saturating_sub(back),
        15 * SECOND,
    );
    trial.finish().await
}

/// F03: one worker is paused for up to 20 s, in the middle of a batch.
pub(crate) async fn stopped(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let load = trial.load(scale.closed()).await?;
    trial.batch_begun(0).await?;
    trial.fleet.workers[0].program()?.signal("STOP").await?;
    let stopped = now();
    sleep(scale.lasts.min(20 * SECOND)).await;
    trial.fleet.workers[0].program()?.signal("CONT").await?;
    sleep(2 * SECOND).await;
    let dropped = trial.gateways("batchfleet_gateway_unclaimed_replies_total", "").await?;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    let runs = trial.runs(&journal)?;
    let again = runs.repeats().filter(|run| run.1 > stopped).map(|run| run.1).max();
    let again = again.and_then(|again| again.duration_since(stopped).ok()).unwrap_or_default();
    trial.findings.check(runs.repeated() > 0, format!("{} ran again", runs.repeated()));
    trial.findings.within("the last of these after", again, 5 * SECOND);
    trial.findings.at_least("late answers dropped", dropped, 1.0);
    trial.findings.note(format!("max {}", time(journal.longest())));
    trial.finish().await
}

/// F09: all workers are restarted one after the other by SIGTERM.
pub(crate) async fn rolling_restart(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let load = trial.load(scale.open()).await?;
    for index in 0..scale.workers {
        trial.fleet.workers[index].program()?.signal("TERM").await?;
        let status = trial.fleet.worker_ended(index).await?;
        if !status.success() {
            trial.findings.check(false, format!("a worker ended with {status}"));
        }
        trial.fleet.start_worker(index).await?;
        sleep(SECOND).await;
    }
    sleep(2 * SECOND).await;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    let runs = trial.runs(&journal)?;
    trial.findings.none("ran twice:", runs.repeated() as u64);
    let (baseline, p99) = (trial.baseline(&journal), trial.p99(&journal));
    trial.findings.as_fast_as("p99", p99, baseline.mul_f64(1.5));
    let longest_wait = journal.entries().iter().map(wait).max().unwrap_or_default();
    trial.findings.note(format!("max {}", time(longest_wait)));
    trial.finish().await
}

/// F10: workers get a drain timeout of 0.5 s, while batches take 1.5 s.
pub(crate) async fn too_little_grace(scale: Scale) -> Result<Findings> {
    const BATCH_MS: f64 = 1500.0;
    const GRACE: Duration = Duration::from_millis(500);
    let mut plan = scale.plan();
    plan.parameters = [("batch_ms", BATCH_MS.to_string())].into();
    plan.worker_flags.extend(["--drain-timeout".to_owned(), format!("{}ms", GRACE.as_millis())]);
    let mut trial = Trial::start(scale, &plan).await?;
    let rate = 0.7 * Scale::capacity_of(scale.workers, BATCH_MS);
    let load = trial.load(LoadShape::open(rate, scale.clients)).await?;
    let mut gone_after = Duration::ZERO;
    for index in 0..scale.workers / 2 {
        trial.fleet.workers[index].program()?.signal("TERM").await?;
        let signalled = Instant::now();
        while !trial.fleet.workers[index].is_gone() && signalled.elapsed() < GRACE + SECOND {
            sleep(POLL).await;
        }
        gone_after = gone_after.max(signalled.elapsed());
        trial.fleet.kill_worker(index).await?;
        trial.fleet.start_worker(index).await?;
        sleep(SECOND).await;
    }
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    trial.findings.within("gone after", gone_after, GRACE + Duration::from_millis(100));
    trial.findings.note(format!("max {}", time(journal.longest())));
    trial.finish().await
}

/// F34: half of the workers get SIGTERM, and SIGKILL 15 s later.
pub(crate) async fn half_leave(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let load = trial.load(scale.closed()).await?;
    let leaving = 0..scale.workers / 2;
    for index in leaving.clone() {
        trial.fleet.workers[index].program()?.signal("TERM").await?;
    }
    sleep(15 * SECOND).await;
    let mut stayed = 0;
    for index in leaving.clone() {
        stayed += u64::from(!trial.fleet.workers[index].is_gone());
        trial.fleet.kill_worker(index).await?;
    }
    sleep(5 * SECOND).await;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    trial.findings.none("still running after 15 s:", stayed);
    trial.findings.note(format!("max {}", time(journal.longest())));
    trial.finish().await
}
