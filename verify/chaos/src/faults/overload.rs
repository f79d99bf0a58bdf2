//! More than the fleet can do.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use crate::{
    findings::{Findings, percent, time},
    fleet::Plan,
    load::Shape,
    memory::Memory,
    seen::{Ending, Entry, Seen, is_right, latency, quantile, status, wait},
    stage::{Scale, Stage},
};

const SECOND: Duration = Duration::from_secs(1);
/// What a gateway's container may use, as our chart has it.
const MEMORY_LIMIT: u64 = 1 << 30;
/// One in so many requests is in a hurry.
const HURRIED: u64 = 8;
/// How much more than it can do the fleet is asked.
const TIMES: f64 = 10.0;

/// One worker: ten times what four can do is more than the machine can ask.
fn plan(scale: Scale) -> Plan {
    Plan { workers: 1, ..scale.plan() }
}

/// Deadlines shorter than the run, so that the queue is full for most of it.
fn deadline(scale: Scale, index: u64) -> Duration {
    let patient = (scale.lasts / 6).clamp(2 * SECOND, 8 * SECOND);
    if is_hurried(index) { patient / 8 } else { patient }
}

fn is_hurried(index: u64) -> bool {
    index.is_multiple_of(HURRIED)
}

/// F25
pub(crate) async fn ten_times(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::start(scale, &plan(scale)).await?;
    let memory = Memory::watch(&stage.fleet).await?;
    let peak = stage.load(Shape::closed(64)).await?;
    let peak = stage.stop(peak).await?;
    let peak = peak.goodput(SECOND..peak.lasted);
    let users = 5 * scale.clients;
    let shape = Shape::open(TIMES * peak, users).deadline(move |index| deadline(scale, index));
    let load = shape.start(stage.fleet.targets())?;
    sleep(scale.lasts).await;
    let seen = stage.stop(load).await?;
    stage.findings.note(format!("offered {:.0}/s", TIMES * peak));
    let filled = 2 * SECOND;
    let share = 100.0 * seen.goodput(filled..seen.lasted) / peak;
    stage.findings.note(format!("peak {peak:.0}/s"));
    stage.findings.speed(share >= 90.0, format!("goodput {share:.0} % of peak (≥ 90)"));
    judge_admission(&mut stage, &seen);
    judge_retry_after(&mut stage, &seen);
    memory.judge(&mut stage.findings, MEMORY_LIMIT).await?;
    stage.finish().await
}

fn judge_admission(stage: &mut Stage, seen: &Seen) {
    let scale = stage.scale;
    let refused = |entry: &Entry| matches!(status(entry), Some(429 | 503));
    let admitted = seen.count(|entry| !refused(entry));
    let late = seen.count(|entry| status(entry) == Some(504));
    stage.findings.at_most("admitted and not in time, %", percent(late, admitted), 1.0);
    let over = seen.journal().iter().filter(|e| is_right(e));
    let over = over.map(|e| wait(e).saturating_sub(deadline(scale, e.index)));
    let over = quantile(over, 0.99);
    stage.findings.within("admitted p99 beyond its deadline", over, Duration::ZERO);
    let refusals = || seen.journal().iter().filter(|entry| refused(entry)).map(wait);
    stage.findings.note(format!("refusal p50 {}", time(quantile(refusals(), 0.5))));
    let p99 = quantile(refusals(), 0.99);
    stage.findings.as_fast_as("refusal p99", p99, Duration::from_millis(10));
    let odd = seen.count(|e| status(e).is_some_and(|s| !matches!(s, 429 | 503 | 504)));
    stage.findings.none("neither 200, 429, 503 nor 504:", odd);
}

/// The truth about when a hurried request would have been in time: the wait of those that were
/// admitted in the same half second, less its own deadline.
fn judge_retry_after(stage: &mut Stage, seen: &Seen) {
    let scale = stage.scale;
    let mut ratios = Vec::new();
    let mut from = 2 * SECOND;
    while from < seen.lasted {
        let window = from..from + SECOND / 2;
        let waits = seen.due_in(window.clone()).filter(|e| is_right(e) && !is_hurried(e.index));
        let truth = quantile(waits.map(latency), 0.5).saturating_sub(deadline(scale, 0));
        let told = seen.due_in(window).filter(|e| is_hurried(e.index)).filter_map(retry_after);
        // A header of whole seconds cannot say less than one.
        if truth >= SECOND {
            ratios.extend(told.map(|told| SECOND.mul_f64(told / truth.as_secs_f64())));
        }
        from += SECOND / 2;
    }
    let median = quantile(ratios.iter().copied(), 0.5).as_secs_f64();
    let text = format!("median Retry-After {median:.2} of the truth (0.7 to 1.3)");
    stage.findings.speed((0.7..=1.3).contains(&median), text);
}

fn retry_after(entry: &Entry) -> Option<f64> {
    match &entry.ending {
        Ending::Refused(refusal) => refusal.retry_after.map(f64::from),
        _ => None,
    }
}

/// F26
pub(crate) async fn retrying_clients(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::start(scale, &plan(scale)).await?;
    let capacity = Scale::capacity(1);
    let users = 5 * scale.clients;
    let patient = 5 * SECOND;
    let storm = Shape::open(TIMES * capacity / 3.0, users).tries(3).deadline(move |_| patient);
    let storm = storm.start(stage.fleet.targets())?;
    sleep(scale.lasts).await;
    storm.end();
    let calm = Shape::open(0.8 * capacity, users).tries(3).deadline(move |_| patient);
    let calm = calm.start(stage.fleet.targets())?;
    sleep(20 * SECOND).await;
    let storm = stage.stop(storm).await?;
    let calm = stage.stop(calm).await?;
    stage.findings.note(format!("{} of the storm refused", storm.report.refusals()));
    let later = || calm.due_in(10 * SECOND..Duration::MAX);
    let right = later().filter(|e| is_right(e)).count() as u64;
    let share = percent(right, later().count() as u64);
    stage.findings.at_least("right 10 s after the drop, %", share, 95.0);
    let well = calm.journal().iter().filter(|e| !is_right(e)).map(|e| e.due).max();
    stage.findings.note(format!("last trouble after {}", time(well.unwrap_or_default())));
    stage.finish().await
}
