//! A new version of a model takes over from the old one under load.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "the tests print their figures")]

use std::{fs, sync::Arc, time::Duration};

use batchfleet_loadgen::{Echo, Length, LoadPlan, Pace, Stop, Target, infer::Encoding, run};
use batchfleet_testkit::{Fleet, FleetPlan, Program, echo_model, metric};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

/// A worker runs four rows in 100 ms: 40 rows per second.
const BATCH_MS: &str = "100";
const WORKER: &[&str] = &["--batch", "4"];
/// 70 % of the capacity of three workers.
const PER_SECOND: f64 = 84.0;
/// Number of rows after which the test judges which version serves the load.
const PROOF: f64 = 200.0;

/// The number of rows that these workers have run.
async fn rows(workers: &[Program]) -> f64 {
    let mut sum = 0.0;
    for worker in workers {
        sum += metric(worker, "batchfleet_worker_batch_size_sum").await.unwrap();
    }
    sum
}

/// Waits until these workers have run `more` rows.
async fn ran(workers: &[Program], more: f64) {
    let start = rows(workers).await;
    let more = async { while rows(workers).await < start + more {} };
    timeout(Duration::from_mins(1), more).await.unwrap();
}

#[tokio::test]
async fn a_new_version_gets_the_load_once_it_has_the_capacity_and_no_request_is_refused() {
    let folder = TempDir::new().unwrap();
    echo_model(folder.path(), &[("batch_ms", BATCH_MS)]).unwrap();
    // If the load moved to a single worker, requests would soon exceed this deadline.
    let plan = FleetPlan {
        gateways: 2,
        gateway_flags: &["--deadline", "2s"],
        workers: 3,
        worker_flags: WORKER,
        serving: Some((folder.path(), "echo")),
        ..FleetPlan::default()
    };
    let mut fleet = Fleet::start(plan).await.unwrap();
    let targets: Vec<Target> = fleet.targets().iter().map(|one| one.parse().unwrap()).collect();
    let echo = Echo::new("echo", "INPUT0", 1, 32, Encoding::Binary).unwrap();
    let one = LoadPlan::new(targets[0].clone(), Arc::new(echo), 0);
    let stop = Stop::default();
    let load = tokio::spawn(run(LoadPlan {
        targets,
        users: 400,
        pace: Pace::Open { per_second: PER_SECOND },
        length: Length::Time(Duration::from_mins(5)),
        stop: stop.clone(),
        ..one
    }));
    ran(&fleet.workers, PROOF).await;

    // Workers started from here on serve version 2.
    fs::create_dir(folder.path().join("echo/2")).unwrap();
    let mut old: Vec<_> = fleet.workers.drain(..).collect();
    for workers in 1..=2 {
        fleet.add_worker(WORKER).await.unwrap();
        let warm_up = rows(&fleet.workers).await;
        ran(&old, PROOF).await;
        let took = rows(&fleet.workers).await - warm_up;
        assert!(took < 0.5, "{workers} workers of version 2 got {took} requests");
    }
    let began = Instant::now();
    fleet.add_worker(WORKER).await.unwrap();
    ran(&fleet.workers, 1.0).await;
    println!("three workers of version 2 got the load within {:.1?}", began.elapsed());
    ran(&fleet.workers, PROOF).await;
    let before = rows(&old).await;
    ran(&fleet.workers, PROOF).await;
    let after = rows(&old).await;
    assert!((after - before).abs() < 0.5, "version 1 got {} requests more", after - before);

    for worker in &mut old {
        let status = worker.terminate().await.unwrap();
        assert!(status.success(), "{status}");
    }
    ran(&fleet.workers, PROOF).await;
    stop.now();
    let report = load.await.unwrap().unwrap();
    println!("{report}");
    assert!(report.is_flawless(), "{report}");
}
