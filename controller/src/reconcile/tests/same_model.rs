//! Tests of several fleets of one model.

use super::*;

/// Adds an older fleet `first` of the same model with these changes.
fn add_elder(world: &World, changes: &Value) {
    let mut elder = fleet(changes);
    elder["metadata"]["name"] = json!("first");
    elder["metadata"]["uid"] = json!("0");
    elder["metadata"]["creationTimestamp"] = json!("2025-01-01T00:00:00Z");
    world.server.edit("modelfleets/digits", |fleet| {
        fleet["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    world.server.add(&FLEETS.replace("digits", "first"), elder);
}

#[tokio::test(start_paused = true)]
async fn a_second_fleet_of_a_model_is_refused_and_names_the_first() {
    let mut world = World::new(&json!({})).await;
    add_elder(&world, &json!({}));
    assert_eq!(world.tick(10).await.unwrap(), ["PATCH modelfleets/digits/status"]);
    let why = world.why("ScalingConflict");
    assert!(why.contains("the ModelFleet first is older"), "{why}");
    assert_eq!(
        (world.status("reason"), world.condition("Ready")),
        (json!("SameModel"), json!("False"))
    );
    assert!(world.worker.target.guidance().await.unwrap().target.is_none());
    // Another version is another queue.
    world.server.edit("modelfleets/first", |fleet| fleet["spec"]["model"]["version"] = json!(2));
    let written = world.tick(10).await.unwrap();
    assert!(written.contains(&"PATCH deployments/digits".to_owned()), "{written:?}");
    assert_eq!(world.condition("ScalingConflict"), "False");
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_becomes_the_second_keeps_its_workers_and_says_what_it_does_not_do() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 1_500).await;
    assert_eq!(world.status("wantedReplicas"), 4);
    add_elder(&world, &json!({}));
    let scaled = world.events("Scaled").len();
    world.edit_spec(|spec| spec["slo"] = json!({"p99Ms": 50}));
    world.lasts(15, 1_500).await;
    let degraded = world.why("Degraded");
    let message = "nothing of this fleet is changed while ScalingConflict is true; its 4 workers keep \
                   running as they are";
    assert_eq!(degraded, format!("\"False\": {}", json!(message)));
    assert_eq!(
        (world.status("reason"), world.condition("Ready")),
        (json!("SameModel"), json!("True"))
    );
    for field in ["n", "offeredRowsPerSecond", "capacityRowsPerSecond", "p99Ms"] {
        assert_eq!(world.status(field), Value::Null, "{field}");
    }
    // No alert: the fleet wants no worker.
    assert_eq!(world.status("wantedReplicas"), 0);
    assert_eq!(world.context.metrics.wanted.with_label_values(&["ml", "digits"]).get(), 0);
    assert_eq!(world.events("Scaled").len(), scaled);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_without_a_version_follows_its_own_workers_and_not_a_canary() {
    let mut world = World::new(&json!({"scaling": {"max": 24, "holdSeconds": 0}})).await;
    world.server.add("/api/v1/namespaces/ml/pods/digits-1", pod());
    world.lasts(40, 1_500).await;
    let before = ["n", "capacityRowsPerSecond", "wantedReplicas"].map(|it| world.status(it));
    let mut canary = announcement_of(2);
    canary.host = "canary-1".to_owned();
    canary.capacity /= 8.0;
    canary.batching.as_mut().unwrap().curve = vec![(1, 50.0), (64, 900.0)];
    let worker = world.broker.worker(QueueName::new("m", 2), WorkerId(2)).await.unwrap();
    world.newer = Some((worker, canary));
    world.lasts(40, 1_500).await;
    let after = ["n", "capacityRowsPerSecond", "wantedReplicas"].map(|it| world.status(it));
    assert_eq!(before, after);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_without_a_version_conflicts_with_an_older_fleet_of_the_version_that_it_serves() {
    let mut world = World::new(&json!({})).await;
    world.server.add("/api/v1/namespaces/ml/pods/digits-1", pod());
    add_elder(
        &world,
        &json!({"model": {
            "name": "m", "version": 2, "source": {"persistentVolumeClaim": {"claimName": "models"}},
        }}),
    );
    world.lasts(15, 10).await;
    assert_eq!(world.condition("ScalingConflict"), "False");
    world.server.edit("modelfleets/first", |fleet| fleet["spec"]["model"]["version"] = json!(1));
    world.tick(10).await.unwrap();
    assert_eq!(world.status("reason"), "SameModel");
}
