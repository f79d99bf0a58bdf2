//! Workers that die, stop, leave.

use std::time::Duration;

use anyhow::Result;
use rand::RngExt;
use tokio::time::{Instant, sleep};

use crate::{
    findings::{Findings, time},
    load::Shape,
    seen::{self, status, wait},
    stage::{POLL, Scale, Stage, now},
};

const SECOND: Duration = Duration::from_secs(1);

/// F01
pub(crate) async fn killed_in_turn(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    let load = stage.load(scale.closed()).await?;
    let (until, mut kills) = (stage.until(), 0);
    while Instant::now() < until {
        let victim = stage.random.random_range(0..scale.workers);
        let next = Instant::now() + 2 * SECOND;
        stage.fleet.kill_worker(victim).await?;
        kills += 1;
        sleep(SECOND).await;
        stage.fleet.start_worker(victim).await?;
        tokio::time::sleep_until(next).await;
    }
    let seen = stage.stop(load).await?;
    stage.findings.note(format!("{kills} kills"));
    stage.all_right(&seen);
    let (baseline, p99) = (stage.baseline(&seen), stage.p99(&seen));
    stage.findings.within("p99", p99, baseline + 5 * SECOND);
    stage.findings.within("max", seen.longest(), 12 * SECOND);
    stage.finish().await
}

/// F02
pub(crate) async fn all_killed(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    let load = stage.load(scale.closed()).await?;
    for index in 0..scale.workers {
        stage.fleet.kill_worker(index).await?;
    }
    let killed = now();
    sleep(10 * SECOND).await;
    let back = now();
    for index in 0..scale.workers {
        stage.fleet.start_worker(index).await?;
    }
    sleep(5 * SECOND).await;
    let seen = stage.stop(load).await?;
    let (killed, back) = (seen.at(killed), seen.at(back));
    let is_no_worker = |entry: &seen::Entry| match &entry.ending {
        seen::Ending::Refused(refusal) => refusal.status == 503 && &*refusal.code == "no_workers",
        _ => false,
    };
    let others = seen.count(|entry| status(entry).is_some() && !is_no_worker(entry));
    stage.findings.none("neither 200 nor 503 no_workers:", others);
    let odd = seen.journal().iter().filter(|e| status(e).is_some() && !is_no_worker(e));
    let when = odd.map(|entry| entry.sent.saturating_sub(killed));
    if let (Some(first), Some(last)) = (when.clone().min(), when.max()) {
        stage.findings.note(format!("those {} to {} after the kill", time(first), time(last)));
    }
    let held = seen.journal().iter().filter(|e| e.sent <= killed && e.done > killed);
    let last = held.map(|entry| entry.done).max().unwrap_or_default();
    stage.findings.within(
        "held ones done after the return",
        last.saturating_sub(back),
        15 * SECOND,
    );
    stage.finish().await
}

/// F03
pub(crate) async fn stopped(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    let load = stage.load(scale.closed()).await?;
    stage.fleet.workers[0].program()?.signal("STOP").await?;
    let stopped = now();
    sleep(scale.lasts.min(20 * SECOND)).await;
    stage.fleet.workers[0].program()?.signal("CONT").await?;
    sleep(2 * SECOND).await;
    let dropped = stage.gateways("batchfleet_gateway_unclaimed_replies_total", "").await?;
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    let runs = stage.runs(&seen)?;
    let again = runs.repeats().filter(|run| run.1 > stopped).map(|run| run.1).max();
    let again = again.and_then(|again| again.duration_since(stopped).ok()).unwrap_or_default();
    stage.findings.check(runs.repeated() > 0, format!("{} ran again", runs.repeated()));
    stage.findings.within("the last of them after", again, 5 * SECOND);
    stage.findings.at_least("late answers dropped", dropped, 1.0);
    stage.findings.note(format!("max {}", time(seen.longest())));
    stage.finish().await
}

/// F09
pub(crate) async fn rolling_restart(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    let load = stage.load(scale.open()).await?;
    for index in 0..scale.workers {
        stage.fleet.workers[index].program()?.signal("TERM").await?;
        let status = stage.fleet.worker_ended(index).await?;
        if !status.success() {
            stage.findings.check(false, format!("a worker ended with {status}"));
        }
        stage.fleet.start_worker(index).await?;
        sleep(SECOND).await;
    }
    sleep(2 * SECOND).await;
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    let runs = stage.runs(&seen)?;
    stage.findings.none("ran twice:", runs.repeated() as u64);
    let (baseline, p99) = (stage.baseline(&seen), stage.p99(&seen));
    stage.findings.as_fast_as("p99", p99, baseline.mul_f64(1.5));
    let longest_wait = seen.journal().iter().map(wait).max().unwrap_or_default();
    stage.findings.note(format!("max {}", time(longest_wait)));
    stage.finish().await
}

/// F10: batches of a second and a half, a grace of half a second.
pub(crate) async fn too_little_grace(scale: Scale) -> Result<Findings> {
    const BATCH_MS: f64 = 1500.0;
    const GRACE: Duration = Duration::from_millis(500);
    let mut plan = scale.plan();
    plan.parameters = [("batch_ms", BATCH_MS.to_string())].into();
    plan.worker_flags.extend(["--drain-timeout".to_owned(), format!("{}ms", GRACE.as_millis())]);
    let mut stage = Stage::start(scale, &plan).await?;
    let rate = 0.7 * Scale::capacity_of(scale.workers, BATCH_MS);
    let load = stage.load(Shape::open(rate, scale.clients)).await?;
    let mut left_after = Duration::ZERO;
    for index in 0..scale.workers / 2 {
        stage.fleet.workers[index].program()?.signal("TERM").await?;
        let told = Instant::now();
        while !stage.fleet.workers[index].is_gone() && told.elapsed() < GRACE + SECOND {
            sleep(POLL).await;
        }
        left_after = left_after.max(told.elapsed());
        stage.fleet.kill_worker(index).await?;
        stage.fleet.start_worker(index).await?;
        sleep(SECOND).await;
    }
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    stage.findings.within("left after", left_after, GRACE + Duration::from_millis(100));
    stage.findings.note(format!("max {}", time(seen.longest())));
    stage.finish().await
}

/// F34
pub(crate) async fn half_leave(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    let load = stage.load(scale.closed()).await?;
    let leaving = 0..scale.workers / 2;
    for index in leaving.clone() {
        stage.fleet.workers[index].program()?.signal("TERM").await?;
    }
    sleep(15 * SECOND).await;
    let mut stayed = 0;
    for index in leaving.clone() {
        stayed += u64::from(!stage.fleet.workers[index].is_gone());
        stage.fleet.kill_worker(index).await?;
    }
    sleep(5 * SECOND).await;
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    stage.findings.none("still there after 15 s:", stayed);
    stage.findings.note(format!("max {}", time(seen.longest())));
    stage.finish().await
}
