//! Tests of missing reports, failures, and a controller that is not the leader.

use super::*;

#[tokio::test(start_paused = true)]
async fn missing_reports_of_gateways_lower_nothing() {
    let mut world = World::new(&json!({"scaling": {"max": 24, "holdSeconds": 0}})).await;
    world.lasts(40, 1_500).await;
    assert_eq!(world.floor(), 4);
    for _ in 0..100 {
        advance(TICK).await;
        world.turn().await.unwrap();
        assert_eq!(world.floor(), 4);
    }
    assert_eq!(world.condition("MetricsStale"), "True");
    let status = &world.server.get("modelfleets/digits")["status"];
    assert_eq!(status["offeredRowsPerSecond"], Value::Null);
    advance(TICK).await;
    assert_eq!(world.turn().await.unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn turns_that_fail_at_the_api_server_go_on_lower_nothing_and_say_why() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 1_500).await;
    world.server.refuse("deployments", 503);
    let error = world.tick(10).await.unwrap_err();
    let pause = after(&world.fleet(), &error, &world.context);
    assert_eq!(pause, Action::requeue(next_tick(world.context.started.elapsed())));
    // A watch that broke is restored within a second, and is no news.
    assert_eq!(world.status("reason"), "AsDesired");
    world.tick(10).await.unwrap_err();
    assert_eq!(world.status("reason"), "ClusterUnreadable");
    let why = world.why("Degraded");
    assert!(why.contains("cannot read the deployments") && why.contains("by the test"), "{why}");
    world.tick(10).await.unwrap_err();
    assert_eq!(world.floor(), 4);
    world.server.refuse("deployments", 0);
    world.tick(1_500).await.unwrap();
    assert_eq!(world.status("reason"), "AsDesired");
}

#[tokio::test(start_paused = true)]
async fn a_conflicting_write_is_retried() {
    let mut world = World::new(&json!({})).await;
    world.server.refuse("horizontalpodautoscalers/digits", 409);
    assert!(world.tick(10).await.is_err());
    world.server.refuse("horizontalpodautoscalers/digits", 0);
    // A refused write is sent again after 5 s.
    world.tick(10).await.unwrap_err();
    let written = world.tick(10).await.unwrap();
    assert!(written.contains(&"PATCH horizontalpodautoscalers/digits".to_owned()), "{written:?}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_does_not_lead_writes_nothing_but_knows_the_load_once_it_leads() {
    let mut world = World::new(&json!({})).await;
    world.leads.send_replace(false);
    for _ in 0..8 {
        assert_eq!(world.tick(1_500).await.unwrap(), [""; 0]);
    }
    world.leads.send_replace(true);
    world.tick(1_500).await.unwrap();
    assert_eq!(world.floor(), 4);
}
