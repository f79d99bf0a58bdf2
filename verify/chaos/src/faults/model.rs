//! Models and devices that fail: hung runs, lost devices, inputs that crash a worker, and devices
//! out of memory.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::{
    findings::{Findings, time},
    fleet::ChaosPlan,
    journal::{Ending, Entry, LoadJournal, latency, quantile, status},
    load::LoadShape,
    metrics::Scrape,
    trial::{BATCH_MS, POLL, ROW_MS, Scale, Trial},
};

const SECOND: Duration = Duration::from_secs(1);
/// The marker that the echo model looks for in a request.
const MARK: &str = "(!)";

fn plan(scale: Scale, marker: &'static str) -> ChaosPlan {
    let mut plan = scale.plan();
    plan.parameters.push((marker, MARK.to_owned()));
    plan
}

/// A single request with the marker. The request expires before a second delivery, and so takes
/// down only one worker.
fn one_marked() -> LoadShape {
    LoadShape::closed(1).marked(MARK, |_| true).deadline(|_| 2 * SECOND).only(1)
}

/// F05: a run never returns. The worker must detect the hang and exit.
pub(crate) async fn hung_run(scale: Scale) -> Result<Findings> {
    lost_worker(scale, "hang_marker", 11 * SECOND).await
}

/// F06: a fatal device error; the worker must exit without answering.
pub(crate) async fn lost_device(scale: Scale) -> Result<Findings> {
    lost_worker(scale, "fatal_marker", SECOND).await
}

/// F05 and F06: one marked request takes down a worker, which must exit within `exits`.
async fn lost_worker(scale: Scale, marker: &'static str, exits: Duration) -> Result<Findings> {
    let mut trial = Trial::start(scale, &plan(scale, marker)).await?;
    let load = trial.load(scale.open()).await?;
    let victim = one_marked().start(trial.fleet.targets())?;
    let struck = Instant::now();
    let gone = loop {
        let gone = (0..scale.workers).find(|index| trial.fleet.workers[*index].is_gone());
        if gone.is_some() || struck.elapsed() > exits + 5 * SECOND {
            break gone;
        }
        sleep(POLL).await;
    };
    trial.findings.within("process gone after", struck.elapsed(), exits);
    if let Some(index) = gone {
        trial.fleet.kill_worker(index).await?;
        trial.fleet.start_worker(index).await?;
    }
    sleep(5 * SECOND).await;
    let victim = victim.stop().await?;
    trial.findings.note(format!("the marked request: {:?}", victim.report.refused.keys()));
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    trial.findings.within("max", journal.longest(), exits + 5 * SECOND);
    trial.finish().await
}

/// F07: some inputs abort the worker's process.
pub(crate) async fn killing_inputs(scale: Scale) -> Result<Findings> {
    // Each marked input crashes three workers. The interval keeps the crashes of two inputs apart:
    // together they would take down all workers.
    const EVERY: u64 = 5000;
    // No marked request near the end: each must crash three workers while `supervise` still
    // restarts them.
    let marked = scale.warm_up + scale.lasts;
    let last = 0.7 * Scale::capacity(scale.workers) * marked.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    let is_victim = move |index: u64| index % EVERY == EVERY - 1 && (index as f64) < last;
    let mut trial = Trial::start(scale, &plan(scale, "abort_marker")).await?;
    let load = trial.load(scale.open().marked(MARK, is_victim)).await?;
    let crashes = supervise(&mut trial).await?;
    let journal = trial.stop(load).await?;
    let victims: Vec<&Entry> = journal.entries().iter().filter(|e| is_victim(e.index)).collect();
    trial.findings.note(format!("{} marked inputs, {crashes} crashes", victims.len()));
    let others = journal.count(|e| !is_victim(e.index) && e.ending != Ending::Right);
    trial.findings.none("unmarked requests not answered 200:", others);
    let is_500 = |entry: &&&Entry| matches!(&entry.ending, Ending::Refused(r) if r.status == 500);
    let others = victims.len() - victims.iter().filter(is_500).count();
    trial.findings.none("marked requests not answered 500:", others as u64);
    let slowest = victims.iter().map(|entry| latency(entry)).max().unwrap_or_default();
    trial.findings.within("answered 500 after", slowest, 15 * SECOND);
    let runs = trial.runs(&journal)?;
    let most = victims.iter().map(|entry| runs.of(entry.index)).max().unwrap_or_default();
    trial.findings.check(most <= 3, format!("crashes of one input {most} (≤ 3)"));
    trial.findings.check(!victims.is_empty(), "marked inputs were sent");
    trial.finish().await
}

/// Restarts each crashed worker after 1 s, until 15 s after the end of the fault. Returns the
/// number of crashes.
async fn supervise(trial: &mut Trial) -> Result<u64> {
    let (until, mut crashes) = (trial.until() + 15 * SECOND, 0);
    let mut due = vec![None; trial.fleet.workers.len()];
    while Instant::now() < until {
        for (index, due) in due.iter_mut().enumerate() {
            match *due {
                None if trial.fleet.workers[index].is_gone() => {
                    crashes += 1;
                    *due = Some(Instant::now() + SECOND);
                }
                Some(at) if at <= Instant::now() => {
                    trial.fleet.kill_worker(index).await?;
                    trial.fleet.spawn_worker(index).await?;
                    *due = None;
                }
                _ => {}
            }
        }
        sleep(POLL).await;
    }
    Ok(crashes)
}

/// F08: rows that fail; then, on another fleet, devices with memory for at most 16 rows.
pub(crate) async fn failing_rows(scale: Scale) -> Result<Findings> {
    const EVERY: u64 = 100;
    let is_victim = |index: u64| index % EVERY == EVERY - 1;
    let mut trial = Trial::start(scale, &plan(scale, "fail_marker")).await?;
    let load = trial.load(scale.open_at(0.6)).await?;
    let marked = scale.open_at(0.1).marked(MARK, is_victim).start(trial.fleet.targets())?;
    sleep(scale.lasts / 2).await;
    let marked = trial.stop(marked).await?;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    let is_400 = |entry: &Entry| status(entry) == Some(400);
    let wrong_verdict = marked.count(|e| is_victim(e.index) != is_400(e));
    trial.findings.none("rows with the wrong verdict:", wrong_verdict);
    trial.findings.note(format!("{} rows failed", marked.count(is_400)));
    let (baseline, p99) = (trial.baseline(&journal), trial.p99(&journal));
    let two_batches = 2 * Duration::from_secs_f64((BATCH_MS + ROW_MS * 8.0) / 1e3);
    trial.findings.within("p99", p99, baseline + two_batches);
    let findings = trial.finish().await?;
    Ok(findings.and(no_memory(scale).await?))
}

async fn no_memory(scale: Scale) -> Result<Findings> {
    let mut plan = scale.plan();
    plan.parameters.push(("oom_marker", MARK.to_owned()));
    plan.parameters.push(("oom_rows", "16".to_owned()));
    plan.worker_flags = ["--batch".to_owned(), "32".to_owned()].into();
    let mut trial = Trial::start(scale, &plan).await?;
    let load = trial.load(scale.closed()).await?;
    // The marked load runs long enough for every worker to get the marker.
    let marked = LoadShape::closed(1).marked(MARK, |_| true).start(trial.fleet.targets())?;
    sleep(9 * SECOND).await;
    // A worker tries one row more after 50 full batches, which fails and is undone.
    let workers = trial.fleet.workers.len();
    let (mut least, mut most) = (vec![f64::INFINITY; workers], 0.0_f64);
    for _ in 0..10 {
        sleep(SECOND / 10).await;
        for (least, worker) in least.iter_mut().zip(&trial.fleet.workers) {
            let limit = Scrape::of(&worker.admin).await?.sum("batchfleet_worker_batch_limit", "");
            (*least, most) = (least.min(limit), most.max(limit));
        }
    }
    let marked = trial.stop(marked).await?;
    let settled = least.iter().all(|limit| (1.0..=16.0).contains(limit)) && most <= 17.0;
    let text = format!("N after 10 s {least:?} (≤ 16), at most {most} while it is tried (≤ 17)");
    trial.findings.check(settled, text);
    let journal = trial.stop(load).await?;
    for journal in [&marked, &journal] {
        trial.all_right(journal);
    }
    trial.findings.note(format!("p99 {}", time(p99(&journal))));
    trial.finish().await
}

fn p99(journal: &LoadJournal) -> Duration {
    quantile(journal.entries().iter().map(latency), 0.99)
}
