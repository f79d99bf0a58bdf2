//! Tests of turns with local copies that lag behind the API server.

use super::*;

const AUTOSCALER: &str = "horizontalpodautoscalers/digits";

#[tokio::test(start_paused = true)]
async fn turns_that_change_nothing_only_keep_their_watches_open() {
    let mut world = World::new(&json!({})).await;
    for (api, plural) in
        [("monitoring.coreos.com/v1", "podmonitors"), ("keda.sh/v1alpha1", "scaledobjects")]
    {
        world.server.add(&format!("/apis/{api}"), served(api, plural));
    }
    world.lasts(45, 10).await;
    world.server.requests();
    world.lasts(120, 10).await;
    let mut requests = world.server.requests();
    // Each of the 7 watches is resumed about once a minute, for any number of fleets. Without local
    // copies, the turns of each fleet took 148 requests in these two minutes.
    assert!(requests.len() <= 14, "{requests:?}");
    requests.sort_unstable();
    requests.dedup();
    assert_eq!(
        requests,
        [
            "GET /api/v1/namespaces/ml/pods",
            "GET /apis/apps/v1/namespaces/ml/deployments",
            "GET /apis/autoscaling/v2/namespaces/ml/horizontalpodautoscalers",
            "GET /apis/batchfleet.dev/v1alpha1/namespaces/ml/modelfleets",
            "GET /apis/keda.sh/v1alpha1/namespaces/ml/scaledobjects",
            "GET /apis/monitoring.coreos.com/v1/namespaces/ml/podmonitors",
            "GET /apis/policy/v1/namespaces/ml/poddisruptionbudgets",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_turn_waits_for_the_first_list() {
    let mut world = World::new(&json!({})).await;
    let turn = tokio::spawn(reconcile(world.fleet(), world.context.clone()));
    world.deliver_events().await;
    assert!(!turn.is_finished());
    assert_eq!(world.server.writes(), [""; 0]);
    world.start_watches();
    turn.await.unwrap().unwrap();
    assert!(world.server.writes().contains(&"PATCH deployments/digits".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_turn_before_the_watch_delivers_the_last_writes_does_not_repeat_them() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    world.server.hold_events();
    world.server.edit("modelfleets/digits", |fleet| {
        fleet["spec"]["slo"] = json!({"p99Ms": 50});
        fleet["metadata"]["generation"] = json!(2);
    });
    let written = world.turn().await.unwrap();
    assert!(written.contains(&"PATCH deployments/digits".to_owned()), "{written:?}");
    assert!(written.contains(&format!("PATCH {AUTOSCALER}")), "{written:?}");
    assert_eq!(world.turn().await.unwrap(), [""; 0]);
    world.server.release_events();
    assert_eq!(world.turn().await.unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_watch_delivers_late_is_still_set_back() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    world.server.hold_events();
    world.server.edit(AUTOSCALER, |autoscaler| autoscaler["spec"]["maxReplicas"] = json!(1));
    assert_eq!(world.turn().await.unwrap(), [""; 0]);
    world.server.release_events();
    assert_eq!(world.turn().await.unwrap(), [format!("PATCH {AUTOSCALER}")]);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_object_that_is_not_in_the_copy_yet_is_not_taken_over() {
    let mut world = World::new(&json!({})).await;
    world.start_watches();
    world.deliver_events().await;
    world.server.hold_events();
    let theirs = json!({"metadata": {"name": "digits"}, "spec": {"replicas": 3}});
    world.server.add("/apis/apps/v1/namespaces/ml/deployments/digits", theirs);
    let written = world.tick(10).await.unwrap();
    assert!(!written.contains(&"PATCH deployments/digits".to_owned()), "{written:?}");
    world.server.release_events();
    world.tick(10).await.unwrap();
    assert_eq!(world.condition("Degraded"), "True");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_has_been_replaced_is_neither_changed_nor_deleted() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    world.server.hold_events();
    world.server.edit(AUTOSCALER, |autoscaler| {
        *autoscaler = json!({"metadata": {"name": "digits", "uid": "theirs"}, "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": "other"}, "maxReplicas": 2,
        }});
    });
    let theirs = world.server.get(AUTOSCALER);
    for (generation, mode) in [(2, "hpa"), (3, "direct")] {
        world.server.edit("modelfleets/digits", |fleet| {
            fleet["spec"]["scaling"]["mode"] = json!(mode);
            fleet["metadata"]["generation"] = json!(generation);
        });
        let error = world.tick(10).await.unwrap_err();
        assert!(matches!(error, ControlError::Write { .. }), "{error}");
        assert_eq!(world.server.get(AUTOSCALER), theirs, "{mode}");
    }
}
