//! The master changes, and all roles follow, whether or not their connections broke.

use std::{collections::HashSet, time::Duration};

use batchfleet_broker::{Inbound, redis::RedisAddress};
use batchfleet_testkit::{Certificates, RedisServer, WatchedRedis};
use tokio::time::{Instant, sleep, timeout};

use super::{PATIENCE, Pair, administrator, refused};

async fn until(what: &str, mut true_at_last: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !true_at_last().await {
        assert!(since.elapsed() < PATIENCE, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Serves one request, with as many attempts as necessary.
async fn serves_again(pair: &Pair) {
    let since = Instant::now();
    loop {
        assert!(since.elapsed() < PATIENCE, "no reply");
        let id = pair.submit_at_last().await;
        // Empty if the job was submitted to the former master.
        let batch = pair.claim(10).await.unwrap_or_default();
        // Fails while the master changes.
        pair.consumer.settle(batch.into_iter().map(super::answer).collect()).await.ok();
        // A gateway subscribes again only while it receives.
        while let Ok(inbound) = timeout(Duration::from_secs(1), pair.inbound()).await {
            if matches!(inbound, Inbound::Replies(replies) if replies.iter().any(|it| it.id == id))
            {
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_master_that_dies_is_followed_by_the_replica() {
    let mut watched = WatchedRedis::start().await.unwrap();
    // The first sentinel does not exist. The other sentinels must suffice.
    let url = watched.url().replace("//", "//127.0.0.1:1,");
    let pair = Pair::new(&url).await;
    pair.serves().await;
    watched.master.kill();
    serves_again(&pair).await;
    assert!(watched.replica.ask("ROLE").await.unwrap().contains("master"));
}

#[tokio::test]
async fn a_planned_failover_moves_all_roles() {
    let watched = WatchedRedis::start().await.unwrap();
    let pair = Pair::new(&watched.url()).await;
    pair.serves().await;
    watched.fail_over().await.unwrap();
    moves(&pair, &watched.master, &watched.replica).await;
}

/// Serves requests until all subscriptions are at the new master and none at the old one.
async fn moves(pair: &Pair, here: &RedisServer, there: &RedisServer) {
    until("all subscribed to the new one", async || {
        serves_again(pair).await;
        (channels(here).await, channels(there).await) == (0, 1)
    })
    .await;
}

/// Counts the channels of the broker that have subscribers on a server.
async fn channels(server: &RedisServer) -> usize {
    let mut redis = administrator(server).await;
    let channels: Vec<String> =
        redis::cmd("PUBSUB").arg("CHANNELS").arg("bf:*").query_async(&mut redis).await.unwrap();
    channels.len()
}

#[tokio::test]
async fn connections_to_a_former_master_are_left_even_if_they_work() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let sentinel = RedisServer::start_sentinel(old.address(), &[]).await;
    let pair = Pair::new(&format!("redis+sentinel://{}/main", sentinel.address())).await;
    pair.serves().await;
    // The old master still answers, and still reports the role of a master.
    sentinel.ask("SENTINEL REMOVE main").await.unwrap();
    let port = new.address().port();
    sentinel.ask(&format!("SENTINEL MONITOR main 127.0.0.1 {port} 1")).await.unwrap();
    moves(&pair, &old, &new).await;
    let served = old.info("total_commands_processed").await.unwrap();
    serves_again(&pair).await;
    serves_again(&pair).await;
    let since = old.info("total_commands_processed").await.unwrap() - served;
    // Only the commands of this test, which read the counter.
    assert!(since <= 3, "{since} commands were sent to the old one");
}

/// The ids of the connections to a server.
async fn clients(server: &RedisServer) -> HashSet<String> {
    let list = server.ask("CLIENT LIST").await.unwrap();
    list.split_whitespace().filter(|word| word.starts_with("id=")).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_redis_that_becomes_a_replica_and_a_master_again_is_found_again() {
    let (redis, other) = (RedisServer::start().await, RedisServer::start().await);
    let pair = Pair::new(&redis.url()).await;
    pair.serves().await;
    let before = clients(&redis).await;
    redis.ask(&format!("REPLICAOF 127.0.0.1 {}", other.address().port())).await.unwrap();
    // The host name may lead to another server now, but open connections stay with the old server.
    until("all connections left", async || {
        pair.claim(1).await.ok();
        timeout(Duration::from_millis(1500), pair.inbound()).await.ok();
        clients(&redis).await.is_disjoint(&before)
    })
    .await;
    redis.ask("REPLICAOF NO ONE").await.unwrap();
    serves_again(&pair).await;
}

#[tokio::test]
async fn sentinels_and_their_master_are_found_over_tls() {
    let certificates = Certificates::new().unwrap();
    let (_master, at) = certificates.start_redis(false).await.unwrap();
    let (_sentinel, sentinel) = certificates.start_sentinel(at).await.unwrap();
    let address = RedisAddress {
        ca: Some(certificates.ca()),
        ..RedisAddress::from(&format!("rediss+sentinel://{sentinel}/main"))
    };
    Pair::new(address).await.serves().await;
}

#[tokio::test]
async fn an_unknown_name_of_the_master_is_an_error_at_once() {
    let redis = RedisServer::start().await;
    let sentinel = RedisServer::start_sentinel(redis.address(), &[]).await;
    let url = format!("redis+sentinel://127.0.0.1:1,{}/mian", sentinel.address());
    let error = refused(&url).await;
    assert!(error.contains("no such master") && error.contains("mian"), "{error}");
}
