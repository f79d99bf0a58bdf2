//! Tests of the rollout of a new version.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_load_of_a_version_counts_while_workers_of_the_fleet_serve_it() {
    let mut world = World::new(&json!({"scaling": {"max": 24, "holdSeconds": 0}})).await;
    world.server.add("/api/v1/namespaces/ml/pods/digits-1", pod());
    world.lasts(40, 1_500).await;
    assert_eq!(world.floor(), 4);
    // Version 2 has one worker, which cannot serve the load alone, so requests go to version 1.
    let worker = world.broker.worker(QueueName::new("m", 2), WorkerId(2)).await.unwrap();
    world.newer = Some((worker, announcement_of(2)));
    world.lasts(500, 1_500).await;
    assert_eq!(world.floor(), 4);
}
