//! Tests of writes that the API server does not take, or changes.

use super::*;

const DEPLOYMENT: &str = "deployments/digits$";

fn patches(world: &World, end: &str) -> usize {
    let requests = world.server.requests();
    requests.iter().filter(|it| it.starts_with("PATCH ") && it.ends_with(end)).count()
}

#[tokio::test(start_paused = true)]
async fn a_fleet_whose_deployment_is_not_taken_is_scaled_on_and_says_so() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    // A webhook that does not answer.
    world.server.refuse(DEPLOYMENT, 500);
    world.edit_spec(|spec| spec["slo"] = json!({"p99Ms": 99}));
    world.tick(1_500).await.unwrap_err();
    assert_eq!(
        (world.status("reason"), world.status("observedGeneration")),
        (json!("ApplyFailed"), json!(2))
    );
    let why = world.why("Degraded");
    assert!(why.contains("did not take the Deployment") && why.contains("by the test"), "{why}");
    for _ in 0..8 {
        world.tick(1_500).await.unwrap_err();
    }
    assert_eq!((world.floor(), world.status("wantedReplicas")), (json!(4), json!(4)));
    assert_eq!(world.events("ApplyFailed").len(), 1);
    world.server.refuse(DEPLOYMENT, 0);
    // The write is repeated within a minute.
    for _ in 0..13 {
        world.tick(1_500).await.ok();
    }
    assert_eq!(world.status("reason"), "AsDesired");
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_is_repeated_less_often_and_at_once_for_another_spec() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    world.server.refuse(DEPLOYMENT, 422);
    world.edit_spec(|spec| spec["slo"] = json!({"p99Ms": 99}));
    world.server.requests();
    for _ in 0..48 {
        world.tick(10).await.unwrap_err();
    }
    // In two minutes: at 0, 5, 15, 35 and 75 seconds.
    assert_eq!(patches(&world, "deployments/digits"), 5);
    world.edit_spec(|spec| spec["slo"] = json!({"p99Ms": 98}));
    world.tick(10).await.unwrap_err();
    assert_eq!(patches(&world, "deployments/digits"), 1);
    // The same reason, but for another spec with another message, is another event.
    assert_eq!(world.events("SpecRefused").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_at_zero_wakes_although_its_deployment_is_not_taken() {
    let scaling = json!({"min": 0, "scaleToZeroAfterSeconds": 60, "max": 24});
    let mut world = World::new(&json!({"scaling": scaling})).await;
    world.lasts(40, 10).await;
    world.lasts(400, 0).await;
    world.worker.consumer.retire().await.unwrap();
    world.server.refuse(DEPLOYMENT, 500);
    world.edit_spec(|spec| spec["slo"] = json!({"p99Ms": 99}));
    for _ in 0..30 {
        advance(TICK).await;
        let error = world.turn().await.unwrap_err();
        let pause = after(&world.fleet(), &error, &world.context);
        assert_eq!(pause, Action::requeue(pause_at_zero(&world.context)));
        assert!(world.is_promised().await);
    }
    world.gateway.producer.submit(&queue(), &job()).await.unwrap();
    advance(WAKE_CHECK).await;
    world.turn().await.unwrap_err();
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_field_that_a_webhook_changes_is_told_once_and_left() {
    let mut world = World::new(&json!({})).await;
    world.server.admit("deployments/digits", |deployment| {
        let container = &mut deployment["spec"]["template"]["spec"]["containers"][0];
        container["image"] = json!("mirror/worker:1");
    });
    world.lasts(45, 10).await;
    assert_eq!(world.tick(10).await.unwrap(), [""; 0]);
    let told = world.events("ChangedOnWrite");
    let field = "spec.template.spec.containers[0].image of the Deployment digits";
    assert!(told.len() == 1 && told[0].contains(field), "{told:?}");
    assert!(world.why("Degraded").contains(field), "{}", world.why("Degraded"));
    assert_eq!(world.status("reason"), "AsDesired");
    assert_eq!(world.events("ChangeSetBack"), [""; 0]);
    // A change by another client is still set back.
    world.server.edit("deployments/digits", |it| it["spec"]["progressDeadlineSeconds"] = json!(1));
    assert_eq!(world.turn().await.unwrap(), ["PATCH deployments/digits"]);
    let told = world.events("ChangeSetBack");
    assert!(told.len() == 1 && told[0].contains("spec.progressDeadlineSeconds"), "{told:?}");
    assert_eq!(world.turn().await.unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_waits_for_a_finalizer_says_so() {
    let mut world = World::new(&json!({})).await;
    world.lasts(10, 10).await;
    world.server.edit("modelfleets/digits", |fleet| {
        fleet["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        fleet["metadata"]["finalizers"] = json!(["example.com/backup"]);
    });
    assert_eq!(world.tick(10).await.unwrap(), ["PATCH modelfleets/digits/status"]);
    assert_eq!(world.status("reason"), "Deleting");
    let why = world.why("Ready");
    assert!(why.contains("False") && why.contains("finalizers example.com/backup"), "{why}");
    assert_eq!(world.tick(10).await.unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_is_made_again_waits_for_the_objects_of_the_deleted_one() {
    let mut world = World::new(&json!({})).await;
    let owner = json!([{"kind": "ModelFleet", "name": "digits", "uid": "deleted"}]);
    let left = json!({"metadata": {"name": "digits", "ownerReferences": owner}});
    let path = "/apis/apps/v1/namespaces/ml/deployments/digits";
    world.server.add(path, left);
    assert_eq!(world.tick(10).await.unwrap(), ["PATCH modelfleets/digits/status"]);
    let why = world.why("Ready");
    assert!(why.contains("objects of the deleted fleet of this name"), "{why}");
    assert_eq!(
        (world.condition("Degraded"), world.condition("ScalingConflict")),
        (json!("False"), json!("False"))
    );
    world.server.remove(path);
    let written = world.tick(10).await.unwrap();
    assert!(written.contains(&"PATCH deployments/digits".to_owned()), "{written:?}");
}
