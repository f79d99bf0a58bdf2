//! Who the master is changes: everything goes there, whether connections broke or not.

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

/// One request all the way and back, however often its pieces are lost.
async fn serves_again(pair: &Pair) {
    let since = Instant::now();
    loop {
        assert!(since.elapsed() < PATIENCE, "no answer any more");
        let id = pair.submit_at_last().await;
        // None if it was submitted to a master that is one no longer.
        let batch = pair.claim(10).await.unwrap_or_default();
        // Fails when the master goes just now.
        pair.consumer.settle(batch.into_iter().map(super::answer).collect()).await.ok();
        // Whoever does not receive does not subscribe again.
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
    // A sentinel that is not there does not matter.
    let url = watched.url().replace("//", "//127.0.0.1:1,");
    let pair = Pair::new(&url).await;
    pair.serves().await;
    watched.master.kill();
    serves_again(&pair).await;
    assert!(watched.replica.ask("ROLE").await.unwrap().contains("master"));
}

#[tokio::test]
async fn a_planned_failover_moves_everybody() {
    let watched = WatchedRedis::start().await.unwrap();
    let pair = Pair::new(&watched.url()).await;
    pair.serves().await;
    watched.fail_over().await.unwrap();
    moves(&pair, &watched.master, &watched.replica).await;
}

/// Serves, until who listens listens there and no longer here.
async fn moves(pair: &Pair, here: &RedisServer, there: &RedisServer) {
    until("all subscribed to the new one", async || {
        serves_again(pair).await;
        (channels(here).await, channels(there).await) == (0, 1)
    })
    .await;
}

/// On how many channels of ours somebody listens there.
async fn channels(server: &RedisServer) -> usize {
    let mut redis = administrator(server).await;
    let channels: Vec<String> =
        redis::cmd("PUBSUB").arg("CHANNELS").arg("bf:*").query_async(&mut redis).await.unwrap();
    channels.len()
}

#[tokio::test]
async fn connections_that_did_not_break_leave_a_master_that_is_one_no_longer() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let sentinel = RedisServer::start_sentinel(old.address(), &[]).await;
    let pair = Pair::new(&format!("redis+sentinel://{}/main", sentinel.address())).await;
    pair.serves().await;
    // The old one lives, answers and believes that it is the master.
    sentinel.ask("SENTINEL REMOVE main").await.unwrap();
    let port = new.address().port();
    sentinel.ask(&format!("SENTINEL MONITOR main 127.0.0.1 {port} 1")).await.unwrap();
    moves(&pair, &old, &new).await;
    let served = old.info("total_commands_processed").await.unwrap();
    serves_again(&pair).await;
    serves_again(&pair).await;
    let since = old.info("total_commands_processed").await.unwrap() - served;
    // Ours alone, which ask for this number.
    assert!(since <= 3, "{since} commands were sent to the old one");
}

/// The ids of its connections.
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
    // A name may lead elsewhere now, but to no one who keeps a connection.
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
async fn a_master_that_no_sentinel_knows_is_not_waited_for() {
    let redis = RedisServer::start().await;
    let sentinel = RedisServer::start_sentinel(redis.address(), &[]).await;
    let url = format!("redis+sentinel://127.0.0.1:1,{}/mian", sentinel.address());
    let error = refused(&url).await;
    assert!(error.contains("no such master") && error.contains("mian"), "{error}");
}

#[tokio::test]
async fn a_cluster_is_refused_with_what_to_use_instead() {
    let cluster = RedisServer::start_with(&["--cluster-enabled", "yes"]).await;
    let error = refused(&cluster.url()).await;
    assert!(error.contains("cluster") && error.contains("sentinels"), "{error}");
}
