//! Tests of what status and events say about a fleet that is not as it should be.

use super::*;

const AUTOSCALER: &str = "horizontalpodautoscalers/digits";

#[tokio::test(start_paused = true)]
async fn the_last_words_of_a_worker_reach_the_status_and_an_event() {
    let mut world = World::new(&json!({})).await;
    let mut broken = pod();
    let end = json!({
        "exitCode": 64, "reason": "Error", "message": "error: no model \"m\" in /models; there is: n",
    });
    broken["status"] = json!({"containerStatuses": [{
        "name": "worker", "image": "worker:1", "imageID": "", "ready": false, "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": end},
    }]});
    world.server.add("/api/v1/namespaces/ml/pods/digits-1", broken);
    world.tick(10).await.unwrap();
    let why = "container worker of pod digits-1 ended with status 64, 3 restarts: no model \"m\" in \
               /models; there is: n";
    assert_eq!(world.status("reason"), "ModelNotFound");
    assert_eq!(world.why("Degraded"), format!("\"True\": {}", json!(why)));
    assert_eq!(world.condition("Ready"), "False");
    let events = world.server.events();
    assert!(events.contains(&format!("ModelNotFound: {why}")), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn the_events_of_a_pod_that_waits_reach_the_status() {
    let mut world = World::new(&json!({})).await;
    let mut stuck = pod();
    stuck["status"] = json!({"phase": "Pending", "containerStatuses": [{
        "name": "worker", "image": "worker:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ContainerCreating"}},
    }]});
    world.server.add("/api/v1/namespaces/ml/pods/digits-1", stuck);
    let events = "/api/v1/namespaces/ml/events";
    let warning = json!({
        "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "uid": "1"},
        "type": "Warning", "reason": "FailedMount", "message": "secret \"redis\" not found",
        "lastTimestamp": "2026-01-01T00:00:20Z",
    });
    world.server.add(&format!("{events}/e"), warning);
    world.tick(10).await.unwrap();
    let why = "a volume of pod digits-1 cannot be mounted: FailedMount: secret \"redis\" not found";
    assert_eq!(world.status("reason"), "VolumeUnavailable");
    assert_eq!(world.why("Degraded"), format!("\"True\": {}", json!(why)));
    // They are read every 30 seconds.
    let lists = |world: &World| {
        world.server.requests().iter().filter(|it| **it == format!("GET {events}")).count()
    };
    assert_eq!(lists(&world), 1);
    world.lasts(30, 10).await;
    assert_eq!(lists(&world), 1);
    // Without the right to read them, the status says less.
    world.server.refuse(events, 403);
    world.lasts(30, 10).await;
    assert_eq!(world.status("reason"), "ContainerNotCreated");
}

#[tokio::test(start_paused = true)]
async fn a_spec_that_the_api_server_refuses_is_reported_with_its_generation() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    world.server.refuse("deployments/digits", 422);
    world.edit_spec(|spec| spec["worker"] = json!({"requests": {"cpu": "two"}}));
    world.tick(10).await.unwrap_err();
    assert_eq!(
        (world.status("reason"), world.status("observedGeneration")),
        (json!("SpecRefused"), json!(2))
    );
    let why = world.why("Degraded");
    assert!(why.contains("refuses the Deployment: refused by the test"), "{why}");
    let events = world.server.events();
    assert!(events.last().unwrap().starts_with("SpecRefused: "), "{events:?}");
    // The workers of the last good spec still serve.
    assert_eq!(world.condition("Ready"), "True");
    world.server.refuse("deployments/digits", 0);
    // A refused write is sent again after 5 s.
    world.tick(10).await.unwrap_err();
    world.tick(10).await.unwrap();
    assert_eq!(
        (world.status("reason"), world.condition("Degraded")),
        (json!("AsDesired"), json!("False"))
    );
}

#[tokio::test(start_paused = true)]
async fn each_change_of_size_is_an_event_with_its_own_note() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    world.lasts(40, 1_500).await;
    let events = world.server.events();
    let scaled: Vec<_> = events.iter().filter(|event| event.starts_with("Scaled: ")).collect();
    assert!(scaled.iter().any(|event| event.starts_with("Scaled: 1 worker: ")), "{events:?}");
    assert!(scaled.iter().any(|event| event.starts_with("Scaled: 4 workers: ")), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_set_back_is_an_event_that_names_the_field_and_its_author() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    world.server.edit(AUTOSCALER, |autoscaler| {
        autoscaler["spec"]["maxReplicas"] = json!(2);
        autoscaler["metadata"]["managedFields"] = json!([
            {"manager": MANAGER, "operation": "Apply", "time": "2026-01-01T00:00:09Z"},
            {"manager": "kubectl-edit", "operation": "Update", "time": "2026-01-01T00:00:05Z"},
            {"manager": "kube-controller-manager", "operation": "Update",
             "subresource": "status", "time": "2026-01-01T00:00:07Z"},
        ]);
    });
    world.tick(10).await.unwrap();
    let note = "ChangeSetBack: spec.maxReplicas of the HorizontalPodAutoscaler digits was changed and \
                is set back, by kubectl-edit";
    let notes = |world: &World| world.server.events().iter().filter(|it| *it == note).count();
    assert_eq!(notes(&world), 1, "{:?}", world.server.events());
    // Also if the controller wants something new in the same turn.
    world.server.edit(AUTOSCALER, |autoscaler| autoscaler["spec"]["maxReplicas"] = json!(5));
    world.edit_spec(|spec| spec["scaling"] = json!({"max": 9}));
    world.tick(10).await.unwrap();
    assert_eq!(world.server.get(AUTOSCALER)["spec"]["maxReplicas"], 9);
    assert_eq!(notes(&world), 2, "{:?}", world.server.events());
}

#[tokio::test(start_paused = true)]
async fn changes_by_the_controller_itself_are_no_such_events() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    world.lasts(40, 1_500).await;
    world.edit_spec(|spec| spec["slo"] = json!({"p99Ms": 50}));
    world.lasts(40, 1_500).await;
    let events = world.server.events();
    assert!(!events.iter().any(|event| event.starts_with("ChangeSetBack")), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fleet_whose_autoscaler_has_no_metric_shrinks_and_says_why() {
    let mut world = World::new(&json!({"scaling": {"max": 24, "holdSeconds": 0}})).await;
    world.lasts(40, 1_500).await;
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 4);
    // Without its metric the autoscaler keeps the minimum, but removes no worker.
    world.autoscaler_shrinks = false;
    world.lasts(400, 10).await;
    assert_eq!(
        (world.floor(), world.server.get("deployments/digits")["spec"]["replicas"].clone()),
        (json!(1), json!(4))
    );
    world.server.edit(AUTOSCALER, |autoscaler| {
        autoscaler["status"] = json!({"desiredReplicas": 4, "conditions": [{
            "type": "ScalingActive", "status": "False", "reason": "FailedGetExternalMetric",
            "message": "no metrics returned from external metrics API",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]});
    });
    world.lasts(10, 10).await;
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 1);
    let why = world.why("AutoscalerActive");
    assert!(why.contains("\"False\"") && why.contains("no metrics returned"), "{why}");
    assert_eq!(world.status("autoscalerReplicas"), Value::Null);
    let events = world.server.events();
    assert!(events.iter().any(|event| event.starts_with("MetricUnavailable: ")), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_what_the_autoscaler_wants() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
    world.server.edit(AUTOSCALER, |autoscaler| {
        let active =
            json!([{"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound"}]);
        autoscaler["status"] = json!({"desiredReplicas": 7, "conditions": active});
    });
    world.tick(10).await.unwrap();
    assert_eq!(
        (world.status("wantedReplicas"), world.status("autoscalerReplicas")),
        (json!(1), json!(7))
    );
    let why = world.why("AutoscalerActive");
    assert!(why.contains("wants 7") && why.contains("minimum of 1"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn the_series_of_a_fleet_end_with_the_fleet() {
    let mut world = World::new(&json!({})).await;
    world.lasts(10, 10).await;
    let context = world.context.clone();
    let conditions = move || context.metrics.series();
    assert!(conditions().iter().any(|series| series.contains("digits")));
    let context = world.context.clone();
    let forgetting = tokio::spawn(async move { context.forget_deleted().await });
    world.server.remove(FLEETS);
    sleep(TICK * 2).await;
    assert_eq!(conditions(), [""; 0]);
    forgetting.abort();
}

#[tokio::test(start_paused = true)]
async fn the_queue_of_a_deleted_fleet_is_retracted_by_the_leader() {
    let mut world = World::new(&json!({})).await;
    world.lasts(10, 10).await;
    let context = world.context.clone();
    let forgetting = tokio::spawn(async move { context.forget_deleted().await });
    let observer = world.broker.observer().await.unwrap();
    sleep(TICK).await;
    assert_eq!(observer.fleet().await.unwrap().promises, []);
    world.leads.send_replace(false);
    world.server.remove(FLEETS);
    sleep(TICK).await;
    assert_eq!(observer.fleet().await.unwrap().promises, []);
    world.leads.send_replace(true);
    sleep(TICK).await;
    let [retracted] = observer.fleet().await.unwrap().promises.try_into().unwrap();
    assert!(retracted.retracted && !retracted.holds);
    assert_eq!(retracted.expected.model.queue, queue());
    forgetting.abort();
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_waits_for_redis_keeps_the_objects_and_says_what_it_waits_for() {
    let mut world = World::unconnected(&json!({})).await;
    let written = world.tick(10).await.unwrap();
    assert!(written.contains(&"PATCH deployments/digits".to_owned()), "{written:?}");
    // At an installation, Redis starts together with the controller.
    assert_eq!(world.status("reason"), "WorkersStarting");
    world.lasts(10, 10).await;
    let reason = world.status("reason");
    assert_eq!((reason, world.condition("Ready")), (json!("RedisUnreachable"), json!("False")));
    let explanation = world.status("explanation");
    assert!(explanation.as_str().unwrap().contains("Redis cannot be read"), "{explanation}");
    world.redis.connected(&world.broker).await.unwrap();
    world.lasts(40, 10).await;
    let reason = world.status("reason");
    assert_eq!((reason, world.condition("Ready")), (json!("AsDesired"), json!("True")));
}
