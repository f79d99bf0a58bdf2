//! Redis, or the network to Redis, fails for a while.

use std::{future::ready, time::Duration};

use batchfleet_broker::{
    Announcement, Broker, GatewayId, GatewayRoles, Inbound, WorkerId, redis::RedisBroker,
};
use batchfleet_testkit::{CuttingProxy, RedisServer};
use redis::AsyncTypedCommands;
use tokio::time::{Instant, sleep};

use crate::{PATIENCE, Pair, administrator, model, queue, refused};

/// A broker that was opened while this server did not run.
async fn opened_early(server: &mut RedisServer) -> RedisBroker {
    server.kill();
    let broker = RedisBroker::connect_or_go_on(&server.url(), ready(())).await.unwrap();
    let outage = broker.observer().await.unwrap().health().outage.unwrap();
    assert_eq!(outage.error.code(), "unreachable");
    broker
}

#[tokio::test]
async fn a_redis_that_answers_after_the_start_is_used_from_then_on() {
    let mut server = RedisServer::start().await;
    let broker = opened_early(&mut server).await;
    let GatewayRoles { producer, replies } = broker.gateway(GatewayId::random()).await.unwrap();
    let (observer, mut replies) = (broker.observer().await.unwrap(), replies);
    assert!(observer.fleet().await.is_err());
    server.restart().await;
    assert!(matches!(replies.receive().await, Inbound::Interrupted(_)), "it has subscribed");
    let until = Instant::now() + PATIENCE;
    while observer.health().outage.is_some() || !producer.is_ready() {
        assert!(observer.fleet().await.is_ok());
        assert!(Instant::now() < until, "{:?}", observer.health());
        sleep(Duration::from_millis(10)).await;
    }
    Pair::between(&broker, &broker).await.serves().await;
}

#[tokio::test]
async fn a_redis_that_would_lose_jobs_is_not_used_after_the_start_either() {
    let options = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let mut server = RedisServer::start_with(&options).await;
    let broker = opened_early(&mut server).await;
    let observer = broker.observer().await.unwrap();
    server.restart().await;
    let until = Instant::now() + PATIENCE;
    loop {
        let outage = observer.health().outage.unwrap();
        if outage.error.code() == "misconfigured" {
            break;
        }
        assert!(Instant::now() < until, "{outage:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn all_roles_recover_after_redis_was_killed_and_restarted_empty() {
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
async fn calls_fail_at_once_in_a_long_outage() {
    let mut server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    server.kill();
    // The first call waits, because the outage may be short.
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
async fn a_stalled_connection_is_replaced() {
    let server = RedisServer::start().await;
    let proxy = CuttingProxy::start(server.address()).await.unwrap();
    let pair = Pair::new(&format!("redis://{}", proxy.address())).await;
    pair.serves().await;
    proxy.stall();
    let asked = Instant::now();
    assert_eq!(pair.submit().await.unwrap_err().code(), "unreachable");
    assert!(asked.elapsed() < Duration::from_millis(1500), "{:?}", asked.elapsed());
    // The subscription detects the stall with its check, and the claim with its timeout.
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
async fn submitting_to_a_replica_fails() {
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
async fn an_invalid_url_is_refused_without_showing_its_password() {
    for url in ["http://secret@host", "secret", "redis://:secret@host:port"] {
        let error = refused(url).await;
        assert!(error.contains("redis://user:password@host:6379/0"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn connecting_waits_until_redis_starts() {
    let mut server = RedisServer::start().await;
    server.kill();
    let url = server.url();
    let connecting = tokio::spawn(async move { RedisBroker::connect(&url).await.map(drop) });
    server.restart().await;
    connecting.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_unreachable_broker_is_soon_not_ready_and_ready_again_when_it_is_back() {
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
    // First a stalled connection, then a closed connection.
    proxy.stall();
    // The next heartbeat begins within 500 ms, and waits 1.5 s for an answer.
    let took = ready_within(false, 2.3).await;
    assert!(took >= 1.49, "not ready after {took} s only");
    proxy.resume();
    proxy.cut();
    ready_within(true, 3.0).await;
    server.kill();
    let took = ready_within(false, 1.8).await;
    assert!(took >= 0.99, "not ready after {took} s only");
    server.restart().await;
    ready_within(true, 2.0).await;
    pair.submit_at_last().await;
}

#[tokio::test]
async fn no_worker_counts_as_dead_during_the_liveness_grace_period() {
    let server = RedisServer::start().await;
    let proxy = CuttingProxy::start(server.address()).await.unwrap();
    let pair = Pair::new(&format!("redis://{}", proxy.address())).await;
    let other = RedisBroker::connect(&format!("redis://{}", proxy.address())).await.unwrap();
    let other = other.worker(queue(), WorkerId::random()).await.unwrap().consumer;
    let mut redis = administrator(&server).await;
    let unknown = [GatewayId::random()];
    let grace_period = async || {
        let since = Instant::now();
        loop {
            if !other.reclaim(1).await.unwrap_or_default().is_empty() {
                assert_eq!(other.gateways_alive(&unknown).await.unwrap(), [false]);
                return since.elapsed().as_secs_f64();
            }
            assert!(since.elapsed() < PATIENCE, "never reclaimed");
            sleep(Duration::from_millis(20)).await;
        }
    };
    // The worker of this pair never announces itself, so it is dead after the grace period.
    for _ in 0..4 {
        pair.submit().await.unwrap();
    }
    assert_eq!(pair.claim_at_last().await.len(), 4);
    assert_eq!(other.gateways_alive(&unknown).await.unwrap(), [true], "grace period");
    let took = grace_period().await;
    assert!(took > 2.5, "{took} s after it connected");
    proxy.cut();
    let took = grace_period().await;
    assert!((2.9..4.5).contains(&took), "{took} s after the break");
    redis.set("bf:{fleet}:epoch", "another").await.unwrap();
    let took = grace_period().await;
    assert!((2.9..4.5).contains(&took), "{took} s after the loss");
    // A Redis that refuses writes also refuses renewals.
    let announcement = Announcement::new(WorkerId::random(), model());
    let writes_need = async |replicas: &str| {
        let mut redis = administrator(&server).await;
        let set = redis::cmd("CONFIG").arg(&["SET", "min-replicas-to-write", replicas]).to_owned();
        set.exec_async(&mut redis).await.unwrap();
    };
    writes_need("1").await;
    other.renew(&announcement).await.unwrap_err();
    writes_need("0").await;
    let took = grace_period().await;
    assert!((2.9..4.5).contains(&took), "{took} s after it took no writes");
}
