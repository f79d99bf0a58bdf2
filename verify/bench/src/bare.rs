//! The CPU cost of a batched answer relative to the model alone, and the throughput of batches
//! relative to one request at a time.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use batchfleet_loadgen::Pace;
use batchfleet_testkit::FleetPlan;

use crate::{
    files::Files,
    origin::{MODEL, workload},
    rig::{BenchLoad, Measurement, Rig},
    table::{goal, heading, line, median},
};

const ROUNDS: usize = 3;
/// How long the model runs alone in each round.
const ALONE: Duration = Duration::from_secs(2);

/// Prints the cost and the gain for 100 and 1,000 clients.
pub(crate) async fn bench(files: &Files, lasts: Duration) -> Result<()> {
    let workload = workload(files)?;
    let plan = FleetPlan { serving: Some((&files.models, MODEL)), ..FleetPlan::default() };
    let auto = Rig::start("auto", plan.clone()).await?;
    let plan = FleetPlan { worker_flags: &["--batch", "1"], ..plan };
    let one = Rig::start("one by one", plan).await?;
    heading("digits_wide through Redis");
    let mut verdicts = Vec::new();
    for users in [100, 1000] {
        let load = BenchLoad { workload: workload.clone(), users, pace: Pace::Closed, lasts };
        let (mut costs, mut gains) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let [one, auto] = [measure(&one, &load).await?, measure(&auto, &load).await?];
            let alone = alone(files, auto.batch)?;
            println!(
                "| the model alone, {:.0} rows | | | | | | | | {alone:.1} | | | |",
                auto.batch
            );
            costs.push(auto.cpu.sum() / alone);
            gains.push(auto.report.rate() / one.report.rate());
        }
        verdicts.push((users, median(costs), median(gains)));
    }
    println!();
    for (users, cost, gain) in verdicts {
        let what = format!("CPU per answer over the model alone, {users} clients");
        goal(&what, &format!("{cost:.2}"), cost <= 1.15, "<= 1.15");
        let what = format!("throughput over one by one, {users} clients");
        goal(&what, &format!("{gain:.1}"), gain >= 9.0, ">= 9");
    }
    Ok(())
}

async fn measure(rig: &Rig, load: &BenchLoad) -> Result<Measurement> {
    let measured = rig.measure(load).await?;
    line(&format!("{} users, {}", load.users, rig.name), &measured);
    Ok(measured)
}

/// CPU time of the model alone in batches of `rows` rows, in microseconds per row.
fn alone(files: &Files, rows: f64) -> Result<f64> {
    let model = files.models.join(MODEL).join("1/model.onnx");
    let (rows, seconds) = (format!("{rows:.0}"), ALONE.as_secs().to_string());
    let printed = example("bare", files, &model, &[&rows, &seconds])?;
    printed.trim().parse().with_context(|| format!("bare printed {printed:?}"))
}

/// Runs an example of the worker on a model without Batchfleet; returns what it prints.
pub(crate) fn example(
    name: &str,
    files: &Files,
    model: &Path,
    arguments: &[&str],
) -> Result<String> {
    let program = std::env::current_exe()?.with_file_name("examples").join(name);
    ensure!(
        program.exists(),
        "{} is missing: run `cargo build --release -p batchfleet-worker --examples`",
        program.display()
    );
    let mut command = Command::new(program);
    let run = command.arg(&files.onnxruntime).arg(model).args(arguments).output()?;
    ensure!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
}
