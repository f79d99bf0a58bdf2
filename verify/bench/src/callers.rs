//! Few clients that send their next request as soon as they have an answer, and a model whose batches take
//! as long whatever their rows: the latency relative to the time of a batch.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use batchfleet_loadgen::{Echo, Pace, infer::Encoding};
use batchfleet_testkit::{FleetPlan, named_echo_model};
use tempfile::TempDir;

use crate::{
    rig::{BenchLoad, Rig, latency_ms},
    table::{goal, heading, line},
};

/// The time of a batch in milliseconds.
const BATCH_MS: f64 = 20.0;
const MAX_BATCH: u32 = 64;
const CLIENTS: [usize; 3] = [4, 16, 64];
/// Time for the worker to learn how soon requests follow answers.
const WARM_UP: Duration = Duration::from_secs(1);

/// Prints rate and latency for several numbers of clients.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    let folder = TempDir::new()?;
    named_echo_model(folder.path(), "echo", MAX_BATCH, &[("batch_ms", &BATCH_MS.to_string())])?;
    let plan = FleetPlan { serving: Some((folder.path(), "echo")), ..FleetPlan::default() };
    let rig = Rig::start("callers", plan).await?;
    let workload = Arc::new(Echo::new("echo", "INPUT0", 1, 32, Encoding::Binary)?);
    heading(&format!("echo through Redis, {BATCH_MS} ms a batch, closed loop"));
    let mut all = Vec::new();
    for users in CLIENTS {
        let load = |lasts| {
            let workload = workload.clone();
            BenchLoad { workload, users, pace: Pace::Closed, lasts }
        };
        rig.measure(&load(WARM_UP)).await?;
        let measured = rig.measure(&load(lasts)).await?;
        line(&format!("{users} clients"), &measured);
        ensure!(measured.errors() == 0, "not all answers are right: {}", measured.report);
        all.push((users, latency_ms(&measured.report, 0.5) / BATCH_MS));
    }
    println!();
    for (users, over) in all {
        let what = format!("p50 over the time of a batch, {users} clients");
        goal(&what, &format!("{over:.2}"), over <= 1.25, "<= 1.25");
    }
    Ok(())
}
