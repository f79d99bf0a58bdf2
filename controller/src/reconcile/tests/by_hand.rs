//! Tests of Deployments that another client scales.

use super::*;

const AUTOSCALER: &str = "horizontalpodautoscalers/digits";

/// The status of an autoscaler that wants this number of workers.
fn wants(autoscaler: &mut Value, replicas: u32) {
    let active = json!([{"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound"}]);
    autoscaler["status"] = json!({"desiredReplicas": replicas, "conditions": active});
}

/// Scales the Deployment as this client.
fn scale(world: &World, client: &str, replicas: u32) {
    world.server.edit("deployments/digits", |deployment| {
        deployment["spec"]["replicas"] = json!(replicas);
        deployment["metadata"]["managedFields"] = json!([
            {"manager": MANAGER, "operation": "Apply", "time": "2026-01-01T00:00:09Z",
             "fieldsV1": {"f:spec": {"f:template": {}}}},
            {"manager": client, "operation": "Update", "subresource": "scale",
             "time": "2026-01-01T00:00:08Z", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        ]);
    });
}

#[tokio::test(start_paused = true)]
async fn a_deployment_scaled_by_hand_is_an_event_and_the_autoscalers_own_changes_are_not() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    world.server.edit(AUTOSCALER, |autoscaler| wants(autoscaler, 1));
    world.lasts(15, 10).await;
    world.autoscaler_shrinks = false;
    let scale = |world: &World, replicas: u32| {
        world.server.edit("deployments/digits", |it| it["spec"]["replicas"] = json!(replicas));
    };
    scale(&world, 3);
    world.server.edit(AUTOSCALER, |autoscaler| wants(autoscaler, 3));
    world.lasts(15, 10).await;
    assert_eq!(world.events("ScaledByHand"), [""; 0]);
    scale(&world, 7);
    world.lasts(20, 10).await;
    let events = world.events("ScaledByHand");
    assert!(
        events.len() == 1 && events[0].contains("from 3 to 7; the autoscaler removes"),
        "{events:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_scales_the_deployment_is_named_before_the_autoscaler_has_its_metric() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    world.autoscaler_shrinks = false;
    scale(&world, "kubectl", 7);
    world.tick(10).await.unwrap();
    let events = world.events("ScaledByHand");
    assert!(
        events.len() == 1
            && events[0].contains("kubectl scaled the Deployment from 1 to 7")
            && events[0].contains("has not read its metric yet"),
        "{events:?}"
    );
    // The autoscaler itself and the controller are no other clients.
    scale(&world, "kube-controller-manager", 9);
    world.lasts(15, 10).await;
    scale(&world, MANAGER, 8);
    world.lasts(15, 10).await;
    assert_eq!(world.events("ScaledByHand").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_metric_the_controller_undoes_scaling_by_hand_and_says_so() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    world.autoscaler_shrinks = false;
    world.server.edit(AUTOSCALER, |autoscaler| {
        autoscaler["status"] = json!({"desiredReplicas": 1, "conditions": [{
            "type": "ScalingActive", "status": "False", "reason": "FailedGetExternalMetric",
            "message": "no metrics returned from external metrics API",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]});
    });
    world.lasts(10, 10).await;
    scale(&world, "kubectl", 7);
    world.tick(10).await.unwrap();
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 1);
    let events = world.events("ScaledByHand");
    let note =
        "ScaledByHand: kubectl scaled the Deployment from 1 to 7; the controller sets 1 again";
    assert_eq!(events, [note]);
}
