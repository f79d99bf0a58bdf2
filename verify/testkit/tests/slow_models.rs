//! Models that are slower than their latency target: workers reach the rate that the simulator
//! promises, and the rate of the best fixed N.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "the tests print their figures")]

use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

use batchfleet_loadgen::{Echo, Length, LoadError, LoadPlan, Report, Stop, infer::Encoding, run};
use batchfleet_simulator::{Curve, goals::slow};
use batchfleet_testkit::{Fleet, FleetPlan, Program, metric, named_echo_model};
use tempfile::TempDir;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};

/// Users of each model. Each sends its next request after the answer to the last.
const USERS: u32 = 100;
const MAX_BATCH: u32 = 64;
/// The worker's default of `--max-batch-time`.
const MAX_BATCH_TIME: Duration = Duration::from_secs(10);
/// Batches before a measurement, in which the worker learns how soon requests follow answers, and during it.
const FIRST: f64 = 12.0;
const MEASURED: f64 = 12.0;
/// Models whose single row takes longer are scaled down, so that the tests take seconds.
const LONGEST_ROW_MS: f64 = 1000.0;

/// A model of the simulator as an echo: its name, and its curve as text.
fn scaled(index: usize, model: &slow::Model) -> (String, String) {
    let curve: Curve = model.curve.parse().unwrap();
    let ms = |rows| curve.seconds(rows) * 1e3;
    let scale = (LONGEST_ROW_MS / ms(1)).min(1.0);
    let mut points = String::new();
    for rows in 1..=MAX_BATCH {
        let comma = if rows > 1 { "," } else { "" };
        write!(points, "{comma}{rows}={:.3}", ms(rows) * scale).unwrap();
    }
    (format!("model{index}"), points)
}

fn write_model(repository: &Path, name: &str, curve: &str) {
    named_echo_model(repository, name, MAX_BATCH, &[("curve_ms", curve)]).unwrap();
}

/// A load of [`USERS`] users on one model of the fleet, until it is stopped.
struct Load(Stop, JoinHandle<Result<Report, LoadError>>);

impl Load {
    fn on(fleet: &Fleet, model: &str) -> Self {
        let echo = Echo::new(model, "INPUT0", 1, 32, Encoding::Binary).unwrap();
        let one = LoadPlan::new(fleet.targets()[0].parse().unwrap(), Arc::new(echo), 0);
        let stop = Stop::default();
        let (users, length) = (USERS as usize, Length::Time(Duration::from_mins(10)));
        let plan = LoadPlan { users, length, stop: stop.clone(), ..one };
        Self(stop, tokio::spawn(run(plan)))
    }

    async fn end(self) {
        self.0.now();
        let report = self.1.await.unwrap().unwrap();
        assert!(report.is_flawless(), "{report}");
    }
}

/// Rows per second of a model.
#[derive(Clone, Copy)]
struct Rate {
    /// While batches ran. A busy machine delays programs between batches, but not the batches of an
    /// echo, which sleeps.
    running: f64,
    /// From the end of one batch to the end of another.
    overall: f64,
}

/// Measures the rate of a model over whole batches.
async fn rate(worker: &Program, model: &str) -> Rate {
    let read = async |name: &str| {
        let series = format!("batchfleet_worker_{name}{{model=\"{model}\",version=\"1\"}}");
        metric(worker, &series).await.unwrap()
    };
    let mut pace = interval(Duration::from_millis(10));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = None;
    loop {
        pace.tick().await;
        let batches = read("batch_size_count").await;
        if batches < FIRST {
            continue;
        }
        let (rows, running) = (read("batch_size_sum").await, read("batch_seconds_sum").await);
        let (at, before, ran, began) =
            *first.get_or_insert((batches, rows, running, Instant::now()));
        if batches >= at + MEASURED {
            let rows = rows - before;
            let overall = rows / began.elapsed().as_secs_f64();
            return Rate { running: rows / (running - ran), overall };
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rates_of_slow_models_are_as_simulated() {
    let folder = TempDir::new().unwrap();
    let models: Vec<_> =
        slow::models().iter().enumerate().map(|(index, model)| scaled(index, model)).collect();
    let mut flags = vec!["--slo-p99", "300ms"];
    for (name, curve) in &models {
        write_model(folder.path(), name, curve);
        flags.extend(["--model", name]);
    }
    let plan = FleetPlan {
        serving: Some((folder.path(), "model0")),
        worker_flags: &flags,
        ..FleetPlan::default()
    };
    let fleet = Arc::new(Fleet::start(plan).await.unwrap());
    let mut rates = Vec::new();
    for (name, _) in &models {
        let (fleet, name) = (Arc::clone(&fleet), name.clone());
        rates.push(tokio::spawn(async move {
            let load = Load::on(&fleet, &name);
            let rate = rate(&fleet.workers[0], &name).await;
            load.end().await;
            rate
        }));
    }
    for (((_, curve), model), rate) in models.iter().zip(slow::models()).zip(rates) {
        let rate = rate.await.unwrap();
        let (curve, slo) = (curve.parse().unwrap(), Duration::from_millis(300));
        let (outcome, _) = slow::closed_loop(&curve, USERS, slo, MAX_BATCH_TIME, None).unwrap();
        let simulated = outcome.rate();
        let Rate { running, overall } = rate;
        println!(
            "{}: {running:.1}/s while batches ran, {overall:.1}/s overall, {simulated:.1}/s simulated",
            model.name
        );
        let off = (running / simulated - 1.0).abs();
        assert!(off <= 0.05, "{}: {running:.1}/s for {simulated:.1}/s", model.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_reaches_the_rate_of_the_best_fixed_n_whatever_the_target() {
    let folder = TempDir::new().unwrap();
    let (name, curve) = scaled(0, &slow::models()[0]);
    write_model(folder.path(), &name, &curve);
    let curve: Curve = curve.parse().unwrap();
    let simulated = |n: u32| {
        let outcome = slow::closed_loop(&curve, USERS, MAX_BATCH_TIME, MAX_BATCH_TIME, Some(n));
        outcome.map_or(0.0, |(outcome, _)| outcome.rate())
    };
    let best = (1..=MAX_BATCH).max_by(|&a, &b| simulated(a).total_cmp(&simulated(b))).unwrap();
    let best = best.to_string();
    let mut rates = Vec::new();
    // All run at the same time, so that all have the same machine.
    for flags in [
        ["--batch", &*best],
        ["--slo-p99", "50ms"],
        ["--slo-p99", "300ms"],
        ["--slo-p99", "1200ms"],
        ["--slo-p99", "5s"],
    ] {
        let serving = Some((folder.path(), &*name));
        let plan = FleetPlan { serving, worker_flags: &flags, ..FleetPlan::default() };
        let fleet = Fleet::start(plan).await.unwrap();
        let (name, flags) = (name.clone(), flags.join(" "));
        rates.push(tokio::spawn(async move {
            let load = Load::on(&fleet, &name);
            let rate = rate(&fleet.workers[0], &name).await;
            load.end().await;
            (flags, rate)
        }));
    }
    let mut measured = Vec::new();
    for rate in rates {
        measured.push(rate.await.unwrap());
    }
    let (_, fixed) = measured[0];
    for (flags, Rate { running, overall }) in &measured {
        let percent = 100.0 * running / fixed.running;
        println!("{flags}: {percent:.1} % of the best fixed N; {overall:.1}/s overall");
        assert!(percent >= 95.0, "{flags}: {running:.1}/s of {:.1}/s", fixed.running);
    }
}
