//! Clients that hang up, have short deadlines, or exceed their quota.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    findings::{Findings, percent},
    journal::{Ending, Entry, LoadJournal, is_right, status},
    load::LoadShape,
    runs::Runs,
    trial::{Scale, Trial},
};

const SECOND: Duration = Duration::from_secs(1);
/// Tolerance when a run is compared with a deadline: the client's clock starts before the
/// gateway's, and the run log has whole milliseconds.
const BLUR: Duration = Duration::from_millis(50);

/// A pseudo-random number between 0 and 1 for each request, the same at every call.
fn dice(index: u64) -> f64 {
    let mixed = (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31);
    let mixed = mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
    f64::from(u32::try_from(mixed).unwrap_or_default()) / f64::from(1 << 24)
}

/// F28: deadlines of 0.2 to 30 s, at 70 % of the capacity, then at 130 %, so that some requests
/// miss their deadlines.
pub(crate) async fn mixed_deadlines(scale: Scale) -> Result<Findings> {
    let deadline = |index| SECOND.mul_f64(0.2 * 150_f64.powf(dice(index)));
    let mut trial = Trial::usual(scale).await?;
    let load = trial.load(scale.open().deadline(deadline)).await?;
    sleep(scale.lasts / 2).await;
    let more = scale.open_at(0.6).deadline(deadline).start(trial.fleet.targets())?;
    sleep(scale.lasts / 2).await;
    let journal = [trial.stop(more).await?, trial.stop(load).await?];
    let (mut late, mut runs, mut wasted) = (Duration::ZERO, 0, 0);
    for journal in &journal {
        let ran = trial.runs(journal)?;
        late = late.max(latest_start(journal, &ran, deadline));
        runs += ran.count() as u64;
        let unwanted = |entry: &&Entry| !is_right(entry);
        wasted += journal.entries().iter().filter(unwanted).map(|e| ran.of(e.index)).sum::<usize>();
        let odd = |entry: &Entry| !matches!(status(entry), None | Some(503 | 504));
        trial.findings.none("neither 200, 503 nor 504:", journal.count(odd));
        let endings = |wanted| journal.count(|entry| status(entry) == Some(wanted));
        trial.findings.note(format!("{} x 503, {} x 504", endings(503), endings(504)));
    }
    trial.findings.within("latest start after its deadline", late, BLUR);
    trial.findings.at_most("wasted runs, %", percent(wasted as u64, runs), 1.0);
    trial.finish().await
}

/// The longest time from the deadline of a request to the start of its run.
fn latest_start(
    journal: &LoadJournal,
    runs: &Runs,
    deadline: impl Fn(u64) -> Duration,
) -> Duration {
    let mut sent: Vec<_> = journal.entries().iter().map(|e| (e.index, e.sent)).collect();
    sent.sort_unstable();
    let sent_at = |index| {
        let at = sent.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(sent[at].1)
    };
    let lateness = |(index, start): (u64, SystemTime)| {
        Some(journal.at(start).saturating_sub(sent_at(index)? + deadline(index)))
    };
    runs.all().filter_map(lateness).max().unwrap_or_default()
}

/// F29: half of the clients hang up at random. The loop is closed, so that requests queue long
/// enough to be abandoned.
pub(crate) async fn hanging_up(scale: Scale) -> Result<Findings> {
    let hangs_up = |index| dice(index) < 0.5;
    let hang_up = move |index: u64| hangs_up(index).then(|| dice(index ^ 0xABCD) * 0.7);
    let hang_up = move |index| hang_up(index).map(Duration::from_secs_f64);
    let mut trial = Trial::usual(scale).await?;
    let load = trial.load(scale.closed().hang_up(hang_up)).await?;
    sleep(scale.lasts).await;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    let runs = trial.runs(&journal)?;
    let left: Vec<&Entry> =
        journal.entries().iter().filter(|e| e.ending == Ending::HungUp).collect();
    let began_later = |entry: &&&Entry| {
        let first = runs.starts(entry.index).min();
        first.is_some_and(|start| journal.at(*start) > entry.done + Duration::from_millis(5))
    };
    let (all, later) = (left.len() as u64, left.iter().filter(began_later).count() as u64);
    trial.findings.check(all > 0, format!("{all} hung up"));
    trial.findings.at_most("run after hanging up, %", percent(later, all), 10.0);
    let cancelled =
        trial.gateways("batchfleet_gateway_answered_total", "outcome=\"cancelled\"").await?;
    trial.findings.note(format!("cancelled {cancelled}"));
    trial.finish().await
}

/// F27: a tenant sends 100 times its quota.
pub(crate) async fn noisy_tenant(scale: Scale) -> Result<Findings> {
    const QUOTA: f64 = 10.0;
    // SHA-256 of the API keys `noisy` and `quiet`.
    let keys = format!(
        "acd6beff7c3430bfed5d69f86c5c9e6a32ad2a27a2c2a1e8763ce08f6c3da5ec noisy rate={QUOTA}\n\
         008f0747f4e27c8462baa991a538025bcc2dd143e78422f1afbdfcd9e757a20f quiet\n"
    );
    let folder = TempDir::new()?;
    let file = folder.path().join("keys");
    fs::write(&file, keys)?;
    let mut plan = scale.plan();
    let file = file.to_str().context("an odd temporary folder")?;
    plan.gateway_flags = ["--api-keys".to_owned(), file.to_owned()].into();
    let mut trial = Trial::start(scale, &plan).await?;
    let quiet = trial.load(scale.open().key(|_| "quiet")).await?;
    let noise = LoadShape::open(100.0 * QUOTA, scale.clients).key(|_| "noisy");
    let noisy = noise.start(trial.fleet.targets())?;
    sleep(scale.lasts).await;
    let noisy = trial.stop(noisy).await?;
    let quiet = trial.stop(quiet).await?;
    let others = percent(quiet.report.right, quiet.report.sent);
    trial.findings.at_least("other tenants' requests right, %", others, 99.9);
    trial.findings.none("429 to other tenants:", quiet.count(|entry| status(entry) == Some(429)));
    let odd = |entry: &Entry| !matches!(status(entry), None | Some(429));
    trial.findings.none("neither 200 nor 429 to the noisy tenant:", noisy.count(odd));
    let refused = percent(noisy.count(|e| status(e) == Some(429)), noisy.report.sent);
    trial.findings.note(format!("429 to the noisy tenant {refused:.1} %"));
    let (baseline, p99) = (trial.baseline(&quiet), trial.p99(&quiet));
    trial.findings.within("other tenants' p99", p99, baseline.mul_f64(1.3));
    trial.finish().await
}
