//! This build's programs on a user's own Redis: behind sentinels, and over TLS.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use batchfleet_loadgen::{Echo, Length, LoadPlan, Report, Stop, Target, infer::Encoding, run};
use batchfleet_testkit::{Certificates, Fleet, FleetPlan, Program, WatchedRedis, metric};
use tokio::{task::JoinHandle, time::sleep};

/// A load on the echo with retries after refusals.
struct SteadyLoad {
    stop: Stop,
    running: JoinHandle<Report>,
}

impl SteadyLoad {
    fn start(fleet: &Fleet) -> Self {
        let targets: Vec<Target> =
            fleet.targets().iter().map(|target| target.parse().unwrap()).collect();
        let echo = Echo::new("echo", "INPUT0", 1, 32, Encoding::Binary).unwrap();
        let one = LoadPlan::new(targets[0].clone(), Arc::new(echo), 0);
        let length = Length::Time(Duration::from_mins(1));
        let plan = LoadPlan { targets, users: 24, length, tries: 1000, ..one };
        let stop = plan.stop.clone();
        Self { stop, running: tokio::spawn(async move { run(plan).await.unwrap() }) }
    }

    /// Waits until the gateways have accepted `requests` more requests.
    async fn until_accepted(&self, fleet: &Fleet, requests: f64) {
        let enough = accepted(fleet).await + requests;
        while accepted(fleet).await < enough {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the load. Each accepted request must have got exactly one answer, the right one.
    async fn end_flawless(self, fleet: &Fleet) {
        self.stop.now();
        let report = self.running.await.unwrap();
        assert!(report.is_flawless(), "{report}");
        let accepted = accepted(fleet).await.to_string();
        assert_eq!(accepted, report.right.to_string(), "{report}");
    }
}

/// Starts a fleet on this Redis.
async fn fleet(url: &str) -> Fleet {
    let (gateways, workers) = (2, 2);
    let plan =
        FleetPlan { gateways, workers, batch_ms: 5, redis_url: Some(url), ..FleetPlan::default() };
    Fleet::start(plan).await.unwrap()
}

async fn accepted(fleet: &Fleet) -> f64 {
    let mut sum = 0.0;
    for gateway in &fleet.gateways {
        sum += metric(gateway, "batchfleet_gateway_accepted_total").await.unwrap();
    }
    sum
}

#[tokio::test]
async fn a_master_killed_under_load_costs_no_accepted_request() {
    let mut watched = WatchedRedis::start().await.unwrap();
    let fleet = fleet(&watched.url()).await;
    let load = SteadyLoad::start(&fleet);
    load.until_accepted(&fleet, 500.0).await;
    watched.master.kill();
    load.until_accepted(&fleet, 1000.0).await;
    load.end_flawless(&fleet).await;
    assert!(watched.replica.ask("ROLE").await.unwrap().contains("master"));
}

#[tokio::test]
async fn a_planned_failover_under_load_costs_no_accepted_request() {
    let watched = WatchedRedis::start().await.unwrap();
    let fleet = fleet(&watched.url()).await;
    let load = SteadyLoad::start(&fleet);
    load.until_accepted(&fleet, 500.0).await;
    watched.fail_over().await.unwrap();
    load.until_accepted(&fleet, 3000.0).await;
    load.end_flawless(&fleet).await;
    let moved = watched.replica.info("total_commands_processed").await.unwrap();
    assert!(moved > 1000, "only {moved} commands were sent to the new master");
}

#[tokio::test]
async fn a_fleet_and_its_tools_reach_redis_over_tls() {
    let certificates = Certificates::new().unwrap();
    let (_redis, at) = certificates.start_redis(true).await.unwrap();
    let path = |path: PathBuf| path.into_os_string().into_string().unwrap();
    let (ca, certificate, key) =
        (path(certificates.ca()), path(certificates.certificate()), path(certificates.key()));
    let flags = ["--redis-ca", &ca, "--redis-cert", &certificate, "--redis-key", &key];
    let url = format!("rediss://{at}");
    let plan = FleetPlan {
        gateway_flags: &flags,
        worker_flags: &flags,
        redis_url: Some(&url),
        ..FleetPlan::default()
    };
    let fleet = Fleet::start(plan).await.unwrap();
    let load = SteadyLoad::start(&fleet);
    load.until_accepted(&fleet, 500.0).await;
    load.end_flawless(&fleet).await;
    let tool = Program::named("batchfleet").unwrap().args(["set-n", "echo", "4"]);
    let status =
        tool.args(["--redis-url", &url]).args(flags).spawn().unwrap().wait().await.unwrap();
    assert!(status.success(), "{status}");
}
