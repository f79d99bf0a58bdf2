//! Tests of objects that do not belong to a fleet.

use super::*;

#[tokio::test(start_paused = true)]
async fn another_autoscaler_of_the_same_workers_blocks_ours_and_is_named() {
    let mut world = World::new(&json!({})).await;
    let path = "/apis/autoscaling/v2/namespaces/ml/horizontalpodautoscalers/theirs";
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "digits"});
    world.server.add(
        path,
        json!({
            "metadata": {"name": "theirs", "namespace": "ml"},
            "spec": {"scaleTargetRef": target, "maxReplicas": 3},
        }),
    );
    assert_eq!(world.tick(10).await.unwrap(), ["PATCH modelfleets/digits/status"]);
    let why = world.why("ScalingConflict");
    assert!(why.contains("\"True\"") && why.contains("HorizontalPodAutoscaler theirs"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_scaled_object_of_the_same_workers_blocks_our_autoscaler_while_keda_is_installed() {
    let mut world = World::new(&json!({})).await;
    let target = json!({"name": "digits"});
    world.server.add(
        "/apis/keda.sh/v1alpha1/namespaces/ml/scaledobjects/theirs",
        json!({
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": "theirs", "namespace": "ml"},
            "spec": {"scaleTargetRef": target},
        }),
    );
    world.lasts(10, 10).await;
    assert_eq!(world.condition("ScalingConflict"), "False");
    world.server.add("/apis/keda.sh/v1alpha1", served("keda.sh/v1alpha1", "scaledobjects"));
    world.lasts(65, 10).await;
    assert_eq!(world.floor(), 1);
    let why = world.why("ScalingConflict");
    assert!(why.contains("\"True\"") && why.contains("KEDA's ScaledObject theirs"), "{why}");
    // Without permission to list ScaledObjects, the controller cannot detect the conflict.
    world.server.refuse("scaledobjects", 403);
    world.tick(10).await.unwrap();
    assert_eq!(world.condition("ScalingConflict"), "False");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_deployment_of_the_same_name_is_not_changed() {
    let mut world = World::new(&json!({})).await;
    let path = "/apis/apps/v1/namespaces/ml/deployments/digits";
    let theirs = json!({"metadata": {"name": "digits"}, "spec": {"replicas": 3}});
    world.server.add(path, theirs);
    for _ in 0..3 {
        assert!(!world.tick(10).await.unwrap().iter().any(|write| !write.contains("modelfleets")));
    }
    let why = world.why("Degraded");
    assert!(why.contains("Deployment of the fleet's name does not belong to this fleet"), "{why}");
    assert_eq!(world.condition("Ready"), "False");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_budget_and_autoscaler_are_not_changed_and_the_rest_is_made() {
    let mut world = World::new(&json!({})).await;
    let theirs = json!({"metadata": {"name": "digits"}, "spec": {"scaleTargetRef": {
        "kind": "Deployment", "name": "other",
    }, "maxReplicas": 2}});
    let budget = "/apis/policy/v1/namespaces/ml/poddisruptionbudgets/digits";
    world.server.add(budget, json!({"metadata": {"name": "digits"}}));
    let autoscaler = "/apis/autoscaling/v2/namespaces/ml/horizontalpodautoscalers/digits";
    world.server.add(autoscaler, theirs);
    let theirs = world.server.get("horizontalpodautoscalers/digits");
    let written = world.tick(10).await.unwrap();
    assert_eq!(written, ["PATCH deployments/digits", "PATCH modelfleets/digits/status"]);
    assert_eq!(world.server.get("horizontalpodautoscalers/digits"), theirs);
    assert_eq!(
        (world.condition("Degraded"), world.condition("ScalingConflict")),
        (json!("True"), json!("True"))
    );
}
