//! Gateways read only what is new to them, and still see workers of earlier versions.

use batchfleet_broker::{Announcement, Consumer, Observer, redis::acl};

use super::*;

/// How often Redis has got this command.
async fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats = server.ask("INFO commandstats").await.unwrap();
    let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
    let calls = line.and_then(|line| line.split_once("calls=")?.1.split(',').next()?.parse().ok());
    calls.unwrap_or_default()
}

async fn worker(broker: &RedisBroker) -> (Announcement, Arc<dyn Consumer>) {
    let id = WorkerId::random();
    let consumer = broker.worker(queue(), id).await.unwrap().consumer;
    (Announcement { capacity: 1000.0, ..Announcement::new(id, model()) }, consumer)
}

/// The living workers once there are news.
async fn living(observer: &dyn Observer) -> usize {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(snapshot) = observer.news().await.unwrap() {
            return snapshot.workers.iter().filter(|worker| worker.live).count();
        }
        assert!(Instant::now() < until, "no news");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_announcement_is_read_once_while_it_says_the_same() {
    let server = RedisServer::start().await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let observer = broker.observer().await.unwrap();
    let (mut announcement, consumer) = worker(&broker).await;
    consumer.renew(&announcement).await.unwrap();
    assert_eq!(living(&*observer).await, 1);
    assert_eq!(calls(&server, "hmget").await, 1);
    // Each news is a second after the last.
    for _ in 0..2 {
        announcement.capacity *= 1.01;
        consumer.renew(&announcement).await.unwrap();
        assert_eq!(observer.news().await.unwrap(), None);
        assert_eq!(living(&*observer).await, 1);
    }
    assert_eq!(calls(&server, "hmget").await, 1);
    announcement.capacity *= 1.1;
    consumer.renew(&announcement).await.unwrap();
    assert_eq!(living(&*observer).await, 1);
    assert_eq!(calls(&server, "hmget").await, 2);
    assert_eq!(calls(&server, "hgetall").await, 2 * 4, "beats and promises, once a second");
}

#[tokio::test]
async fn workers_that_may_not_write_beats_are_seen_too() {
    let server = RedisServer::start().await;
    let rights = acl::worker(None);
    let beats = " %W~bf:{*}:beats";
    assert!(rights.contains(beats), "{rights}");
    let rights = rights.replace(beats, "");
    server.ask(&format!("ACL SETUSER earlier on >x {rights}")).await.unwrap();
    let url = format!("redis://earlier:x@{}", server.address());
    let earlier = RedisBroker::connect(url.as_str()).await.unwrap();
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let observer = broker.observer().await.unwrap();
    let workers = [worker(&broker).await, worker(&earlier).await];
    for (announcement, consumer) in &workers {
        consumer.renew(announcement).await.unwrap();
    }
    assert_eq!(living(&*observer).await, 2);
    let (_, consumer) = &workers[1];
    consumer.retire().await.unwrap();
    let until = Instant::now() + PATIENCE;
    while living(&*observer).await != 1 {
        assert!(Instant::now() < until, "the worker lives on");
        workers[0].1.renew(&workers[0].0).await.unwrap();
    }
}

#[tokio::test]
async fn a_gateway_without_the_right_to_read_beats_sees_all_workers() {
    let server = RedisServer::start().await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let (announcement, consumer) = worker(&broker).await;
    consumer.renew(&announcement).await.unwrap();
    let rights = "resetchannels ~bf:{model:1}:workers ~bf:{fleet}:* +@all";
    server.ask(&format!("ACL SETUSER earlier on >x {rights}")).await.unwrap();
    let url = format!("redis://earlier:x@{}", server.address());
    let observer = RedisBroker::connect(url.as_str()).await.unwrap().observer().await.unwrap();
    for _ in 0..2 {
        assert_eq!(living(&*observer).await, 1);
    }
}

#[tokio::test]
async fn redis_counts_the_jobs_of_an_idle_queue_once() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let observer = RedisBroker::connect(&server.url()).await.unwrap().observer().await.unwrap();
    let added = async || observer.backlog(&queue()).await.unwrap().added;
    for jobs in 0..3 {
        assert_eq!(added().await, jobs);
        let before = calls(&server, "xinfo|stream").await;
        for _ in 0..5 {
            assert_eq!(added().await, jobs);
        }
        assert_eq!(calls(&server, "xinfo|stream").await, before);
        pair.serves().await;
    }
}
