//! How long the engine waits between two batches, with an echo of 2 ms.

use std::{fs, sync::Arc, time::Duration};

use anyhow::Result;
use batchfleet_loadgen::Pace;
use batchfleet_testkit::FleetPlan;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    echo::{Marked, repository},
    rig::{BenchLoad, Rig},
    table::{goal, median},
};

const ROUNDS: usize = 3;
/// The histogram of the time between two batches of which the second was ready.
const GAP: &str = "batchfleet_worker_engine_gap_seconds";
/// The sum of the times of runs, and their number.
const BUSY: [&str; 2] =
    ["batchfleet_worker_batch_seconds_sum", "batchfleet_worker_batch_seconds_count"];

/// A load, and the flags of the worker.
struct Case {
    name: &'static str,
    users: usize,
    bytes: usize,
    flags: &'static [&'static str],
}

/// The engine's totals.
struct Totals {
    /// Seconds of all runs.
    busy: f64,
    /// The number of runs.
    batches: f64,
    /// Upper bounds in seconds, and the batches up to each.
    gaps: Vec<(f64, f64)>,
}

/// What was measured under one load.
struct Measured {
    /// The share of the batches that were ready when the run before ended.
    ready: f64,
    /// The median and the 90th percentile of the gap of these batches, in microseconds.
    gap: [f64; 2],
    /// The share of the time in which the model ran.
    busy: f64,
}

/// Prints the gap and the engine's use.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    println!(
        "\n| echo of 2 ms, over Redis | mean batch | batches ready in time | gap p50 µs | p90 µs | \
         engine busy |\n|---|---|---|---|---|---|"
    );
    let waiting = Case {
        name: "128 callers, 256 B, N = 16",
        users: 128,
        bytes: 256,
        flags: &["--batch", "16"],
    };
    let large = Case {
        name: "32 callers, 150 KB, N = 4",
        users: 32,
        bytes: 150_528,
        flags: &["--batch", "4"],
    };
    let cases = [
        Case { name: "64 callers, 256 B", users: 64, bytes: 256, flags: &[] },
        Case { name: "128 callers, 256 B", users: 128, bytes: 256, flags: &[] },
        large,
    ];
    let folder = slow_echo()?;
    for case in &cases {
        measure(&folder, case, lasts).await?;
    }
    let runs = measure(&folder, &waiting, lasts).await?;
    let of = |figure: fn(&Measured) -> f64| median(runs.iter().map(figure).collect());
    let (gap, busy) = (of(|run| run.gap[0]), of(|run| run.busy) * 100.0);
    println!();
    goal("gap where jobs wait, p50", &format!("{gap:.0} µs"), gap <= 40.0, "<= 40 µs");
    goal("engine busy where jobs wait", &format!("{busy:.1} %"), busy >= 95.0, ">= 95 %");
    Ok(())
}

/// A model repository with an echo that takes 2 ms.
fn slow_echo() -> Result<TempDir> {
    let folder = repository()?;
    let config = folder.path().join("echo/config.pbtxt");
    let batch_ms = "parameters { key: \"batch_ms\" value { string_value: \"2\" } }\n";
    fs::write(&config, fs::read_to_string(&config)? + batch_ms)?;
    Ok(folder)
}

/// Prints and returns what is measured under a load, several times.
async fn measure(folder: &TempDir, case: &Case, lasts: Duration) -> Result<Vec<Measured>> {
    let serving = Some((folder.path(), "echo"));
    let plan = FleetPlan { serving, worker_flags: case.flags, ..FleetPlan::default() };
    let rig = Rig::start(case.name, plan).await?;
    let workload = Arc::new(Marked::new(case.bytes)?);
    let load = BenchLoad { workload, users: case.users, pace: Pace::Closed, lasts };
    let mut runs = Vec::new();
    for _ in 0..ROUNDS {
        let (before, began) = (totals(&rig).await?, Instant::now());
        let batch = rig.measure(&load).await?.batch;
        let (after, took) = (totals(&rig).await?, began.elapsed().as_secs_f64());
        let gaps = after.gaps_since(&before);
        let of_all = gaps.last().map_or(0.0, |last| last.1) / (after.batches - before.batches);
        let run = Measured {
            ready: of_all,
            gap: [0.5, 0.9].map(|share| quantile(&gaps, share) * 1e6),
            busy: (after.busy - before.busy) / took,
        };
        let [p50, p90] = run.gap;
        println!(
            "| {} | {batch:.1} | {:.0} % | {p50:.0} | {p90:.0} | {:.1} % |",
            case.name,
            run.ready * 100.0,
            run.busy * 100.0
        );
        runs.push(run);
    }
    Ok(runs)
}

async fn totals(rig: &Rig) -> Result<Totals> {
    let text = rig.worker_metrics().await?;
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    let sum = |name| text.lines().filter(|line| line.starts_with(name)).filter_map(value).sum();
    let [busy, batches] = BUSY.map(sum);
    let bucket = |line: &str| {
        let rest = line.strip_prefix(GAP)?.strip_prefix("_bucket")?;
        let bound = rest.split("le=\"").nth(1)?.split('"').next()?;
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
        Some((bound, value(line)?))
    };
    Ok(Totals { busy, batches, gaps: text.lines().filter_map(bucket).collect() })
}

impl Totals {
    /// The gaps of the batches since an earlier reading.
    fn gaps_since(&self, before: &Self) -> Vec<(f64, f64)> {
        let earlier = before.gaps.iter().map(|gap| gap.1).chain(std::iter::repeat(0.0));
        self.gaps.iter().zip(earlier).map(|(&(bound, now), then)| (bound, now - then)).collect()
    }
}

/// The quantile of a histogram of cumulative counts, linear within a bucket; NaN without counts.
fn quantile(buckets: &[(f64, f64)], share: f64) -> f64 {
    let wanted = buckets.last().map_or(0.0, |last| last.1) * share;
    let (mut below, mut before) = (0.0, 0.0);
    for &(bound, upto) in buckets {
        if upto >= wanted && upto > before {
            return below + (bound - below) * (wanted - before) / (upto - before);
        }
        (below, before) = (bound, upto);
    }
    f64::NAN
}
