//! One worker looks for the dead workers of a queue, for all workers.

use std::collections::HashSet;

use batchfleet_broker::{Announcement, BatchWish, Target, Wish, redis::acl};
use redis::AsyncTypedCommands;

use super::*;

/// A worker that announces itself and looks for dead workers.
struct Rescuer {
    id: WorkerId,
    roles: WorkerRoles,
}

impl Rescuer {
    async fn new(broker: &RedisBroker) -> Self {
        let id = WorkerId::random();
        Self { id, roles: broker.worker(queue(), id).await.unwrap() }
    }

    async fn renew(&self) {
        self.roles.consumer.renew(&Announcement::new(self.id, model())).await.unwrap();
    }

    async fn reclaim(&self) -> Vec<RequestId> {
        let batch = self.roles.consumer.reclaim(1).await.unwrap();
        batch.into_iter().map(|delivery| delivery.job.id).collect()
    }
}

/// How often Redis has listed the workers of a stream.
async fn lists(server: &RedisServer) -> u64 {
    let stats = server.ask("INFO commandstats").await.unwrap();
    let line = stats.lines().find(|line| line.starts_with("cmdstat_xinfo|consumers:"));
    let calls = line.and_then(|line| line.split_once("calls=")?.1.split(',').next()?.parse().ok());
    calls.unwrap_or_default()
}

/// Renews and reclaims with all workers in turn until the liveness grace period is over and one of
/// them has left a roll.
async fn settle_in(server: &RedisServer, workers: &[Rescuer]) {
    let mut redis = administrator(server).await;
    let until = Instant::now() + PATIENCE;
    while redis.get("bf:{model:1}:roll").await.unwrap().is_none() {
        assert!(Instant::now() < until, "no roll");
        for worker in workers {
            worker.renew().await;
            assert!(worker.reclaim().await.is_empty());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn one_of_many_workers_lists_them_and_all_know_their_number() {
    let server = RedisServer::start().await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let mut workers = Vec::new();
    for _ in 0..10 {
        workers.push(Rescuer::new(&broker).await);
    }
    settle_in(&server, &workers).await;
    let (before, began, mut rounds) = (lists(&server).await, Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(2) {
        for worker in &workers {
            worker.renew().await;
            worker.reclaim().await;
        }
        rounds += 1;
        sleep(Duration::from_millis(20)).await;
    }
    let looks = (lists(&server).await - before).div_ceil(3);
    // The worker that has the turn looks each time that it is asked to.
    assert!(rounds > 5 && looks <= rounds + 3, "{looks} looks in {rounds} rounds");
    let before = lists(&server).await;
    for worker in &mut workers {
        let guidance = worker.roles.target.guidance().await.unwrap();
        assert_eq!(guidance.workers, Some(10));
    }
    assert_eq!(lists(&server).await, before);
}

#[tokio::test]
async fn workers_without_the_turn_take_over_the_jobs_of_a_dead_worker_too() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let workers = [Rescuer::new(&broker).await, Rescuer::new(&broker).await];
    settle_in(&server, &workers).await;
    let mut lost = HashSet::new();
    for _ in 0..20 {
        lost.insert(pair.submit().await.unwrap());
    }
    // This worker never announces itself, so it counts as dead.
    assert_eq!(pair.claim(20).await.unwrap().len(), 20);
    let (mut by, until) = ([Vec::new(), Vec::new()], Instant::now() + PATIENCE);
    while by.iter().flatten().count() < 20 {
        assert!(Instant::now() < until, "{by:?}");
        for (worker, found) in workers.iter().zip(&mut by) {
            worker.renew().await;
            found.extend(worker.reclaim().await);
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert!(by.iter().all(|found| found.len() >= 5), "{by:?}");
    assert_eq!(by.iter().flatten().copied().collect::<HashSet<_>>(), lost);
}

#[tokio::test]
async fn a_worker_without_the_turn_notices_its_strays() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let Rescuer { id, roles } = Rescuer::new(&broker).await;
    let WorkerRoles { mut claims, consumer, .. } = roles;
    let mut redis = administrator(&server).await;
    redis.set("bf:{model:1}:turn", "another").await.unwrap();
    // The strays of a new connection are searched before every claim for a while.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(2100) {
        assert!(claims.claim(10).await.unwrap().is_empty());
    }
    let stray = pair.submit().await.unwrap();
    let mut read = redis::cmd("XREADGROUP");
    let (worker, stream) = (id.to_string(), "bf:{model:1}:q:default");
    read.arg(&["GROUP", "workers", worker.as_str(), "STREAMS", stream, ">"]);
    read.exec_async(&mut redis).await.unwrap();
    let before = lists(&server).await;
    let until = Instant::now() + PATIENCE;
    let found = loop {
        assert!(Instant::now() < until, "the stray was not noticed");
        assert!(consumer.reclaim(10).await.unwrap().is_empty());
        let found = claims.claim_within(10, Duration::from_millis(20)).await.unwrap();
        if !found.is_empty() {
            break found;
        }
    };
    assert_eq!(found.iter().map(|delivery| delivery.job.id).collect::<Vec<_>>(), [stray]);
    assert_eq!(lists(&server).await, before);
}

#[tokio::test]
async fn a_worker_with_the_rights_of_an_earlier_version_looks_for_itself() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let rights = acl::worker(Some("model"));
    let shared = " %RW~bf:{model:*}:turn %RW~bf:{model:*}:roll";
    assert!(rights.contains(shared), "{rights}");
    let rights = rights.replace(shared, "");
    server.ask(&format!("ACL SETUSER earlier on >x {rights}")).await.unwrap();
    let url = format!("redis://earlier:x@{}", server.address());
    let broker = RedisBroker::connect(url.as_str()).await.unwrap();
    let mut worker = Rescuer::new(&broker).await;
    let lost = pair.submit().await.unwrap();
    assert_eq!(pair.claim(1).await.unwrap().len(), 1);
    let until = Instant::now() + PATIENCE;
    let found = loop {
        assert!(Instant::now() < until, "not reclaimed");
        worker.renew().await;
        let found = worker.reclaim().await;
        if !found.is_empty() {
            break found;
        }
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(found, [lost]);
    assert_eq!(worker.roles.target.guidance().await.unwrap().workers, Some(1));
}

#[tokio::test]
async fn a_worker_that_knows_the_roll_hears_of_a_new_target() {
    let server = RedisServer::start().await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let mut worker = Rescuer::new(&broker).await;
    settle_in(&server, std::slice::from_ref(&worker)).await;
    assert_eq!(worker.roles.target.guidance().await.unwrap().target, None);
    worker.renew().await;
    worker.reclaim().await;
    let controller = broker.controller().await.unwrap();
    let wish = Wish { batch: BatchWish::Rows(7), slo_ms: None };
    let epoch = controller.publish(&queue(), wish).await.unwrap();
    let target = &mut worker.roles.target;
    let heard = timeout(PATIENCE, async {
        loop {
            if let Some(target) = target.guidance().await.unwrap().target {
                break target;
            }
        }
    });
    assert_eq!(heard.await.unwrap(), Target { epoch, wish });
}
