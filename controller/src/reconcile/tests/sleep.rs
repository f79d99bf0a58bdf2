//! Fleets without workers.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_fleet_goes_to_zero_and_comes_back() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 60}});
    let mut world = World::new(&scaling).await;
    world.ticks(8, 10).await;
    world.ticks(80, 0).await;
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 0);
    world.tick(10).await.unwrap();
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_sleeps_lets_callers_wait_and_wakes_within_a_second() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 60}});
    let mut world = World::new(&scaling).await;
    world.ticks(8, 10).await;
    assert!(!world.is_promised().await);
    world.ticks(80, 0).await;
    world.worker.consumer.retire().await.unwrap();
    advance(TICK).await;
    world.turn().await.unwrap();
    assert!(world.is_promised().await);
    advance(BLINK).await;
    assert_eq!(world.turn().await.unwrap(), [""; 0]);
    world.gateway.producer.submit(&queue(), &job()).await.unwrap();
    advance(BLINK).await;
    let written = world.turn().await.unwrap();
    assert!(written.contains(&"PATCH deployments/digits/scale".to_owned()), "{written:?}");
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 1);
    // Until the worker is there, as well.
    advance(TICK).await;
    world.turn().await.unwrap();
    assert!(world.is_promised().await);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_starts_anew_promises_what_the_last_one_did() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 60}});
    let mut world = World::new(&scaling).await;
    world.server.add(
        "/apis/apps/v1/namespaces/ml/deployments/digits",
        json!({"metadata": {"name": "digits", "ownerReferences": [{"uid": "1234"}]},
            "spec": {"replicas": 0}}),
    );
    world.context.controller.promise(&word()).await.unwrap();
    advance(batchfleet_broker::roles::PROMISED).await;
    assert!(!world.is_promised().await);
    world.turn().await.unwrap();
    assert!(world.is_promised().await);
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 0);
}
