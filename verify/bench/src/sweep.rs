//! Compares automatic N with the best fixed N: goodput within the SLO of `--batch auto` and of a
//! sweep of fixed N, from light loads to three times the capacity, for models of different kinds.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use batchfleet_loadgen::{
    Digits, HttpAnswer, Pace, Prepared, Sampled, Target, Workload,
    infer::Encoding,
    model::{Metadata, SampleShape},
};
use batchfleet_testkit::FleetPlan;

use crate::{
    files::Files,
    origin,
    rig::{BenchLoad, Rig, load_average},
    table::goal,
};

const FIXED: [&str; 8] = ["1", "2", "4", "8", "16", "32", "64", "128"];
/// Loads relative to the largest throughput of any N.
const LEVELS: [f64; 6] = [0.3, 0.6, 0.9, 1.2, 1.5, 3.0];
/// Loads from this level on are more than any N can serve.
const OVERLOAD: f64 = 1.2;
/// The share of the best fixed N's goodput that automatic N reaches under overload.
const NEARLY_BEST: f64 = 0.95;
/// The latency target of the workers, and the latency limit of goodput.
const SLO: Duration = Duration::from_millis(100);
/// Largest number of concurrent users of an open loop.
const MOST: usize = 2000;
/// Relative tolerance between answers to the same input in a batch and alone.
const TOLERANCE: f64 = 0.02;

/// Prints the goodput by N for each model, and the ratio of automatic N to the best fixed N.
pub(crate) async fn bench(files: &Files, lasts: Duration) -> Result<()> {
    // The last field is the number of users of the closed loop that measures the capacity.
    for (models, model, users) in [
        (&files.models, origin::MODEL, 64),
        (&files.bench_models, "conv_small", 64),
        (&files.models, "magika", 8),
    ] {
        let rigs = rigs(models, model).await?;
        let workload = workload(files, model, &rigs[0]).await?;
        sweep(model, &rigs, BenchLoad { workload, users, pace: Pace::Closed, lasts }).await?;
    }
    Ok(())
}

async fn rigs(models: &Path, model: &str) -> Result<Vec<Rig>> {
    let slo = format!("{}ms", SLO.as_millis());
    let mut rigs = Vec::new();
    for (batch, most) in FIXED.map(|batch| (batch, batch)).into_iter().chain([("auto", "128")]) {
        let plan = FleetPlan {
            serving: Some((models, model)),
            worker_flags: &["--batch", batch, "--max-batch", most, "--slo-p99", &slo],
            ..FleetPlan::default()
        };
        rigs.push(Rig::start(batch, plan).await?);
    }
    Ok(rigs)
}

async fn workload(files: &Files, model: &str, rig: &Rig) -> Result<Arc<dyn Workload>> {
    if model == origin::MODEL {
        let digits: Arc<Digits> = origin::workload(files)?;
        return Ok(digits);
    }
    let target: Target = rig.target()?;
    let patience = Duration::from_secs(10);
    let metadata = Metadata::of(&target, model, patience).await?;
    let choice = SampleShape { rows: 1, free: 64, most: 100 };
    let mut sampled = Sampled::draw(&metadata, Encoding::Binary, 64, choice)?;
    sampled.learn(&target, patience, TOLERANCE).await?;
    Ok(Arc::new(sampled))
}

/// The requests of another workload with the SLO as deadline, so that late requests are refused or
/// dropped.
struct Hurried(Arc<dyn Workload>);

impl Workload for Hurried {
    fn request(&self, index: u64) -> Prepared {
        let mut request = self.0.request(index);
        let milliseconds = u64::try_from(SLO.as_millis()).unwrap_or(u64::MAX);
        request.headers.insert("x-request-timeout-ms", milliseconds.into());
        request
    }

    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String> {
        self.0.check(index, answer)
    }
}

async fn sweep(model: &str, rigs: &[Rig], closed: BenchLoad) -> Result<()> {
    let mut capacity = 0.0_f64;
    for rig in rigs {
        let measured = rig.measure(&closed).await?;
        capacity = capacity.max(measured.report.rate());
    }
    println!("\n{model}: at most {capacity:.0} req/s; goodput within {SLO:?} by N");
    println!(
        "| offered/s | {} | auto | auto/best | mean batch of auto | wrong | load avg |",
        FIXED.join(" | ")
    );
    println!("|{}", "---|".repeat(FIXED.len() + 6));
    let mut worst = f64::INFINITY;
    for level in LEVELS {
        let per_second = capacity * level;
        let workload = Arc::new(Hurried(closed.workload.clone()));
        let pace = Pace::Open { per_second };
        let load = BenchLoad { workload, users: MOST, pace, ..closed };
        let (mut goodputs, mut batch, mut wrong) = (Vec::new(), 0.0, 0);
        for rig in rigs {
            let measured = rig.measure(&load).await?;
            goodputs.push(measured.report.goodput(SLO));
            wrong += measured.report.wrong;
            batch = measured.batch;
        }
        let auto = goodputs.pop().unwrap_or_default();
        let best = goodputs.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        if level > OVERLOAD {
            worst = worst.min(auto / best);
        }
        let fixed: Vec<String> = goodputs.iter().map(|goodput| format!("{goodput:.0}")).collect();
        println!(
            "| {per_second:.0} | {} | {auto:.0} | {:.2} | {batch:.1} | {wrong} | {} |",
            fixed.join(" | "),
            auto / best,
            load_average()
        );
    }
    let figure = format!("{:.0} %", worst * 100.0);
    let bound = format!(">= {:.0} %", NEARLY_BEST * 100.0);
    println!();
    let what = format!("{model}: auto over the best fixed N at 1.5 and 3 times the capacity");
    goal(&what, &figure, worst >= NEARLY_BEST, &bound);
    Ok(())
}
