//! Models and devices that fail: hung runs, lost devices, inputs that kill, no memory.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::{
    findings::{Findings, time},
    fleet::Plan,
    load::Shape,
    metrics::Scrape,
    seen::{Ending, Entry, Seen, latency, quantile, status},
    stage::{BATCH_MS, POLL, ROW_MS, Scale, Stage},
};

const SECOND: Duration = Duration::from_secs(1);
/// What the echo looks for in a request.
const MARK: &str = "(!)";

fn plan(scale: Scale, marker: &'static str) -> Plan {
    let mut plan = scale.plan();
    plan.parameters.push((marker, MARK.to_owned()));
    plan
}

/// One request that carries the mark. It has no time to be delivered twice: what it does to a
/// device is not its own fault.
fn one_marked() -> Shape {
    Shape::closed(1).marked(MARK, |_| true).deadline(|_| 2 * SECOND).only(1)
}

/// F05
pub(crate) async fn hung_run(scale: Scale) -> Result<Findings> {
    lost_worker(scale, "hang_marker", 11 * SECOND).await
}

/// F06
pub(crate) async fn lost_device(scale: Scale) -> Result<Findings> {
    lost_worker(scale, "fatal_marker", SECOND).await
}

async fn lost_worker(scale: Scale, marker: &'static str, exits: Duration) -> Result<Findings> {
    let mut stage = Stage::start(scale, &plan(scale, marker)).await?;
    let load = stage.load(scale.open()).await?;
    let victim = one_marked().start(stage.fleet.targets())?;
    let struck = Instant::now();
    let gone = loop {
        let gone = (0..scale.workers).find(|index| stage.fleet.workers[*index].is_gone());
        if gone.is_some() || struck.elapsed() > exits + 5 * SECOND {
            break gone;
        }
        sleep(POLL).await;
    };
    stage.findings.within("its process gone after", struck.elapsed(), exits);
    if let Some(index) = gone {
        stage.fleet.kill_worker(index).await?;
        stage.fleet.start_worker(index).await?;
    }
    sleep(5 * SECOND).await;
    let victim = victim.stop().await?;
    stage.findings.note(format!("its request: {:?}", victim.report.refused.keys()));
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    stage.findings.within("max", seen.longest(), exits + 5 * SECOND);
    stage.finish().await
}

/// F07
pub(crate) async fn killing_inputs(scale: Scale) -> Result<Findings> {
    // A fleet of fewer workers than the three that an input may kill would be gone at times.
    const EVERY: u64 = 5000;
    // None of them near the end: all must have had their three victims while workers come back.
    let marked = scale.warm_up + scale.lasts;
    let last = 0.7 * Scale::capacity(scale.workers) * marked.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
    let is_victim = move |index: u64| index % EVERY == EVERY - 1 && (index as f64) < last;
    let mut stage = Stage::start(scale, &plan(scale, "abort_marker")).await?;
    let load = stage.load(scale.open().marked(MARK, is_victim)).await?;
    let crashes = supervise(&mut stage).await?;
    let seen = stage.stop(load).await?;
    let victims: Vec<&Entry> = seen.journal().iter().filter(|e| is_victim(e.index)).collect();
    stage.findings.note(format!("{} such inputs, {crashes} crashes", victims.len()));
    let others = seen.count(|e| !is_victim(e.index) && e.ending != Ending::Right);
    stage.findings.none("neighbours not answered 200:", others);
    let told = |entry: &&&Entry| matches!(&entry.ending, Ending::Refused(r) if r.status == 500);
    let untold = victims.len() - victims.iter().filter(told).count();
    stage.findings.none("senders not told 500:", untold as u64);
    let slowest = victims.iter().map(|entry| latency(entry)).max().unwrap_or_default();
    stage.findings.within("told after", slowest, 15 * SECOND);
    let runs = stage.runs(&seen)?;
    let most = victims.iter().map(|entry| runs.of(entry.index)).max().unwrap_or_default();
    stage.findings.check(most <= 3, format!("crashes of one input {most} (≤ 3)"));
    stage.findings.check(!victims.is_empty(), "played");
    stage.finish().await
}

/// Starts every worker that has ended by itself again, a second later, for as long as a fault lasts
/// and what follows from it; says how many did.
async fn supervise(stage: &mut Stage) -> Result<u64> {
    let (until, mut crashes) = (stage.until() + 15 * SECOND, 0);
    let mut due = vec![None; stage.fleet.workers.len()];
    while Instant::now() < until {
        for (index, due) in due.iter_mut().enumerate() {
            match *due {
                None if stage.fleet.workers[index].is_gone() => {
                    crashes += 1;
                    *due = Some(Instant::now() + SECOND);
                }
                Some(at) if at <= Instant::now() => {
                    stage.fleet.kill_worker(index).await?;
                    stage.fleet.spawn_worker(index).await?;
                    *due = None;
                }
                _ => {}
            }
        }
        sleep(POLL).await;
    }
    Ok(crashes)
}

/// F08: rows that fail, then a device without memory for more than 16 rows.
pub(crate) async fn failing_rows(scale: Scale) -> Result<Findings> {
    const EVERY: u64 = 100;
    let is_victim = |index: u64| index % EVERY == EVERY - 1;
    let mut stage = Stage::start(scale, &plan(scale, "fail_marker")).await?;
    let load = stage.load(scale.open_at(0.6)).await?;
    let marked = scale.open_at(0.1).marked(MARK, is_victim).start(stage.fleet.targets())?;
    sleep(scale.lasts / 2).await;
    let marked = stage.stop(marked).await?;
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    let is_500 = |entry: &Entry| status(entry) == Some(500);
    let wrong_verdict = marked.count(|e| is_victim(e.index) != is_500(e));
    stage.findings.none("rows with the wrong verdict:", wrong_verdict);
    stage.findings.note(format!("{} rows failed", marked.count(is_500)));
    let (baseline, p99) = (stage.baseline(&seen), stage.p99(&seen));
    let two_batches = 2 * Duration::from_secs_f64((BATCH_MS + ROW_MS * 8.0) / 1e3);
    stage.findings.within("p99", p99, baseline + two_batches);
    let findings = stage.finish().await?;
    Ok(findings.and(no_memory(scale).await?))
}

async fn no_memory(scale: Scale) -> Result<Findings> {
    let mut plan = scale.plan();
    plan.parameters.push(("oom_marker", MARK.to_owned()));
    plan.parameters.push(("oom_rows", "16".to_owned()));
    plan.worker_flags = ["--batch".to_owned(), "32".to_owned()].into();
    let mut stage = Stage::start(scale, &plan).await?;
    let load = stage.load(scale.closed()).await?;
    // Every worker meets the mark, sooner or later.
    let marked = Shape::closed(1).marked(MARK, |_| true).start(stage.fleet.targets())?;
    sleep(10 * SECOND).await;
    let marked = stage.stop(marked).await?;
    let mut limits = Vec::new();
    for worker in &stage.fleet.workers {
        let scrape = Scrape::of(&worker.admin).await?;
        limits.push(scrape.sum("batchfleet_worker_batch_limit", ""));
    }
    let settled = limits.iter().all(|limit| (1.0..=16.0).contains(limit));
    stage.findings.check(settled, format!("N after 10 s {limits:?} (≤ 16)"));
    let seen = stage.stop(load).await?;
    for seen in [&marked, &seen] {
        stage.all_right(seen);
    }
    stage.findings.note(format!("p99 {}", time(p99(&seen))));
    stage.finish().await
}

fn p99(seen: &Seen) -> Duration {
    quantile(seen.journal().iter().map(latency), 0.99)
}
