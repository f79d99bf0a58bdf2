//! Models whose batches take longer when their size changes, as convolutions on a GPU do: a worker
//! notices, runs all batches at one size, and announces what it can do.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "the tests print their figures")]

use std::{sync::Arc, time::Duration};

use batchfleet_loadgen::{Echo, Length, LoadPlan, Pace, Report, infer::Encoding, run};
use batchfleet_testkit::{Fleet, FleetPlan, metric, named_echo_model};
use tempfile::TempDir;

/// A batch of b rows takes `BATCH_MS + ROW_MS * b` milliseconds.
const BATCH_MS: f64 = 20.0;
const ROW_MS: f64 = 0.4;
const MAX_BATCH: u32 = 64;
const RATE: f64 = 500.0;
/// Users, of which an idle one sends each request.
const USERS: usize = 400;
const LENGTH: Duration = Duration::from_secs(5);

/// A worker under load.
struct Seen {
    report: Report,
    n: f64,
    gain: f64,
    capacity: f64,
    size_change: f64,
}

impl Seen {
    /// L(N) without a change of size, in seconds.
    fn latency_of_n(&self) -> f64 {
        (BATCH_MS + ROW_MS * self.n) / 1e3
    }
}

/// Serves a model whose changes of size take this time, and loads it.
async fn load(switch_ms: &str, per_second: f64) -> Seen {
    let folder = TempDir::new().unwrap();
    let (batch_ms, row_ms) = (BATCH_MS.to_string(), ROW_MS.to_string());
    let parameters = [("batch_ms", &*batch_ms), ("row_ms", &*row_ms), ("switch_ms", switch_ms)];
    named_echo_model(folder.path(), "echo", MAX_BATCH, &parameters).unwrap();
    let plan = FleetPlan { serving: Some((folder.path(), "echo")), ..FleetPlan::default() };
    let fleet = Fleet::start(plan).await.unwrap();
    let echo = Echo::new("echo", "INPUT0", 1, 32, Encoding::Binary).unwrap();
    let one = LoadPlan::new(fleet.targets()[0].parse().unwrap(), Arc::new(echo), 0);
    let (pace, length) = (Pace::Open { per_second }, Length::Time(LENGTH));
    let warm_up = Duration::from_secs(1);
    let report = run(LoadPlan { users: USERS, pace, length, warm_up, ..one }).await.unwrap();
    assert!(report.is_flawless(), "{report}");
    let read = async |name: &str| {
        metric(&fleet.workers[0], &format!("batchfleet_worker_{name}")).await.unwrap()
    };
    let seen = Seen {
        n: read("batch_limit_full_load").await,
        gain: read("slowdown_ratio").await,
        capacity: read("capacity_rows_per_second").await,
        size_change: read("size_change_seconds").await,
        report,
    };
    println!(
        "{switch_ms} ms, {per_second}/s: {:.1} ms measured, N = {}, p50 {:.1?}, p99 {:.1?}, L(N) {:.1} \
         ms, gain {:.2}, {:.0} rows/s announced",
        seen.size_change * 1e3,
        seen.n,
        seen.report.latency(0.5),
        seen.report.latency(0.99),
        seen.latency_of_n() * 1e3,
        seen.gain,
        seen.capacity
    );
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_run_at_one_size_if_changes_are_expensive() {
    for (switch_ms, seconds) in [("20", 0.020), ("53", 0.053)] {
        let seen = load(switch_ms, RATE).await;
        assert!((seen.size_change / seconds - 1.0).abs() < 0.3, "{}", seen.size_change);
        // The latency depends on what else the machine does; `make goals` simulates it.
        let latency = seen.latency_of_n();
        assert!(seen.gain <= 1.5, "gain {:.2}", seen.gain);
        let truth = seen.n / latency;
        assert!(seen.capacity >= 0.7 * truth, "{:.0} of {truth:.0} rows/s", seen.capacity);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cheap_changes_are_neither_avoided_at_any_price_nor_taken_for_a_slower_model() {
    for switch_ms in ["0", "6"] {
        let seen = load(switch_ms, RATE / 2.0).await;
        assert!(seen.gain <= 1.5, "gain {:.2}", seen.gain);
        let truth = seen.n / seen.latency_of_n();
        assert!(seen.capacity >= 0.7 * truth, "{:.0} of {truth:.0} rows/s", seen.capacity);
        assert!((seen.size_change > 0.0) == (switch_ms == "6"), "{}", seen.size_change);
    }
}
