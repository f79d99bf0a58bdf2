//! Tests of fleets whose workers have a Redis user of their model.

use std::collections::BTreeSet;

use batchfleet_broker::redis::RedisAddress;
use batchfleet_testkit::RedisServer;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};

use super::*;

async fn world(redis: &RedisServer) -> World {
    let admin = RedisAddress::from(&redis.url());
    World::with_users(&json!({}), |client| {
        Some(ModelUsers::new(client, "ml", "users", admin.clone(), admin))
    })
    .await
}

async fn users(redis: &RedisServer) -> BTreeSet<String> {
    let answer = redis.ask("ACL USERS").await.unwrap();
    answer.lines().filter(|line| line.starts_with("worker.")).map(str::to_owned).collect()
}

/// Waits until Redis has exactly these users of models.
async fn expect(redis: &RedisServer, expected: &[&str]) {
    let expected: BTreeSet<_> = expected.iter().map(|name| (*name).to_owned()).collect();
    while users(redis).await != expected {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_workers_of_a_new_fleet_mount_the_url_of_their_model() {
    let redis = RedisServer::start().await;
    let mut world = world(&redis).await;
    world.turn().await.unwrap();
    let deployment = world.server.get("deployments/digits");
    let volumes = &deployment["spec"]["template"]["spec"]["volumes"];
    let found = volumes.as_array().unwrap().iter().find(|volume| volume["name"] == "redis");
    let mounted = &found.unwrap()["secret"];
    assert_eq!(mounted["secretName"], "users");
    assert_eq!(mounted["items"], json!([{"key": "url.m", "path": "url"}]));
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert!(container["args"].to_string().contains("--redis-url-file="));
}

#[tokio::test]
async fn a_user_lives_as_long_as_its_fleet_and_the_pods_that_mount_its_url() {
    let redis = RedisServer::start().await;
    let mut world = world(&redis).await;
    let users = world.context.users.clone().unwrap();
    let context = world.context.clone();
    tokio::spawn(async move { users.run(context).await });
    world.start_watches();
    expect(&redis, &["worker.ml.m"]).await;
    // The fleet turns to another model, and an old pod still runs.
    let mut pod = pod();
    let item = json!({"secretName": "users", "items": [{"key": "url.m", "path": "url"}]});
    pod["spec"] = json!({"containers": [], "volumes": [{"name": "redis", "secret": item}]});
    world.server.add("/api/v1/namespaces/ml/pods/digits-1", pod);
    world.deliver_events().await;
    world.server.edit("modelfleets/digits", |fleet| fleet["spec"]["model"]["name"] = json!("n"));
    expect(&redis, &["worker.ml.m", "worker.ml.n"]).await;
    let client = world.server.client();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "ml");
    pods.delete("digits-1", &DeleteParams::default()).await.unwrap();
    expect(&redis, &["worker.ml.n"]).await;
    let fleets: Api<ModelFleet> = Api::namespaced(client, "ml");
    fleets.delete("digits", &DeleteParams::default()).await.unwrap();
    expect(&redis, &[]).await;
}
