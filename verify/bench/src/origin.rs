//! Throughput with and without batching: N = 1, N = 32, N = 64 and automatic N, for 100 and 5,000
//! users.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use batchfleet_loadgen::{Digits, Pace, digits, infer::Encoding};
use batchfleet_testkit::FleetPlan;

use crate::{
    files::Files,
    rig::{BenchLoad, Rig},
    table::{heading, line},
};

/// Pairs of a number of users and a number of rounds.
const USERS: [(usize, usize); 2] = [(100, 2), (5000, 1)];
/// Deadlines longer than the wait of 5,000 users at N = 1, so that no request is refused.
const PATIENT: [&str; 4] = ["--deadline", "1m", "--max-deadline", "1m"];
const MODES: [(&str, &str); 4] =
    [("one by one", "1"), ("N = 32", "32"), ("N = 64", "64"), ("auto", "auto")];

/// The benchmarked model.
pub(crate) const MODEL: &str = "digits_wide";

/// Prints the table.
pub(crate) async fn bench(files: &Files, lasts: Duration) -> Result<()> {
    let workload = workload(files)?;
    let mut rigs = Vec::new();
    for (name, batch) in MODES {
        let plan = FleetPlan {
            serving: Some((&files.models, MODEL)),
            gateway_flags: &PATIENT,
            worker_flags: &["--batch", batch],
            ..FleetPlan::default()
        };
        rigs.push(Rig::start(name, plan).await?);
    }
    heading("digits_wide through Redis");
    for (users, rounds) in USERS {
        for _ in 0..rounds {
            for rig in &rigs {
                let load =
                    BenchLoad { workload: workload.clone(), users, pace: Pace::Closed, lasts };
                let measured = rig.measure(&load).await?;
                line(&format!("{users} users, {}", rig.name), &measured);
            }
        }
    }
    Ok(())
}

/// Requests of handwritten digits with known answers.
pub(crate) fn workload(files: &Files) -> Result<Arc<Digits>> {
    Ok(Arc::new(Digits::new(MODEL, digits::read(&files.digits)?.into(), Encoding::Binary)?))
}
