//! N of a running worker adapts when its model becomes slower, and fast again.

#![expect(clippy::print_stdout, reason = "the test prints its figures")]

use std::{fs, sync::Arc, time::Duration};

use batchfleet_loadgen::{Echo, Length, LoadPlan, Stop, infer::Encoding, run};
use batchfleet_policy::{BatchMode, BatchPolicy, CostModel, QueueLoad};
use batchfleet_testkit::{Fleet, FleetPlan, Program, echo_model, metric};
use tempfile::TempDir;

/// A batch takes `slowness * (BATCH_MS + ROW_MS * rows)` milliseconds.
const BATCH_MS: u32 = 8;
const ROW_MS: u32 = 1;
const SLO: Duration = Duration::from_millis(150);
const MAX_BATCH: u32 = 64;
/// Fewer users than N: with more, requests would queue longer than the target, and N would follow
/// the queue instead of the cost.
const USERS: usize = 16;
/// N must be right within this number of batches, and stay right for as many more.
const WITHIN: u64 = 20;

/// The right N for a model of known cost.
struct RightN {
    cost: CostModel,
    policy: BatchPolicy,
}

impl RightN {
    /// For a model that takes `slowness` times the configured times.
    fn new(slowness: u32) -> Option<Self> {
        let took = |rows| Duration::from_millis(u64::from(slowness * (BATCH_MS + ROW_MS * rows)));
        let sizes = (0..=MAX_BATCH.ilog2()).map(|power| 1 << power);
        let profile: Vec<_> = sizes.map(|rows| (rows, took(rows))).collect();
        let cost = CostModel::from_profile(&profile)?;
        Some(Self { cost, policy: BatchPolicy::new(BatchMode::Auto, MAX_BATCH, SLO) })
    }

    /// The right N.
    fn n(&self) -> u32 {
        self.policy.choose(&self.cost, &QueueLoad::unknown(1)).n
    }

    /// Rows per second in batches of `n`; 0 if a request that arrives just after the start of a
    /// batch would be late.
    fn goodput(&self, n: u32) -> f64 {
        if self.cost.latency(n) * 2 > SLO { 0.0 } else { self.cost.rate(n) }
    }

    /// Whether `n` reaches 95 % of the goodput of the right N.
    fn is_met_by(&self, n: u32) -> bool {
        self.goodput(n) >= 0.95 * self.goodput(self.n())
    }
}

/// The number of batches that a worker has run, and its N.
async fn batches_and_n(worker: &Program) -> anyhow::Result<(u64, u32)> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small counts")]
    async fn count(worker: &Program, name: &str) -> anyhow::Result<u32> {
        Ok(metric(worker, name).await? as u32)
    }
    let batches = count(worker, "batchfleet_worker_batch_size_count").await?;
    Ok((batches.into(), count(worker, "batchfleet_worker_batch_limit").await?))
}

/// The number of batches from now until N is right and stays right, and the last N.
async fn batches_until_right(worker: &Program, right: &RightN) -> anyhow::Result<(u64, u32)> {
    let (start, mut n) = batches_and_n(worker).await?;
    let (mut ran, mut back) = (0, 0);
    while ran < 2 * WITHIN {
        // N may change shortly after a batch, so the last reading before the next batch counts.
        let (batches, later) = batches_and_n(worker).await?;
        let batches = batches - start;
        if batches > ran && !right.is_met_by(n) {
            back = batches;
        }
        (ran, n) = (batches, later);
    }
    Ok((back, n))
}

#[tokio::test]
async fn n_is_right_again_within_20_batches_of_a_model_that_becomes_twice_as_slow_or_fast() {
    let folder = TempDir::new().unwrap();
    let slow = folder.path().join("slow");
    let (batch_ms, row_ms) = (BATCH_MS.to_string(), ROW_MS.to_string());
    let parameters =
        [("batch_ms", &*batch_ms), ("row_ms", &*row_ms), ("slow_while", slow.to_str().unwrap())];
    echo_model(folder.path(), &parameters).unwrap();
    let plan = FleetPlan {
        serving: Some((folder.path(), "echo")),
        worker_flags: &["--slo-p99", "150ms", "--max-batch", "64"],
        ..FleetPlan::default()
    };
    let fleet = Fleet::start(plan).await.unwrap();
    let echo = Echo::new("echo", "INPUT0", 1, 32, Encoding::Binary).unwrap();
    let one = LoadPlan::new(fleet.targets()[0].parse().unwrap(), Arc::new(echo), 0);
    let stop = Stop::default();
    let length = Length::Time(Duration::from_mins(5));
    let load = tokio::spawn(run(LoadPlan { users: USERS, length, stop: stop.clone(), ..one }));

    let worker = &fleet.workers[0];
    let (fast, slower) = (RightN::new(1).unwrap(), RightN::new(2).unwrap());
    let (_, n) = batches_until_right(worker, &fast).await.unwrap();
    println!("fast: N = {n}, right is {}", fast.n());
    assert!(fast.is_met_by(n) && !slower.is_met_by(n), "{n}");

    fs::write(&slow, "").unwrap();
    let (back, n) = batches_until_right(worker, &slower).await.unwrap();
    println!("twice as slow: N = {n}, right is {}; back after {back} batches", slower.n());
    assert!((1..=WITHIN).contains(&back) && slower.is_met_by(n), "{n} after {back} batches");

    fs::remove_file(&slow).unwrap();
    let (back, n) = batches_until_right(worker, &fast).await.unwrap();
    println!("fast again: N = {n}, right is {}; back after {back} batches", fast.n());
    assert!((1..=WITHIN).contains(&back) && fast.is_met_by(n), "{n} after {back} batches");

    stop.now();
    let report = load.await.unwrap().unwrap();
    assert!(report.is_flawless(), "{report}");
}
