//! How many commands the programs send.

use batchfleet_broker::Announcement;
use redis::AsyncTypedCommands;

use super::*;

/// How often each of these commands was called.
async fn calls(server: &RedisServer, commands: &[&str]) -> Vec<u64> {
    let stats = server.ask("INFO commandstats").await.unwrap();
    let calls = |command: &&str| {
        let prefix = format!("cmdstat_{command}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&prefix));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    };
    commands.iter().map(calls).collect()
}

#[tokio::test]
async fn a_request_alone_costs_at_most_13_commands() {
    const REQUESTS: u64 = 50;
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    // The first claims search for strays, and learn which classes are in use.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        pair.serves().await;
    }
    let of_requests = [
        "xadd",
        "xreadgroup",
        "xlen",
        "time",
        "pubsub|numsub",
        "multi",
        "publish",
        "xdel",
        "xack",
        "exec",
        "xpending",
        "xclaim",
    ];
    let before: u64 = calls(&server, &of_requests).await.iter().sum();
    for _ in 0..REQUESTS {
        pair.serves().await;
    }
    let after = calls(&server, &of_requests).await.iter().sum::<u64>() - before;
    assert!(after <= 13 * REQUESTS, "{after} commands for {REQUESTS} requests");
}

#[tokio::test]
async fn a_renewal_writes_the_announcement_only_if_it_has_changed_or_is_lost() {
    let server = RedisServer::start().await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let observer = broker.observer().await.unwrap();
    let id = WorkerId::random();
    let WorkerRoles { consumer, .. } = broker.worker(queue(), id).await.unwrap();
    let mut announcement = Announcement::new(id, model());
    consumer.renew(&announcement).await.unwrap();
    let first = calls(&server, &["sadd"]).await[0];
    // Long before it would be written again anyway.
    consumer.renew(&announcement).await.unwrap();
    assert_eq!(calls(&server, &["sadd"]).await, [first]);
    announcement.batch_limit = 7;
    consumer.renew(&announcement).await.unwrap();
    assert_eq!(calls(&server, &["sadd"]).await, [first + 1]);
    administrator(&server).await.flushall().await.unwrap();
    consumer.renew(&announcement).await.unwrap();
    let snapshot = observer.fleet().await.unwrap();
    assert_eq!(snapshot.workers.len(), 1);
    assert_eq!((snapshot.workers[0].announcement.batch_limit, snapshot.workers[0].live), (7, true));
}

#[tokio::test]
async fn a_connection_that_works_is_not_checked_before_each_use() {
    let server = RedisServer::start().await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let observer = broker.observer().await.unwrap();
    for _ in 0..100 {
        observer.backlog(&queue()).await.unwrap();
    }
    let checks: u64 = calls(&server, &["ping", "unwatch"]).await.iter().sum();
    assert!(checks < 50, "{checks} checks for 100 reads");
}
