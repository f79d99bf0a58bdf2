//! A model whose batches take longer when their number of rows changes, as convolutions on a GPU do: the
//! latency, the gain and the announced capacity of a worker that runs it.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use batchfleet_loadgen::{Echo, Pace, infer::Encoding};
use batchfleet_testkit::{FleetPlan, named_echo_model};
use tempfile::TempDir;

use crate::{
    rig::{BenchLoad, Rig, latency_ms},
    table::{goal, heading, line},
};

/// A batch of b rows takes `BATCH_MS` + `ROW_MS` · b milliseconds, and this much more after a change.
const BATCH_MS: f64 = 20.0;
const ROW_MS: f64 = 0.4;
const CHANGE_MS: [&str; 2] = ["20", "53"];
const MAX_BATCH: u32 = 64;
const PER_SECOND: f64 = 1000.0;
/// Connections, of which an idle one sends each request.
const USERS: usize = 1000;

/// Prints the figures for both costs of a change.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    heading(&format!("echo through Redis, {PER_SECOND} requests/s"));
    let mut all = Vec::new();
    for change_ms in CHANGE_MS {
        all.push((change_ms, measure(change_ms, lasts).await?));
    }
    println!();
    for (change_ms, [p99, gain, capacity]) in all {
        let what = |figure| format!("a change takes {change_ms} ms: {figure}");
        goal(&what("p99 over L(N)"), &format!("{p99:.1}"), p99 <= 3.0, "<= 3");
        goal(&what("gain"), &format!("{gain:.2}"), gain <= 1.5, "<= 1.5");
        let figure = format!("{capacity:.2}");
        goal(&what("announced over true capacity"), &figure, capacity >= 0.7, ">= 0.7");
    }
    Ok(())
}

/// The 99th percentile as a multiple of L(N), the gain, and the share of the capacity that is announced.
async fn measure(change_ms: &str, lasts: Duration) -> Result<[f64; 3]> {
    let folder = TempDir::new()?;
    let (batch_ms, row_ms) = (BATCH_MS.to_string(), ROW_MS.to_string());
    let parameters = [("batch_ms", &*batch_ms), ("row_ms", &*row_ms), ("switch_ms", change_ms)];
    named_echo_model(folder.path(), "echo", MAX_BATCH, &parameters)?;
    let plan = FleetPlan { serving: Some((folder.path(), "echo")), ..FleetPlan::default() };
    let rig = Rig::start(change_ms, plan).await?;
    let workload = Arc::new(Echo::new("echo", "INPUT0", 1, 32, Encoding::Binary)?);
    let pace = Pace::Open { per_second: PER_SECOND };
    let measured = rig.measure(&BenchLoad { workload, users: USERS, pace, lasts }).await?;
    line(&format!("a change takes {change_ms} ms"), &measured);
    ensure!(measured.errors() == 0, "not all answers are right: {}", measured.report);
    let of_worker =
        async |name: &str| rig.worker_metric(&format!("batchfleet_worker_{name}")).await;
    let n = of_worker("batch_limit_full_load").await?;
    let latency = BATCH_MS + ROW_MS * n;
    let capacity = of_worker("capacity_rows_per_second").await? / (n / latency * 1e3);
    let gain = of_worker("slowdown_ratio").await?;
    Ok([latency_ms(&measured.report, 0.99) / latency, gain, capacity])
}
