//! Small clients alone, and beside one client whose requests have many rows.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use batchfleet_loadgen::{Echo, Pace, infer::Encoding};
use batchfleet_testkit::{FleetPlan, echo_model};
use tempfile::TempDir;

use crate::{
    rig::{BenchLoad, Rig, latency_ms},
    table::{goal, heading, line},
};

/// Clients with one row in each request.
const SMALL: usize = 4;
/// Rows in each request of the large client.
const ROWS: u64 = 32;
/// Bytes of a row.
const ROW: u64 = 64;
/// Milliseconds of a batch, and of each of its rows: those of a small text encoder and 128 tokens.
const TIMES: [(&str, &str); 2] = [("batch_ms", "1"), ("row_ms", "5.5")];
/// The smallest share of their rate alone that the small clients keep.
const LEAST_SHARE: f64 = 0.25;

/// Prints the rate and latency of the small clients.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    let folder = TempDir::new()?;
    echo_model(folder.path(), &TIMES)?;
    let serving = Some((folder.path(), "echo"));
    let rig = Rig::start("large", FleetPlan { serving, ..FleetPlan::default() }).await?;
    let load = |rows, users| -> Result<BenchLoad> {
        let workload = Arc::new(Echo::new("echo", "INPUT0", rows, ROW, Encoding::Binary)?);
        Ok(BenchLoad { workload, users, pace: Pace::Closed, lasts })
    };
    let (small, large) = (load(1, SMALL)?, load(ROWS, 1)?);
    heading("small clients and a large one");
    let alone = rig.measure(&small).await?;
    line(&format!("{SMALL} clients of 1 row, alone"), &alone);
    let (beside, of_large) = tokio::try_join!(rig.measure(&small), rig.measure(&large))?;
    line(&format!("{SMALL} clients of 1 row, beside"), &beside);
    line(&format!("1 client of {ROWS} rows"), &of_large);
    let share = beside.report.rate() / alone.report.rate().max(f64::MIN_POSITIVE);
    let p50 = [&alone, &beside].map(|measured| latency_ms(&measured.report, 0.5));
    println!();
    goal(
        "rate of the small clients beside the large one",
        &format!(
            "{:.0} % of their rate alone, p50 {:.0} instead of {:.0} ms",
            share * 100.0,
            p50[1],
            p50[0]
        ),
        share >= LEAST_SHARE,
        &format!(">= {:.0} %", LEAST_SHARE * 100.0),
    );
    Ok(())
}
