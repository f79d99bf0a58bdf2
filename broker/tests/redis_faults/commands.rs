//! How many commands the programs send.

use batchfleet_broker::{Announcement, sharded::ShardedBroker};
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

/// The commands of each request.
const OF_REQUESTS: [&str; 10] = [
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
];
/// The commands that search for jobs which never arrived, more often after a connection.
const OF_SEARCHES: [&str; 2] = ["xpending", "xclaim"];

/// How many of these commands were called.
async fn count(server: &RedisServer, commands: &[&str]) -> u64 {
    calls(server, commands).await.iter().sum()
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
    let all = [&OF_REQUESTS[..], &OF_SEARCHES].concat();
    let before = count(&server, &all).await;
    for _ in 0..REQUESTS {
        pair.serves().await;
    }
    let after = count(&server, &all).await - before;
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

/// The most commands that one of several Redises runs for 256 requests, in batches of 8.
async fn most_commands(redises: usize) -> u64 {
    const BATCH: usize = 8;
    let (mut servers, mut brokers, mut workers) = (Vec::new(), Vec::new(), Vec::new());
    for shard in 0..redises {
        let server = RedisServer::start().await;
        let broker = RedisBroker::connect(&server.url()).await.unwrap();
        let id = WorkerId::random();
        let worker = broker.worker(queue(), id).await.unwrap();
        worker.consumer.renew(&Announcement::new(id, model())).await.unwrap();
        servers.push(server);
        workers.push(worker);
        brokers.push((shard.to_string(), Arc::new(broker) as Arc<dyn Broker>));
    }
    let broker = ShardedBroker::new(brokers, BATCH).await.unwrap();
    broker.observer().await.unwrap().look(&[], false).await.unwrap();
    let pair = Pair::between(&broker, &broker).await;
    let (queue, jobs) = (queue(), vec![pair.job(10); BATCH * redises]);
    let jobs: Vec<_> = jobs.iter().map(|job| (&queue, job)).collect();
    let mut before = Vec::new();
    for server in &servers {
        before.push(count(server, &OF_REQUESTS).await);
    }
    for _ in 0..32 / redises {
        assert!(pair.producer.submit_all(&jobs).await.iter().all(Result::is_ok));
        for WorkerRoles { claims, consumer, .. } in &mut workers {
            let batch = claims.claim(BATCH).await.unwrap();
            assert_eq!(batch.len(), BATCH);
            consumer.settle(batch.into_iter().map(answer).collect()).await.unwrap();
        }
    }
    let mut most = 0;
    for (server, before) in servers.iter().zip(before) {
        most = most.max(count(server, &OF_REQUESTS).await - before);
    }
    most
}

#[tokio::test]
async fn each_of_several_redises_runs_its_share_of_the_commands() {
    let one = most_commands(1).await;
    for redises in [2, 4] {
        let most = most_commands(redises).await;
        assert!(most * redises as u64 * 100 <= one * 115, "{most} of {one} at one of {redises}");
    }
}
