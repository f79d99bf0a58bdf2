//! Strays: Redis executes a read that its worker has given up.

use std::{collections::HashSet, process::Command, time::Duration};

use batchfleet_broker::{
    Broker, Delivery, GatewayId, Job, Priority, RequestId, WorkerId, WorkerRoles,
    redis::RedisBroker,
};
use batchfleet_testkit::{CuttingProxy, RedisServer};
use redis::{AsyncTypedCommands, aio::MultiplexedConnection};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{PATIENCE, Pair, administrator, answer, queue};

/// How soon strays must be found.
const SOON: Duration = Duration::from_secs(3);

/// Slightly longer than strays are searched before every claim after the connection was lost.
const STRAY_SEARCH: Duration = Duration::from_millis(2100);

const STREAM: &str = "bf:{model:1}:q:default";

/// Submits jobs over a separate connection.
async fn submit_directly(server: &RedisServer, pair: &Pair, jobs: usize) -> HashSet<RequestId> {
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let gateway = broker.gateway(GatewayId::random()).await.unwrap();
    let mut ids = HashSet::new();
    for _ in 0..jobs {
        let job = pair.job(1);
        gateway.producer.submit(&queue(), &job).await.unwrap();
        ids.insert(job.id);
    }
    ids
}

/// Claims for [`SOON`]. Returns every delivery, so that duplicates are visible.
async fn claim_for_a_while(pair: &Pair) -> Vec<Delivery> {
    let since = Instant::now();
    let mut all = Vec::new();
    while since.elapsed() < SOON {
        match pair.claim(10).await {
            Ok(batch) => all.extend(batch),
            Err(error) => {
                assert_eq!(error.code(), "unreachable", "{error}");
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    all
}

/// Asserts that the batch contains exactly these jobs, each as a first delivery, and that the queue
/// is empty afterwards.
async fn assert_exactly(pair: &Pair, batch: Vec<Delivery>, ids: &HashSet<RequestId>) {
    assert_eq!(batch.len(), ids.len());
    assert_eq!(batch.iter().map(|delivery| delivery.job.id).collect::<HashSet<_>>(), *ids);
    assert!(batch.iter().all(|delivery| delivery.deliveries == 1));
    pair.consumer.settle(batch.into_iter().map(answer).collect()).await.unwrap();
    assert!(pair.claim(10).await.unwrap().is_empty());
}

async fn assert_empty(redis: &mut MultiplexedConnection) {
    assert_eq!(redis.xlen(STREAM).await.unwrap(), 0);
    assert_eq!(held(redis).await, 0);
}

/// Counts the entries that all workers hold.
async fn held(redis: &mut MultiplexedConnection) -> usize {
    redis.xpending(STREAM, "workers").await.unwrap().count()
}

async fn wait_for_a_blocked_read(redis: &mut MultiplexedConnection) {
    let until = Instant::now() + PATIENCE;
    loop {
        let info: String = redis::cmd("INFO").arg("clients").query_async(redis).await.unwrap();
        if info.contains("blocked_clients:1") {
            return;
        }
        assert!(Instant::now() < until, "no read is blocked");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn strays_of_a_stalled_connection_are_found_soon_and_once() {
    let server = RedisServer::start().await;
    let proxy = CuttingProxy::start(server.address()).await.unwrap();
    let pair = Pair::new(&format!("redis://{}", proxy.address())).await;
    let mut redis = administrator(&server).await;
    let (claimed, ids) = tokio::join!(pair.claim(10), async {
        wait_for_a_blocked_read(&mut redis).await;
        proxy.stall();
        submit_directly(&server, &pair, 3).await
    });
    assert_eq!(claimed.unwrap_err().code(), "unreachable");
    assert_eq!(held(&mut redis).await, 1, "the first went to the blocked read");
    proxy.resume();
    let batch = claim_for_a_while(&pair).await;
    assert_exactly(&pair, batch, &ids).await;
    assert_empty(&mut redis).await;
}

#[tokio::test]
async fn strays_of_a_stopped_redis_are_found_soon_and_once() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let mut redis = administrator(&server).await;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut redis).await.unwrap();
    let process = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap();
    let signal = |name| {
        assert!(Command::new("kill").args([name, process]).status().unwrap().success());
    };
    // After these claims, the worker searches no strays, and reads only the class in use.
    pair.serves().await;
    let since = Instant::now();
    while since.elapsed() < STRAY_SEARCH {
        assert!(pair.claim(10).await.unwrap().is_empty());
    }
    let ids = submit_directly(&server, &pair, 3).await;
    signal("-STOP");
    let stopped = Instant::now();
    assert_eq!(pair.claim(10).await.unwrap_err().code(), "unreachable");
    sleep_until(stopped + Duration::from_secs(6)).await;
    signal("-CONT");
    let woken = Instant::now();
    while held(&mut redis).await != ids.len() {
        assert!(woken.elapsed() < SOON, "the read was not carried out");
    }
    let batch = claim_for_a_while(&pair).await;
    assert_exactly(&pair, batch, &ids).await;
    assert_empty(&mut redis).await;
}

#[tokio::test]
async fn held_and_settled_entries_are_no_strays() {
    let server = RedisServer::start().await;
    let proxy = CuttingProxy::start(server.address()).await.unwrap();
    let pair = Pair::new(&format!("redis://{}", proxy.address())).await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let mut dead = broker.worker(queue(), WorkerId::random()).await.unwrap().claims;
    submit_directly(&server, &pair, 1).await;
    assert_eq!(dead.claim(10).await.unwrap().len(), 1);
    let until = Instant::now() + PATIENCE;
    let mut own = loop {
        let batch = pair.consumer.reclaim(10).await.unwrap();
        if !batch.is_empty() {
            break batch;
        }
        assert!(Instant::now() < until, "never reclaimed");
        sleep(Duration::from_millis(20)).await;
    };
    submit_directly(&server, &pair, 4).await;
    own.extend(pair.claim(10).await.unwrap());
    assert_eq!(own.len(), 5);
    pair.consumer.settle(vec![answer(own.remove(0))]).await.unwrap();
    for _ in 0..2 {
        proxy.cut();
        assert!(claim_for_a_while(&pair).await.is_empty());
        assert!(pair.consumer.reclaim(10).await.unwrap().is_empty());
    }
    let back = own.pop().unwrap();
    let id = back.job.id;
    pair.consumer.hand_back(vec![back]).await.unwrap();
    proxy.cut();
    let batch = claim_for_a_while(&pair).await;
    assert_eq!(batch.iter().map(|delivery| delivery.job.id).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn searching_all_the_time_finds_no_strays_in_a_busy_worker() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let since = Instant::now();
    let busy = || since.elapsed() < SOON;
    let submit = async {
        let mut ids = HashSet::new();
        while busy() {
            ids.insert(pair.submit().await.unwrap());
        }
        ids
    };
    let claim = async {
        let mut ids = Vec::new();
        let mut held = Vec::new();
        loop {
            let batch = pair.claim(8).await.unwrap();
            if batch.is_empty() && !busy() {
                return ids;
            }
            ids.extend(batch.iter().map(|delivery| delivery.job.id));
            // Some jobs are held longer than others.
            held.extend(batch.into_iter().map(answer));
            if held.len() > 100 {
                pair.consumer.settle(held.split_off(20)).await.unwrap();
            }
        }
    };
    let reclaim = async {
        while busy() {
            assert!(pair.consumer.reclaim(10).await.unwrap().is_empty());
        }
    };
    let (submitted, claimed, ()) = tokio::join!(submit, claim, reclaim);
    assert!(submitted.len() > 100, "{} jobs are no load", submitted.len());
    assert_eq!(claimed.len(), submitted.len());
    assert_eq!(claimed.into_iter().collect::<HashSet<_>>(), submitted);
}

#[tokio::test]
async fn strays_of_any_class_are_noticed_without_a_broken_connection_and_come_in_portions() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let worker = WorkerId::random();
    let WorkerRoles { mut claims, consumer, .. } = broker.worker(queue(), worker).await.unwrap();
    let since = Instant::now();
    while since.elapsed() < STRAY_SEARCH {
        assert!(claims.claim(10).await.unwrap().is_empty());
    }
    let mut ids = Vec::new();
    for priority in [Priority::Sheddable, Priority::Default, Priority::Critical] {
        for _ in 0..2 {
            let job = Job { priority, ..pair.job(1) };
            pair.producer.submit(&queue(), &job).await.unwrap();
            ids.push(job.id);
            sleep(Duration::from_millis(2)).await;
        }
    }
    let held = claims.claim(1).await.unwrap();
    ids.retain(|id| *id != held[0].job.id);
    let mut redis = administrator(&server).await;
    let worker = worker.to_string();
    for class in ["critical", "default", "sheddable"] {
        let stream = format!("bf:{{model:1}}:q:{class}");
        let mut read = redis::cmd("XREADGROUP");
        read.arg(&["GROUP", "workers", worker.as_str(), "STREAMS", stream.as_str(), ">"]);
        read.exec_async(&mut redis).await.unwrap();
    }
    assert!(consumer.reclaim(10).await.unwrap().is_empty());
    let mut found = Vec::new();
    for portion in [2, 2, 1] {
        let batch = claims.claim(2).await.unwrap();
        assert_eq!(batch.len(), portion);
        assert!(batch.iter().all(|delivery| delivery.deliveries == 1));
        found.extend(batch.iter().map(|delivery| delivery.job.id));
    }
    assert_eq!(found, ids, "the oldest first");
    assert!(claims.claim(2).await.unwrap().is_empty());
}
