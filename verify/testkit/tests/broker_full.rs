//! A gateway refuses new requests while a real Redis is almost out of memory.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{sync::Arc, time::Duration};

use batchfleet_loadgen::{Echo, Length, LoadPlan, Report, Target, infer::Encoding, run};
use batchfleet_testkit::{Fleet, FleetPlan, metric};
use tokio::time::timeout;

/// The memory limit of Redis, in bytes.
const LIMIT: usize = 64 << 20;
/// The length of a value that fills Redis to about 90 % of the limit: its allocation takes 56 MiB.
const FILLER: usize = 54 << 20;

async fn load(fleet: &Fleet, requests: u64) -> Report {
    let target: Target = fleet.targets()[0].parse().unwrap();
    let echo = Echo::new("echo", "INPUT0", 1, 32, Encoding::Binary).unwrap();
    let one = LoadPlan::new(target, Arc::new(echo), 0);
    run(LoadPlan { users: 4, length: Length::Requests(requests), ..one }).await.unwrap()
}

/// Sends single requests until the gateway refuses a request as `broker_full`, or accepts one if
/// not `refused`.
async fn until_refused(fleet: &Fleet, refused: bool) {
    let changed =
        async { while load(fleet, 1).await.reasons.contains_key("503 broker_full") != refused {} };
    timeout(Duration::from_secs(20), changed).await.unwrap();
}

#[tokio::test]
async fn a_gateway_refuses_requests_while_redis_uses_80_percent_of_its_memory() {
    let fleet = Fleet::start(FleetPlan::default()).await.unwrap();
    let gateway = &fleet.gateways[0];
    fleet.redis.ask(&format!("CONFIG SET maxmemory {LIMIT}")).await.unwrap();
    let report = load(&fleet, 20).await;
    assert!(report.is_flawless(), "{report}");

    fleet.redis.ask(&format!("SETRANGE filler {} x", FILLER - 1)).await.unwrap();
    until_refused(&fleet, true).await;
    let accepted = metric(gateway, "batchfleet_gateway_accepted_total").await.unwrap();
    let report = load(&fleet, 20).await;
    assert_eq!(report.reasons.get("503 broker_full"), Some(&20), "{report}");
    let ratio = metric(gateway, "batchfleet_broker_memory_ratio").await.unwrap();
    assert!((0.8..1.0).contains(&ratio), "{ratio}");
    let accepted_after = metric(gateway, "batchfleet_gateway_accepted_total").await.unwrap();
    assert!((accepted_after - accepted).abs() < 0.5, "{accepted_after}");

    fleet.redis.ask("DEL filler").await.unwrap();
    until_refused(&fleet, false).await;
    let report = load(&fleet, 20).await;
    assert!(report.is_flawless(), "{report}");
}
