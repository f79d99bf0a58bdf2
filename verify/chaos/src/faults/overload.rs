//! Loads beyond the fleet's capacity.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use crate::{
    findings::{Findings, percent, time},
    fleet::ChaosPlan,
    journal::{Ending, Entry, LoadJournal, is_right, latency, quantile, status, wait},
    load::LoadShape,
    memory::MemoryWatch,
    trial::{BATCH_MS, ROW_MS, Scale, Trial},
};

const SECOND: Duration = Duration::from_secs(1);
/// Memory limit of a gateway's container in the chart, in bytes.
const MEMORY_LIMIT: u64 = 1 << 30;
/// One in `HURRIED` requests has a short deadline.
const HURRIED: u64 = 8;
/// The load as a multiple of the fleet's capacity.
const TIMES: f64 = 10.0;

/// One worker: the machine cannot generate ten times the capacity of four.
fn plan(scale: Scale) -> ChaosPlan {
    ChaosPlan { workers: 1, ..scale.plan() }
}

/// The deadline of a request: much shorter than the trial, so that the queue is full most of the
/// time.
fn deadline(scale: Scale, index: u64) -> Duration {
    let patient = (scale.lasts / 6).clamp(2 * SECOND, 8 * SECOND);
    if is_hurried(index) { patient / 8 } else { patient }
}

fn is_hurried(index: u64) -> bool {
    index.is_multiple_of(HURRIED)
}

/// Debug builds of gateways on a busy machine cannot answer ten times the capacity of a usual worker in
/// time, so that theirs is slower.
fn slower_plan(scale: Scale) -> ChaosPlan {
    let batch_ms = if scale.slow { 4.0 * BATCH_MS } else { BATCH_MS };
    let parameters = [("batch_ms", batch_ms.to_string()), ("row_ms", ROW_MS.to_string())].into();
    ChaosPlan { parameters, ..plan(scale) }
}

/// F25: ten times the fleet's capacity.
pub(crate) async fn ten_times(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::start(scale, &slower_plan(scale)).await?;
    let memory = MemoryWatch::watch(&trial.fleet).await?;
    let peak = trial.load(LoadShape::closed(64)).await?;
    let peak = trial.stop(peak).await?;
    let peak = peak.goodput(SECOND..peak.lasted);
    let users = 5 * scale.clients;
    let shape = LoadShape::open(TIMES * peak, users).deadline(move |index| deadline(scale, index));
    let load = shape.start(trial.fleet.targets())?;
    sleep(scale.lasts).await;
    let journal = trial.stop(load).await?;
    trial.findings.note(format!("offered {:.0}/s", TIMES * peak));
    // Goodput counts from 2 s on, when the queue is full.
    let filled = 2 * SECOND;
    let share = 100.0 * journal.goodput(filled..journal.lasted) / peak;
    trial.findings.note(format!("peak {peak:.0}/s"));
    trial.findings.speed(share >= 90.0, format!("goodput {share:.0} % of peak (≥ 90)"));
    judge_admission(&mut trial, &journal);
    judge_retry_after(&mut trial, &journal);
    memory.judge(&mut trial.findings, MEMORY_LIMIT).await?;
    trial.finish().await
}

fn judge_admission(trial: &mut Trial, journal: &LoadJournal) {
    let scale = trial.scale;
    let refused = |entry: &Entry| matches!(status(entry), Some(429 | 503));
    let admitted = journal.count(|entry| !refused(entry));
    let late = journal.count(|entry| status(entry) == Some(504));
    trial.findings.at_most("admitted and not in time, %", percent(late, admitted), 1.0);
    let over = journal.entries().iter().filter(|e| is_right(e));
    let over = over.map(|e| wait(e).saturating_sub(deadline(scale, e.index)));
    let over = quantile(over, 0.99);
    trial.findings.within("admitted p99 beyond its deadline", over, Duration::ZERO);
    let refusals = || journal.entries().iter().filter(|entry| refused(entry)).map(wait);
    trial.findings.note(format!("refusal p50 {}", time(quantile(refusals(), 0.5))));
    let p99 = quantile(refusals(), 0.99);
    trial.findings.as_fast_as("refusal p99", p99, Duration::from_millis(10));
    let silent = journal.count(|entry| refused(entry) && retry_after(entry).is_none());
    trial.findings.none("refused without a time to retry:", silent);
    let odd = journal.count(|e| status(e).is_some_and(|s| !matches!(s, 429 | 503 | 504)));
    trial.findings.none("neither 200, 429, 503 nor 504:", odd);
}

/// Compares Retry-After with the delay after which a refused hurried request could have met the
/// deadline: the median latency of requests admitted in the same half second, less the deadline.
fn judge_retry_after(trial: &mut Trial, journal: &LoadJournal) {
    let scale = trial.scale;
    let mut ratios = Vec::new();
    let mut from = 2 * SECOND;
    while from < journal.lasted {
        let window = from..from + SECOND / 2;
        let waits = journal.due_in(window.clone()).filter(|e| is_right(e) && !is_hurried(e.index));
        let needed = quantile(waits.map(latency), 0.5).saturating_sub(deadline(scale, 0));
        let headers =
            journal.due_in(window).filter(|e| is_hurried(e.index)).filter_map(retry_after);
        // Retry-After is at least 1 s, so shorter delays are left out.
        if needed >= SECOND {
            ratios.extend(headers.map(|header| SECOND.mul_f64(header / needed.as_secs_f64())));
        }
        from += SECOND / 2;
    }
    let median = quantile(ratios.iter().copied(), 0.5).as_secs_f64();
    let text = format!("median Retry-After {median:.2} of the real time (0.7 to 1.3)");
    trial.findings.speed((0.7..=1.3).contains(&median), text);
}

fn retry_after(entry: &Entry) -> Option<f64> {
    match &entry.ending {
        Ending::Refused(refusal) => refusal.retry_after.map(f64::from),
        _ => None,
    }
}

/// F26: ten times the capacity from clients that try three times; then 80 % of the capacity.
pub(crate) async fn retrying_clients(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::start(scale, &plan(scale)).await?;
    let capacity = Scale::capacity(1);
    let users = 5 * scale.clients;
    let patient = 5 * SECOND;
    let storm = LoadShape::open(TIMES * capacity / 3.0, users).tries(3).deadline(move |_| patient);
    let storm = storm.start(trial.fleet.targets())?;
    sleep(scale.lasts).await;
    storm.end();
    let calm = LoadShape::open(0.8 * capacity, users).tries(3).deadline(move |_| patient);
    let calm = calm.start(trial.fleet.targets())?;
    sleep(20 * SECOND).await;
    let storm = trial.stop(storm).await?;
    let calm = trial.stop(calm).await?;
    trial.findings.note(format!("{} refused at ten times", storm.report.refusals()));
    let later = || calm.due_in(10 * SECOND..Duration::MAX);
    let right = later().filter(|e| is_right(e)).count() as u64;
    let share = percent(right, later().count() as u64);
    trial.findings.at_least("right 10 s after the drop, %", share, 95.0);
    let well = calm.entries().iter().filter(|e| !is_right(e)).map(|e| e.due).max();
    trial.findings.note(format!("last error after {}", time(well.unwrap_or_default())));
    trial.finish().await
}
