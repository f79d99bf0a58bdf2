//! What the Redis broker does when Redis, or the way to it, fails: an established broker comes back
//! by itself, and nothing is silent.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests stand outside a #[test]")]

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{
    Broker, BrokerError, Consumer, Datatype, Delivery, GatewayId, Inbound, Job, Priority, Producer,
    QueueName, Reply, RequestId, Settlement, Tensor, Timing, WorkerId, redis::RedisBroker,
};
use batchfleet_testkit::{CuttingProxy, RedisServer};
use redis::AsyncTypedCommands;
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(15);

/// A gateway and a worker on one queue, over one broker.
struct Pair {
    gateway: GatewayId,
    producer: Arc<dyn Producer>,
    consumer: Arc<dyn Consumer>,
}

impl Pair {
    async fn new(url: &str) -> Self {
        let broker = RedisBroker::connect(url).await.unwrap();
        let gateway = GatewayId::random();
        let producer = broker.producer(gateway).await.unwrap();
        let consumer = broker.consumer(queue(), WorkerId::random()).await.unwrap();
        Self { gateway, producer, consumer }
    }

    fn job(&self, bytes: usize) -> Job {
        let data = vec![7; bytes].into();
        let shape = vec![bytes as u64];
        Job {
            id: RequestId::random(),
            gateway: self.gateway,
            attempt: 0,
            priority: Priority::Default,
            ttl: Duration::from_secs(30),
            rows: 1,
            digest: 0,
            inputs: vec![Tensor { name: "x".into(), datatype: Datatype::Uint8, shape, data }],
            outputs: Vec::new(),
        }
    }

    async fn submit(&self) -> Result<RequestId, BrokerError> {
        let job = self.job(10);
        self.producer.submit(&queue(), &job).await.map(|_| job.id)
    }

    /// Submits until it is accepted, for a while.
    async fn submit_at_last(&self) -> RequestId {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.submit().await {
                Ok(id) => return id,
                Err(error) => {
                    assert_eq!(error.code(), "unreachable", "{error}");
                    assert!(Instant::now() < until, "{error}");
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Claims until something comes, for a while.
    async fn claim_at_last(&self) -> Vec<Delivery> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.consumer.claim(10).await {
                Ok(batch) if !batch.is_empty() => return batch,
                Ok(_) => {}
                Err(error) => assert_eq!(error.code(), "unreachable", "{error}"),
            }
            assert!(Instant::now() < until, "nothing came");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn receive(&self) -> Inbound {
        timeout(PATIENCE, self.producer.receive()).await.unwrap()
    }

    /// One request all the way and back.
    async fn serves(&self) {
        let id = self.submit_at_last().await;
        let batch = self.claim_at_last().await;
        assert_eq!(batch.iter().map(|delivery| delivery.job.id).collect::<Vec<_>>(), [id]);
        let unheard = self.consumer.settle(batch.into_iter().map(answer).collect()).await.unwrap();
        assert_eq!(unheard, 0);
        match self.receive().await {
            Inbound::Replies(replies) => assert_eq!(replies[0].id, id),
            Inbound::Interrupted => panic!("interrupted without a reason"),
        }
    }
}

fn queue() -> QueueName {
    QueueName::new("model", 1)
}

fn answer(delivery: Delivery) -> Settlement {
    let Delivery { entry, job: Job { id, gateway, attempt, digest, inputs, .. }, .. } = delivery;
    let reply = Reply { id, attempt, digest, timing: Timing::default(), outcome: Ok(inputs) };
    Settlement { entry, gateway, reply }
}

/// Redis as its administrator sees it.
async fn administrator(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn refused(url: &str) -> String {
    match RedisBroker::connect(url).await {
        Err(BrokerError::Misconfigured(text)) => text,
        other => panic!("not refused: {:?}", other.err()),
    }
}

#[tokio::test]
async fn everything_heals_after_redis_was_killed_and_came_back_empty() {
    let mut server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    pair.serves().await;

    server.kill();
    assert_eq!(pair.submit().await.unwrap_err().code(), "unreachable");
    assert_eq!(pair.consumer.claim(1).await.unwrap_err().code(), "unreachable");
    server.restart().await;
    let back = Instant::now();
    assert!(matches!(pair.receive().await, Inbound::Interrupted));
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
async fn a_flush_under_a_blocked_claim_leaves_a_working_queue() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let mut redis = administrator(&server).await;
    let (claimed, ()) = tokio::join!(pair.consumer.claim(1), async {
        sleep(Duration::from_millis(100)).await;
        redis.flushall().await.unwrap();
    });
    assert!(claimed.unwrap().is_empty());
    pair.serves().await;
}

#[tokio::test]
async fn a_queue_deleted_between_claims_is_made_anew() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    pair.serves().await;
    administrator(&server).await.flushall().await.unwrap();
    pair.serves().await;
}

#[tokio::test]
async fn cut_connections_come_back_and_the_gap_is_reported_once() {
    let server = RedisServer::start().await;
    let proxy = CuttingProxy::start(server.address()).await.unwrap();
    let pair = Pair::new(&format!("redis://{}", proxy.address())).await;
    for _ in 0..3 {
        pair.serves().await;
        proxy.cut();
        assert!(matches!(pair.receive().await, Inbound::Interrupted));
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
        let claimed = pair.consumer.claim(1).await;
        proxy.refuse();
        sleep(Duration::from_millis(200)).await;
        proxy.resume();
        claimed
    });
    assert_eq!(claimed.unwrap_err().code(), "unreachable");
    assert!(matches!(interrupted, Inbound::Interrupted));
    pair.submit_at_last().await;
    assert!(!pair.claim_at_last().await.is_empty());
}

#[tokio::test]
async fn a_claim_outlives_the_response_timeout_of_other_commands() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    for _ in 0..3 {
        assert!(pair.consumer.claim(1).await.unwrap().is_empty());
    }
    pair.serves().await;
}

#[tokio::test]
async fn full_memory_is_told_as_full_and_the_queue_still_drains() {
    let server = RedisServer::start_with(&["--maxmemory", "8mb"]).await;
    let pair = Pair::new(&server.url()).await;
    let job = pair.job(100_000);
    let mut accepted = 0;
    let error = loop {
        match pair.producer.submit(&queue(), &job).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 1000, "never full");
    };
    assert!(matches!(error, BrokerError::Full), "{error}");
    let batch = pair.consumer.claim(accepted).await.unwrap();
    assert_eq!(batch.len(), accepted);
    let one = batch.into_iter().take(1).collect();
    assert!(matches!(pair.consumer.hand_back(one).await.unwrap_err(), BrokerError::Full));
}

#[tokio::test]
async fn a_replica_is_not_a_place_to_submit_to() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let other = RedisServer::start().await;
    let mut redis = administrator(&server).await;
    let (claimed, ()) = tokio::join!(pair.consumer.claim(1), async {
        sleep(Duration::from_millis(100)).await;
        let port = other.address().port();
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).exec_async(&mut redis).await.unwrap();
    });
    assert_eq!(claimed.unwrap_err().code(), "unreachable");
    assert_eq!(pair.submit().await.unwrap_err().code(), "unreachable");
}

#[tokio::test]
async fn an_entry_that_is_no_job_is_removed_and_the_next_one_served() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let mut redis = administrator(&server).await;
    let key = "bf:{model:1}:q:default";
    for fields in [&[("j", "garbage")][..], &[("other", "x")], &[("j", "x"), ("k", "y")]] {
        redis.xadd(key, "*", fields).await.unwrap();
    }
    let id = pair.submit().await.unwrap();
    let batch = pair.consumer.claim(10).await.unwrap();
    assert_eq!(batch.iter().map(|delivery| delivery.job.id).collect::<Vec<_>>(), [id]);
    assert_eq!(redis.xlen(key).await.unwrap(), 1);
}

#[tokio::test]
async fn unreadable_replies_are_told_as_a_gap() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let mut redis = administrator(&server).await;
    redis.publish(format!("bf:reply:{}", pair.gateway), "garbage").await.unwrap();
    assert!(matches!(pair.receive().await, Inbound::Interrupted));
    pair.serves().await;
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
    for url in ["http://secret@host", "secret", "redis://:secret@host:port", "rediss://:secret@h"] {
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
async fn workers_unheard_of_for_an_hour_are_forgotten() {
    let server = RedisServer::start().await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let mut redis = administrator(&server).await;
    let spec = r#""model":{"queue":{"model":"m","version":1},"platform":"p","backend":"b","max_batch":1,"inputs":[],"outputs":[]}"#;
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(&mut redis).await.unwrap();
    for (worker, age) in [("old", 3601), ("young", 3500)] {
        let seen = (seconds - age) * 1000;
        let renewal = format!(r#"{{"worker":"{worker}",{spec},"seen":{seen}}}"#);
        redis.hset("bf:{fleet}:workers", worker, renewal).await.unwrap();
    }
    redis.hset("bf:{fleet}:workers", "odd", "no JSON").await.unwrap();
    let announcements = broker.observer().await.unwrap().announcements().await.unwrap();
    assert_eq!(announcements.len(), 1);
    assert_eq!((announcements[0].worker.as_str(), announcements[0].live), ("young", false));
    let mut left = redis.hkeys("bf:{fleet}:workers").await.unwrap();
    left.sort();
    assert_eq!(left, ["odd", "young"]);
}
