//! `batchfleet explain`, and `batchfleet set-n` on a fleet under load.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{process::Output, sync::Arc};

use batchfleet_loadgen::{Echo, Length, LoadPlan, infer::Encoding, run};
use batchfleet_testkit::{Fleet, FleetPlan, metric};
use tokio::process::Command;

async fn tool(arguments: &[&str]) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_batchfleet");
    let output = Command::new(program).args(arguments).output().await.unwrap();
    let Output { status, stdout, stderr } = output;
    let text = [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (status.code(), text)
}

#[tokio::test]
async fn a_published_n_is_adopted_by_all_workers_under_load_and_explained() {
    let plan = FleetPlan { workers: 2, batch_ms: 10, ..FleetPlan::default() };
    let fleet = Fleet::start(plan).await.unwrap();
    let (url, redis) = (fleet.targets()[0].as_str(), fleet.redis.url());
    let echo = Echo::new("echo", "INPUT0", 1, 32, Encoding::Binary).unwrap();
    let plan = LoadPlan {
        users: 16,
        length: Length::Requests(4000),
        ..LoadPlan::new(url.parse().unwrap(), Arc::new(echo), 0)
    };
    let load = tokio::spawn(run(plan));

    let (status, output) = tool(&["set-n", "echo", "3", "--redis-url", &redis]).await;
    assert_eq!(status, Some(0), "{output}");
    assert_eq!(output.matches("N = 3 (published)").count(), 2, "{output}");
    for worker in &fleet.workers {
        let n = metric(worker, "batchfleet_worker_batch_limit").await.unwrap();
        assert!((n - 3.0).abs() < 0.5, "{n}");
    }
    // The gateway reads announcements a few times per second.
    let explained = loop {
        let (status, output) = tool(&["explain", "echo", "--url", url]).await;
        assert_eq!(status, Some(0), "{output}");
        if output.contains("N = 3: it was published for all workers") {
            break output;
        }
    };
    for part in ["2 live", "L(b)", "last batches, latest first:", "N = 3, released because: "] {
        assert!(explained.contains(part), "{part} in {explained}");
    }

    let (status, output) = tool(&["set-n", "echo", "own", "--redis-url", &redis]).await;
    assert_eq!((status, output.matches("published)").count()), (Some(0), 0), "{output}");
    assert!(load.await.unwrap().unwrap().is_flawless());
}

#[tokio::test]
async fn a_model_without_workers_is_an_error() {
    let fleet = Fleet::start(FleetPlan::default()).await.unwrap();
    let (url, redis) = (fleet.targets()[0].as_str(), fleet.redis.url());
    let (status, output) = tool(&["explain", "nope", "--url", url]).await;
    assert_eq!(status, Some(64), "{output}");
    assert!(output.contains("unknown model: 'nope'"), "{output}");
    let (status, output) = tool(&["set-n", "nope", "3", "--redis-url", &redis]).await;
    assert_eq!(status, Some(1), "{output}");
    assert!(output.contains("no live worker serves \"nope\""), "{output}");
    let (status, output) = tool(&["set-n", "echo", "none"]).await;
    assert_eq!(status, Some(64), "{output}");
    assert!(output.contains("auto, own or a number of rows from 1"), "{output}");
}
