//! This build's programs on a user's own Redis: behind sentinels, and over TLS.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod steady_load;

use std::path::PathBuf;

use batchfleet_testkit::{Certificates, Fleet, FleetPlan, Program, WatchedRedis};

use self::steady_load::SteadyLoad;

/// Starts a fleet on this Redis.
async fn fleet(url: &str) -> Fleet {
    let (gateways, workers) = (2, 2);
    let plan =
        FleetPlan { gateways, workers, batch_ms: 5, redis_url: Some(url), ..FleetPlan::default() };
    Fleet::start(plan).await.unwrap()
}

#[tokio::test]
async fn a_master_killed_under_load_costs_no_accepted_request() {
    let mut watched = WatchedRedis::start().await.unwrap();
    let fleet = fleet(&watched.url()).await;
    let load = SteadyLoad::start(&fleet, 1000);
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
    let load = SteadyLoad::start(&fleet, 1000);
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
    let load = SteadyLoad::start(&fleet, 1000);
    load.until_accepted(&fleet, 500.0).await;
    load.end_flawless(&fleet).await;
    let tool = Program::named("batchfleet").unwrap().args(["set-n", "echo", "4"]);
    let status =
        tool.args(["--redis-url", &url]).args(flags).spawn().unwrap().wait().await.unwrap();
    assert!(status.success(), "{status}");
}
