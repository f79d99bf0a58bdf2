//! Fleets over a Redis Cluster.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod steady_load;

use batchfleet_testkit::{Fleet, FleetPlan, RedisCluster};

use self::steady_load::SteadyLoad;

#[tokio::test]
async fn slots_that_move_to_and_fro_under_load_cost_no_request() {
    let cluster = RedisCluster::start(3).await;
    let url = cluster.url(4);
    let fleet = Fleet::start(FleetPlan::over_shards(&url)).await.unwrap();
    let load = SteadyLoad::start(&fleet, 1000);
    load.until_accepted(&fleet, 500.0).await;
    // The slots of the partitions 0 and 1, at the masters 0 and 1.
    for (slot, home) in [(247, 0), (8373, 1)] {
        for _ in 0..5 {
            cluster.move_slot(slot, home, 2).await.unwrap();
            load.until_accepted(&fleet, 100.0).await;
            cluster.move_slot(slot, 2, home).await.unwrap();
            load.until_accepted(&fleet, 100.0).await;
        }
    }
    load.end_flawless(&fleet).await;
}

#[tokio::test]
async fn a_cluster_whose_masters_fail_over_costs_no_request() {
    let mut cluster = RedisCluster::start_with_replicas(3).await;
    let url = cluster.url(4);
    let fleet = Fleet::start(FleetPlan::over_shards(&url)).await.unwrap();
    let load = SteadyLoad::start(&fleet, 1000);
    load.until_accepted(&fleet, 500.0).await;
    // One is asked to, and one dies.
    cluster.fail_over(1).await.unwrap();
    load.until_accepted(&fleet, 500.0).await;
    cluster.masters()[2].kill();
    load.until_accepted(&fleet, 3000.0).await;
    load.end_flawless(&fleet).await;
}
