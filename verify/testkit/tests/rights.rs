//! Workers whose Redis user has rights for one model only.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{process::Command, sync::Arc, time::Duration};

use batchfleet_loadgen::{Echo, Length, LoadPlan, Stop, infer::Encoding, run};
use batchfleet_testkit::{Program, RedisServer, get, metric, named_echo_model};
use tempfile::TempDir;

/// Creates the user that `batchfleet redis-acl` prints for a model, or for any, with the password
/// `secret`.
async fn add_user(redis: &RedisServer, model: &[&str]) {
    let program = Program::path("batchfleet").unwrap();
    let printed = Command::new(program).arg("redis-acl").args(model).output().unwrap();
    assert!(printed.status.success());
    let line = String::from_utf8(printed.stdout).unwrap();
    let rules = line.trim().strip_prefix("user ").unwrap().replacen(" on ", " on >secret ", 1);
    let answer = redis.ask(&format!("ACL SETUSER {rules}")).await.unwrap();
    assert!(answer.ends_with("+OK\r\n"), "{answer}");
}

/// Whether the user of model `a` may run a command.
async fn may(redis: &RedisServer, command: &str) -> bool {
    let answer = redis.ask(&format!("ACL DRYRUN worker-a {command}")).await.unwrap();
    let answer = answer.strip_prefix("+PONG\r\n").unwrap();
    assert!(answer == "+OK\r\n" || answer.contains("no permissions"), "{command}: {answer}");
    answer == "+OK\r\n"
}

#[tokio::test]
async fn the_user_of_a_model_has_no_right_on_another_model() {
    let redis = RedisServer::start().await;
    add_user(&redis, &["a"]).await;
    for (command, allowed) in [
        ("XREADGROUP GROUP workers w COUNT 1 STREAMS bf:{a:1}:q:default >", true),
        ("XREADGROUP GROUP workers w COUNT 1 STREAMS bf:{b:1}:q:default >", false),
        ("XREADGROUP GROUP workers w STREAMS bf:{a:1}:q:default bf:{b:1}:q:default > >", false),
        ("XADD bf:{a:2}:q:critical * j x", true),
        ("XADD bf:{b:1}:q:default * j x", false),
        ("XACK bf:{b:1}:q:default workers 0-1", false),
        ("XDEL bf:{aa:1}:q:default 0-1", false),
        ("XRANGE bf:{b:1}:dead - +", false),
        // Announcements.
        ("HSET bf:{a:1}:workers w x", true),
        ("HSET bf:{b:1}:workers w x", false),
        ("HSET bf:{fleet}:workers w x", false),
        ("SADD bf:{fleet}:queues a:1", true),
        ("SREM bf:{fleet}:queues b:1", false),
        ("SET bf:{fleet}:queues x", false),
        ("DEL bf:{fleet}:queues", false),
        // Replies may be published, and not be read.
        ("PUBLISH bf:reply:0 x", true),
        ("SUBSCRIBE bf:reply:0", false),
        ("PSUBSCRIBE bf:reply:*", false),
        ("SUBSCRIBE bf:{a:1}:target", true),
        ("PUBLISH bf:{a:1}:target 1", false),
        ("SUBSCRIBE bf:{b:1}:target", false),
        ("SET bf:{a:1}:parcel:0 x", true),
        ("GETRANGE bf:{b:1}:parcel:0 0 1", false),
        // What belongs to gateways and controllers.
        ("GET bf:{fleet}:epoch", true),
        ("SET bf:{fleet}:epoch x", false),
        ("HGETALL bf:{fleet}:traffic", false),
        ("HSET bf:{fleet}:promises b:1 x", false),
        ("MGET bf:{fleet}:gateway:0", true),
        ("DEL bf:{fleet}:gateway:0", false),
        ("SET bf:{a:1}:target x", false),
        // What would show the keys and commands of others.
        ("KEYS *", false),
        ("SCAN 0", false),
        ("MONITOR", false),
        ("CONFIG GET *", false),
        ("FLUSHALL", false),
        ("ACL LIST", false),
    ] {
        assert_eq!(may(&redis, command).await, allowed, "{command}");
    }
}

#[tokio::test]
async fn workers_with_rights_for_one_model_each_serve_one_fleet() {
    let redis = RedisServer::start().await;
    let repository = TempDir::new().unwrap();
    let mut workers = Vec::new();
    for model in ["a", "b"] {
        add_user(&redis, &[model]).await;
        named_echo_model(repository.path(), model, 16, &[]).unwrap();
        workers.push(worker_as(&format!("worker-{model}"), model, &redis, &repository));
    }
    let (_gateway, address) = gateway(&redis).await;
    for model in ["a", "b"] {
        ready(&address, model).await;
        let target = format!("http://{address}").parse().unwrap();
        let echo = Echo::new(model, "INPUT0", 1, 32, Encoding::Binary).unwrap();
        let plan = LoadPlan::new(target, Arc::new(echo), 0);
        let report = run(LoadPlan { users: 8, length: Length::Requests(400), ..plan }).await;
        let report = report.unwrap();
        assert!(report.is_flawless(), "{report}");
    }
    for worker in &workers {
        let denied = metric(worker, "batchfleet_redis_denied_total").await.unwrap();
        assert!(denied < 0.5, "denied {denied} times: {:?}", worker.log());
    }
}

/// Starts a worker of a model as a user of Redis.
fn worker_as(user: &str, model: &str, redis: &RedisServer, repository: &TempDir) -> Program {
    let url = format!("redis://{user}:secret@{}", redis.address());
    let flags = ["--model", model, "--redis-url", &url, "--admin-listen", "127.0.0.1:0"];
    let worker = Program::named("batchfleet-worker").unwrap().args(flags);
    worker.args(["--model-repository", repository.path().to_str().unwrap()]).spawn().unwrap()
}

/// Starts a gateway. Also returns its address.
async fn gateway(redis: &RedisServer) -> (Program, String) {
    let flags = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let gateway = Program::named("batchfleet-gateway").unwrap().args(flags);
    let gateway = gateway.args(["--redis-url", &redis.url()]).spawn().unwrap();
    let address = gateway.address("http").await.unwrap();
    (gateway, address)
}

/// Waits until a model can be asked.
async fn ready(address: &str, model: &str) {
    let path = format!("/v2/models/{model}/ready");
    while get(address, &path).await.unwrap().0 != 200 {
        tokio::task::yield_now().await;
    }
}

/// Waits until a metric of a program has grown by `more`.
async fn grown(program: &Program, name: &str, more: f64) {
    let start = metric(program, name).await.unwrap();
    while metric(program, name).await.unwrap() < start + more {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn workers_change_from_the_shared_user_to_that_of_their_model_and_back_without_a_loss() {
    const ROWS: &str = "batchfleet_worker_batch_size_sum";
    let redis = RedisServer::start().await;
    add_user(&redis, &[]).await;
    add_user(&redis, &["a"]).await;
    let repository = TempDir::new().unwrap();
    named_echo_model(repository.path(), "a", 16, &[]).unwrap();
    let shared = worker_as("worker", "a", &redis, &repository);
    let (gateway, address) = gateway(&redis).await;
    ready(&address, "a").await;
    let echo = Echo::new("a", "INPUT0", 1, 32, Encoding::Binary).unwrap();
    let plan = LoadPlan::new(format!("http://{address}").parse().unwrap(), Arc::new(echo), 0);
    let stop = Stop::default();
    let length = Length::Time(Duration::from_mins(2));
    let load = tokio::spawn(run(LoadPlan { users: 8, length, stop: stop.clone(), ..plan }));
    // Each worker serves alone for a while, as in a rollout and its rollback.
    let mut serving = shared;
    for user in ["worker-a", "worker"] {
        let next = worker_as(user, "a", &redis, &repository);
        next.address("admin").await.unwrap();
        grown(&next, ROWS, 100.0).await;
        assert!(serving.terminate().await.unwrap().success());
        serving = next;
        grown(&serving, ROWS, 200.0).await;
        if user == "worker-a" {
            // A restarted Redis without its file of users, until the controller makes them again.
            assert!(redis.ask("ACL DELUSER worker-a").await.unwrap().ends_with(":1\r\n"));
            grown(&serving, "batchfleet_redis_denied_total", 1.0).await;
            add_user(&redis, &["a"]).await;
            grown(&serving, ROWS, 200.0).await;
        }
    }
    stop.now();
    let report = load.await.unwrap().unwrap();
    assert!(report.is_flawless(), "{report}");
    drop(gateway);
}
