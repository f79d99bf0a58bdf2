//! Redis, or the way to it, is gone for a while.

use std::time::Duration;

use batchfleet_broker::{Announcement, Broker, GatewayId, Inbound, WorkerId, redis::RedisBroker};
use batchfleet_testkit::{CuttingProxy, RedisServer};
use redis::AsyncTypedCommands;
use tokio::time::{Instant, sleep};

use crate::{PATIENCE, Pair, administrator, model, queue, refused};
#[tokio::test]
async fn everything_heals_after_redis_was_killed_and_came_back_empty() {
    let mut server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    pair.serves().await;

    server.kill();
    assert_eq!(pair.submit().await.unwrap_err().code(), "unreachable");
    assert_eq!(pair.claim(1).await.unwrap_err().code(), "unreachable");
    server.restart().await;
    let back = Instant::now();
    assert!(matches!(pair.receive().await, Inbound::Interrupted(_)));
    pair.serves().await;
    assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
}

#[tokio::test]
async fn a_long_outage_is_told_at_once() {
    let mut server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    server.kill();
    // The first ones wait in the hope that it was short.
    assert!(pair.submit().await.is_err());
    sleep(Duration::from_millis(1100)).await;
    let asked = Instant::now();
    assert_eq!(pair.submit().await.unwrap_err().code(), "unreachable");
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn cut_connections_come_back_and_the_gap_is_reported_once() {
    let server = RedisServer::start().await;
    let proxy = CuttingProxy::start(server.address()).await.unwrap();
    let pair = Pair::new(&format!("redis://{}", proxy.address())).await;
    for _ in 0..3 {
        pair.serves().await;
        proxy.cut();
        assert!(matches!(pair.receive().await, Inbound::Interrupted(_)));
    }
    pair.serves().await;
}

#[tokio::test]
async fn a_connection_that_died_without_a_word_is_replaced() {
    let server = RedisServer::start().await;
    let proxy = CuttingProxy::start(server.address()).await.unwrap();
    let pair = Pair::new(&format!("redis://{}", proxy.address())).await;
    pair.serves().await;
    proxy.stall();
    let asked = Instant::now();
    assert_eq!(pair.submit().await.unwrap_err().code(), "unreachable");
    assert!(asked.elapsed() < Duration::from_millis(1500), "{:?}", asked.elapsed());
    // The subscription finds out by itself, and the claim gives up.
    let (interrupted, claimed) = tokio::join!(pair.receive(), async {
        let claimed = pair.claim(1).await;
        proxy.refuse();
        sleep(Duration::from_millis(200)).await;
        proxy.resume();
        claimed
    });
    assert_eq!(claimed.unwrap_err().code(), "unreachable");
    assert!(matches!(interrupted, Inbound::Interrupted(_)));
    pair.submit_at_last().await;
    assert!(!pair.claim_at_last().await.is_empty());
}

#[tokio::test]
async fn a_claim_outlives_the_response_timeout_of_other_commands() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    for _ in 0..3 {
        assert!(pair.claim(1).await.unwrap().is_empty());
    }
    pair.serves().await;
}

#[tokio::test]
async fn a_replica_is_not_a_place_to_submit_to() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let other = RedisServer::start().await;
    let mut redis = administrator(&server).await;
    let (claimed, ()) = tokio::join!(pair.claim(1), async {
        sleep(Duration::from_millis(100)).await;
        let port = other.address().port();
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).exec_async(&mut redis).await.unwrap();
    });
    assert_eq!(claimed.unwrap_err().code(), "unreachable");
    assert_eq!(pair.submit().await.unwrap_err().code(), "unreachable");
}

#[tokio::test]
async fn a_redis_that_evicts_is_refused_but_only_if_its_memory_is_limited() {
    let lru = ["--maxmemory-policy", "allkeys-lru"];
    let unlimited = RedisServer::start_with(&lru).await;
    RedisBroker::connect(&unlimited.url()).await.unwrap();
    let limited = RedisServer::start_with(&[&lru[..], &["--maxmemory", "10mb"]].concat()).await;
    let error = refused(&limited.url()).await;
    assert!(error.contains("allkeys-lru") && error.contains("noeviction"), "{error}");
}

#[tokio::test]
async fn a_url_that_is_none_is_named_without_its_password() {
    for url in ["http://secret@host", "secret", "redis://:secret@host:port"] {
        let error = refused(url).await;
        assert!(error.contains("redis://user:password@host:6379/0"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn connecting_waits_for_a_redis_that_is_not_there_yet() {
    let mut server = RedisServer::start().await;
    server.kill();
    let url = server.url();
    let connecting = tokio::spawn(async move { RedisBroker::connect(&url).await.map(drop) });
    server.restart().await;
    connecting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_broker_out_of_reach_is_soon_not_ready_and_ready_when_it_is_back() {
    let mut server = RedisServer::start().await;
    let proxy = CuttingProxy::start(server.address()).await.unwrap();
    let pair = Pair::new(&format!("redis://{}", proxy.address())).await;
    let ready_within = async |ready: bool, seconds: f64| {
        let asked = Instant::now();
        while pair.producer.is_ready() != ready {
            assert!(asked.elapsed() < Duration::from_secs_f64(seconds), "not {ready} in time");
            sleep(Duration::from_millis(5)).await;
        }
        asked.elapsed().as_secs_f64()
    };
    ready_within(true, 0.0).await;
    // A connection that died without a word, and one that was closed.
    proxy.stall();
    // A beat half a second later finds out, and waits for a second and a half.
    let took = ready_within(false, 2.3).await;
    assert!(took >= 1.49, "a short break is no reason: {took} s");
    proxy.resume();
    proxy.cut();
    ready_within(true, 3.0).await;
    server.kill();
    let took = ready_within(false, 1.8).await;
    assert!(took >= 0.99, "a short break is no reason: {took} s");
    server.restart().await;
    ready_within(true, 2.0).await;
    pair.submit_at_last().await;
}

#[tokio::test]
async fn nobody_is_believed_dead_just_after_a_break_or_a_loss() {
    let server = RedisServer::start().await;
    let proxy = CuttingProxy::start(server.address()).await.unwrap();
    let pair = Pair::new(&format!("redis://{}", proxy.address())).await;
    let other = RedisBroker::connect(&format!("redis://{}", proxy.address())).await.unwrap();
    let other = other.worker(queue(), WorkerId::random()).await.unwrap().consumer;
    let mut redis = administrator(&server).await;
    let nobody = [GatewayId::random()];
    let doubted_for = async || {
        let since = Instant::now();
        loop {
            if !other.reclaim(1).await.unwrap_or_default().is_empty() {
                assert_eq!(other.gateways_alive(&nobody).await.unwrap(), [false]);
                return since.elapsed().as_secs_f64();
            }
            assert!(since.elapsed() < PATIENCE, "never reclaimed");
            sleep(Duration::from_millis(20)).await;
        }
    };
    // This pair's worker never says that it lives, so it is dead as soon as absence means that.
    for _ in 0..4 {
        pair.submit().await.unwrap();
    }
    assert_eq!(pair.claim_at_last().await.len(), 4);
    assert_eq!(other.gateways_alive(&nobody).await.unwrap(), [true], "in doubt");
    let took = doubted_for().await;
    assert!(took > 2.5, "{took} s after it connected");
    proxy.cut();
    let took = doubted_for().await;
    assert!((2.9..4.5).contains(&took), "{took} s after the break");
    redis.set("bf:{fleet}:epoch", "another").await.unwrap();
    let took = doubted_for().await;
    assert!((2.9..4.5).contains(&took), "{took} s after the loss");
    // A Redis that takes no writes takes no signs of life either.
    let announcement = Announcement::new(WorkerId::random(), model());
    let writes_need = async |replicas: &str| {
        let mut redis = administrator(&server).await;
        let set = redis::cmd("CONFIG").arg(&["SET", "min-replicas-to-write", replicas]).to_owned();
        set.exec_async(&mut redis).await.unwrap();
    };
    writes_need("1").await;
    other.renew(&announcement).await.unwrap_err();
    writes_need("0").await;
    let took = doubted_for().await;
    assert!((2.9..4.5).contains(&took), "{took} s after it took no writes");
}
