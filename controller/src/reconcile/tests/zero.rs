//! Tests of fleets at zero workers.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_fleet_scales_to_zero_and_back() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 60}});
    let mut world = World::new(&scaling).await;
    world.lasts(40, 10).await;
    world.lasts(400, 0).await;
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 0);
    world.tick(10).await.unwrap();
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_at_zero_promises_a_worker_and_starts_one_within_a_second_of_a_request() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 60}});
    let mut world = World::new(&scaling).await;
    world.lasts(40, 10).await;
    assert!(!world.is_promised().await);
    world.lasts(400, 0).await;
    world.worker.consumer.retire().await.unwrap();
    advance(TICK).await;
    world.turn().await.unwrap();
    assert!(world.is_promised().await);
    advance(WAKE_CHECK).await;
    assert_eq!(world.turn().await.unwrap(), [""; 0]);
    world.gateway.producer.submit(&queue(), &job()).await.unwrap();
    advance(WAKE_CHECK).await;
    let written = world.turn().await.unwrap();
    assert!(written.contains(&"PATCH deployments/digits/scale".to_owned()), "{written:?}");
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 1);
    // The promise holds until the worker is alive.
    advance(TICK).await;
    world.turn().await.unwrap();
    assert!(world.is_promised().await);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_controller_renews_the_promises_of_the_previous_one() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 60}});
    let mut world = World::new(&scaling).await;
    world.server.add(
        "/apis/apps/v1/namespaces/ml/deployments/digits",
        json!({"metadata": {"name": "digits", "ownerReferences": [{"uid": "1234"}]},
            "spec": {"replicas": 0}}),
    );
    world.context.controller.promise(&announcement()).await.unwrap();
    advance(batchfleet_broker::roles::PROMISED).await;
    assert!(!world.is_promised().await);
    world.turn().await.unwrap();
    assert!(world.is_promised().await);
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 0);
}
