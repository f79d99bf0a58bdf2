//! Fleets over several independent Redises.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod steady_load;

use std::fs;

use batchfleet_testkit::{Fleet, FleetPlan, RedisServer, metric};

use self::steady_load::SteadyLoad;

/// How many jobs this Redis has got.
async fn jobs(redis: &RedisServer) -> u64 {
    let stats = redis.ask("INFO commandstats").await.unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_xadd:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn one_of_three_redises_killed_under_load_costs_no_request() {
    let mut redises = Vec::new();
    for _ in 0..3 {
        redises.push(RedisServer::start().await);
    }
    let urls: Vec<_> = redises.iter().map(RedisServer::url).collect();
    let urls = urls.join(" ");
    let fleet = Fleet::start(FleetPlan::over_shards(&urls)).await.unwrap();
    let load = SteadyLoad::start(&fleet, 1000);
    load.until_accepted(&fleet, 500.0).await;
    let mut busiest = 0;
    for number in 1..redises.len() {
        if jobs(&redises[number]).await > jobs(&redises[busiest]).await {
            busiest = number;
        }
    }
    redises.remove(busiest).kill();
    load.until_accepted(&fleet, 3000.0).await;
    load.end_flawless(&fleet).await;
    let mut others = 0;
    for redis in &redises {
        others += jobs(redis).await;
    }
    assert!(others > 1000, "only {others} jobs were sent to the other Redises");
}

#[tokio::test]
async fn programs_start_without_one_redis_and_use_it_once_it_comes() {
    let (mut late, early) = (RedisServer::start().await, RedisServer::start().await);
    late.kill();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("urls");
    fs::write(&file, [late.url(), early.url()].join("\n")).unwrap();
    // So few workers use the first Redis only, if it answers.
    let plan =
        FleetPlan { workers: 2, batch_ms: 5, redis_url_file: Some(&file), ..FleetPlan::default() };
    let fleet = Fleet::start(plan).await.unwrap();
    let load = SteadyLoad::start(&fleet, 1000);
    load.until_accepted(&fleet, 500.0).await;
    assert!(jobs(&early).await > 0);
    let away = async || metric(&fleet.gateways[0], "batchfleet_broker_away").await.unwrap();
    assert_eq!(away().await.to_string(), "1");
    late.restart().await;
    while jobs(&late).await < 500 {
        load.until_accepted(&fleet, 100.0).await;
    }
    assert_eq!(away().await.to_string(), "0");
    load.end_flawless(&fleet).await;
}
