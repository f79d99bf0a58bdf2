//! Clients that hang up, hurry, or ask too much.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    findings::{Findings, percent},
    load::Shape,
    runs::Runs,
    seen::{Ending, Entry, Seen, is_right, status},
    stage::{Scale, Stage},
};

const SECOND: Duration = Duration::from_secs(1);
/// The client's clock starts before the gateway's, and the witness counts milliseconds.
const BLUR: Duration = Duration::from_millis(50);

/// A number between 0 and 1 that a request's number decides.
fn dice(index: u64) -> f64 {
    let mixed = (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31);
    let mixed = mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
    f64::from(u32::try_from(mixed).unwrap_or_default()) / f64::from(1 << 24)
}

/// F28: at 70 %, then half as much again, so that some cannot be in time.
pub(crate) async fn mixed_deadlines(scale: Scale) -> Result<Findings> {
    let deadline = |index| SECOND.mul_f64(0.2 * 150_f64.powf(dice(index)));
    let mut stage = Stage::usual(scale).await?;
    let load = stage.load(scale.open().deadline(deadline)).await?;
    sleep(scale.lasts / 2).await;
    let more = scale.open_at(0.6).deadline(deadline).start(stage.fleet.targets())?;
    sleep(scale.lasts / 2).await;
    let seen = [stage.stop(more).await?, stage.stop(load).await?];
    let (mut late, mut runs, mut wasted) = (Duration::ZERO, 0, 0);
    for seen in &seen {
        let ran = stage.runs(seen)?;
        late = late.max(latest_start(seen, &ran, deadline));
        runs += ran.count() as u64;
        let unwanted = |entry: &&Entry| !is_right(entry);
        wasted += seen.journal().iter().filter(unwanted).map(|e| ran.of(e.index)).sum::<usize>();
        let odd = |entry: &Entry| !matches!(status(entry), None | Some(503 | 504));
        stage.findings.none("neither 200, 503 nor 504:", seen.count(odd));
        let endings = |wanted| seen.count(|entry| status(entry) == Some(wanted));
        stage.findings.note(format!("{} x 503, {} x 504", endings(503), endings(504)));
    }
    stage.findings.within("latest start after its deadline", late, BLUR);
    stage.findings.at_most("wasted runs, %", percent(wasted as u64, runs), 1.0);
    stage.finish().await
}

/// How long after its deadline a request began to run, at worst.
fn latest_start(seen: &Seen, runs: &Runs, deadline: impl Fn(u64) -> Duration) -> Duration {
    let mut sent: Vec<_> = seen.journal().iter().map(|e| (e.index, e.sent)).collect();
    sent.sort_unstable();
    let sent_at = |index| {
        let at = sent.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(sent[at].1)
    };
    let lateness = |(index, start): (u64, SystemTime)| {
        Some(seen.at(start).saturating_sub(sent_at(index)? + deadline(index)))
    };
    runs.all().filter_map(lateness).max().unwrap_or_default()
}

/// F29: under the closed loop, where requests wait long enough to be left.
pub(crate) async fn hanging_up(scale: Scale) -> Result<Findings> {
    let patience = |index| dice(index) < 0.5;
    let hang_up = move |index: u64| patience(index).then(|| dice(index ^ 0xABCD) * 0.7);
    let hang_up = move |index| hang_up(index).map(Duration::from_secs_f64);
    let mut stage = Stage::usual(scale).await?;
    let load = stage.load(scale.closed().hang_up(hang_up)).await?;
    sleep(scale.lasts).await;
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    let runs = stage.runs(&seen)?;
    let left: Vec<&Entry> = seen.journal().iter().filter(|e| e.ending == Ending::HungUp).collect();
    let began_later = |entry: &&&Entry| {
        let first = runs.starts(entry.index).min();
        first.is_some_and(|start| seen.at(*start) > entry.done + Duration::from_millis(5))
    };
    let (all, later) = (left.len() as u64, left.iter().filter(began_later).count() as u64);
    stage.findings.check(all > 0, format!("{all} hung up"));
    stage.findings.at_most("inferred after that, %", percent(later, all), 10.0);
    let cancelled =
        stage.gateways("batchfleet_gateway_answered_total", "outcome=\"cancelled\"").await?;
    stage.findings.note(format!("cancelled {cancelled}"));
    stage.finish().await
}

/// F27
pub(crate) async fn noisy_tenant(scale: Scale) -> Result<Findings> {
    const QUOTA: f64 = 10.0;
    // The hashes of the keys `noisy` and `quiet`.
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
    let mut stage = Stage::start(scale, &plan).await?;
    let quiet = stage.load(scale.open().key(|_| "quiet")).await?;
    let noise = Shape::open(100.0 * QUOTA, scale.clients).key(|_| "noisy");
    let noisy = noise.start(stage.fleet.targets())?;
    sleep(scale.lasts).await;
    let noisy = stage.stop(noisy).await?;
    let quiet = stage.stop(quiet).await?;
    let others = percent(quiet.report.right, quiet.report.sent);
    stage.findings.at_least("others answered, %", others, 99.9);
    stage.findings.none("429 to others:", quiet.count(|entry| status(entry) == Some(429)));
    let odd = |entry: &Entry| !matches!(status(entry), None | Some(429));
    stage.findings.none("neither 200 nor 429 to it:", noisy.count(odd));
    let refused = percent(noisy.count(|e| status(e) == Some(429)), noisy.report.sent);
    stage.findings.note(format!("it was told 429 {refused:.1} % of the time"));
    let (baseline, p99) = (stage.baseline(&quiet), stage.p99(&quiet));
    stage.findings.within("others' p99", p99, baseline.mul_f64(1.3));
    stage.finish().await
}
