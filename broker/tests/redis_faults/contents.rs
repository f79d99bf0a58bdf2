//! The data in Redis is lost, unreadable or too large.

use std::{collections::HashSet, time::Duration};

use batchfleet_broker::{
    Announcement, Broker, BrokerError, EntryId, Failure, GatewayId, Inbound, Job, Priority,
    QueueName, ReplyError, WorkerId, redis::RedisBroker,
};
use batchfleet_testkit::RedisServer;
use redis::AsyncTypedCommands;
use tokio::time::{Instant, sleep, timeout};

use crate::{PATIENCE, Pair, administrator, answer, model, queue};

#[tokio::test]
async fn a_flush_under_a_blocked_claim_leaves_a_working_queue() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let mut redis = administrator(&server).await;
    let (claimed, ()) = tokio::join!(pair.claim(1), async {
        sleep(Duration::from_millis(100)).await;
        redis.flushall().await.unwrap();
    });
    assert!(claimed.unwrap().is_empty());
    assert!(matches!(pair.receive().await, Inbound::Interrupted(_)));
    pair.serves().await;
}

#[tokio::test]
async fn a_queue_deleted_between_claims_is_created_again() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    pair.serves().await;
    administrator(&server).await.flushall().await.unwrap();
    assert!(matches!(pair.receive().await, Inbound::Interrupted(_)));
    pair.serves().await;
}

#[tokio::test]
async fn full_memory_is_reported_and_the_queue_still_drains() {
    let server = RedisServer::start_with(&["--maxmemory", "8mb"]).await;
    let pair = Pair::new(&server.url()).await;
    let job = pair.job(400_000);
    let mut accepted = 0;
    let error = loop {
        match pair.producer.submit(&queue(), &job).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 1000, "never full");
    };
    assert!(matches!(error, BrokerError::Full), "{error}");
    let together = pair.producer.submit_all(&[(&queue(), &job)]).await;
    assert!(matches!(together[..], [Err(BrokerError::Full)]), "{together:?}");
    let mut batch = pair.claim(accepted).await.unwrap();
    assert_eq!(batch.len(), accepted);
    let one = batch.split_off(accepted - 1);
    assert!(matches!(pair.consumer.hand_back(one).await.unwrap_err(), BrokerError::Full));
    for delivery in batch {
        assert_eq!(pair.consumer.settle(vec![answer(delivery)]).await.unwrap(), 0);
    }
    pair.producer.submit(&queue(), &job).await.unwrap();
}

#[tokio::test]
async fn an_entry_without_a_job_is_removed_and_the_next_one_served() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let mut redis = administrator(&server).await;
    let key = "bf:{model:1}:q:default";
    for fields in [&[("j", "garbage")][..], &[("other", "x")], &[("j", "x"), ("k", "y")]] {
        redis.xadd(key, "*", fields).await.unwrap();
    }
    let id = pair.submit().await.unwrap();
    let batch = pair.claim(10).await.unwrap();
    assert_eq!(batch.iter().map(|delivery| delivery.job.id).collect::<Vec<_>>(), [id]);
    assert_eq!(redis.xlen(key).await.unwrap(), 1);
}

#[tokio::test]
async fn unreadable_replies_are_an_interruption() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let mut redis = administrator(&server).await;
    redis.publish(format!("bf:reply:{}", pair.gateway), "garbage").await.unwrap();
    assert!(matches!(pair.receive().await, Inbound::Interrupted(_)));
    pair.serves().await;
}

#[tokio::test]
async fn announcements_that_are_junk_or_older_than_an_hour_are_deleted() {
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
    let workers = broker.observer().await.unwrap().fleet().await.unwrap().workers;
    assert_eq!(workers.len(), 1);
    assert_eq!((workers[0].announcement.worker.as_str(), workers[0].live), ("young", false));
    let mut left = redis.hkeys("bf:{fleet}:workers").await.unwrap();
    left.sort();
    assert_eq!(left, ["young"]);
}

#[tokio::test]
async fn a_controller_deletes_promises_that_are_junk_or_older_than_an_hour() {
    let server = RedisServer::start().await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let mut redis = administrator(&server).await;
    let expected = Announcement::new(WorkerId(1), model());
    let mut old = serde_json::to_value(&expected).unwrap();
    old["seen"] = 1.into();
    for (queue, promise) in [("old:1", old.to_string()), ("odd:1", "no JSON".to_owned())] {
        redis.hset("bf:{fleet}:promises", queue, promise).await.unwrap();
    }
    broker.controller().await.unwrap().promise(&expected).await.unwrap();
    let left = redis.hkeys("bf:{fleet}:promises").await.unwrap();
    assert_eq!(left, [queue().to_string()]);
}

#[tokio::test]
async fn lost_data_is_one_interruption_within_a_second_even_if_no_connection_broke() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let entry = pair.producer.submit(&queue(), &pair.job(1)).await.unwrap();
    assert_eq!(pair.producer.outstanding(&queue(), &[entry]).await.unwrap(), [true]);
    let mut redis = administrator(&server).await;
    for _ in 0..2 {
        redis.flushall().await.unwrap();
        let flushed = Instant::now();
        assert!(matches!(pair.receive().await, Inbound::Interrupted(_)));
        assert!(flushed.elapsed() < Duration::from_secs(1), "{:?}", flushed.elapsed());
        assert_eq!(pair.producer.outstanding(&queue(), &[entry]).await.unwrap(), [false]);
    }
    assert!(timeout(Duration::from_millis(1200), pair.inbound()).await.is_err());
    pair.serves().await;
}

#[tokio::test]
async fn another_server_behind_the_same_connection_is_an_interruption() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let mut redis = administrator(&server).await;
    // Like a failover: a promoted replica has a new replication id.
    let info = async |redis: &mut redis::aio::MultiplexedConnection| -> String {
        redis::cmd("INFO").arg("replication").query_async(redis).await.unwrap()
    };
    let other = RedisServer::start().await;
    let port = other.address().port();
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).exec_async(&mut redis).await.unwrap();
    while !info(&mut redis).await.contains("master_link_status:up") {
        sleep(Duration::from_millis(20)).await;
    }
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut redis).await.unwrap();
    assert!(matches!(pair.receive().await, Inbound::Interrupted(_)));
}

#[tokio::test]
async fn entries_without_a_job_that_a_dead_worker_held_are_removed() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let other = broker.worker(queue(), WorkerId::random()).await.unwrap().consumer;
    let observer = broker.observer().await.unwrap();
    let mut redis = administrator(&server).await;
    // One job is withdrawn after the claim, and one entry has no job.
    let withdrawn = pair.producer.submit(&queue(), &pair.job(1)).await.unwrap();
    let id = pair.submit().await.unwrap();
    assert_eq!(pair.claim(10).await.unwrap().len(), 2);
    pair.producer.withdraw(&queue(), withdrawn).await.unwrap();
    let key = "bf:{model:1}:q:default";
    redis.xadd(key, "*", &[("j", "garbage")]).await.unwrap();
    let mut read = redis::cmd("XREADGROUP");
    read.arg(&["GROUP", "workers", "dead", "STREAMS", key, ">"]);
    read.exec_async(&mut redis).await.unwrap();
    let until = Instant::now() + PATIENCE;
    let batch = loop {
        let batch = other.reclaim(10).await.unwrap();
        if !batch.is_empty() {
            break batch;
        }
        assert!(Instant::now() < until, "never reclaimed");
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(batch.iter().map(|delivery| delivery.job.id).collect::<Vec<_>>(), [id]);
    assert_eq!(observer.backlog(&queue()).await.unwrap().in_flight, 1);
    assert_eq!(redis.xlen(key).await.unwrap(), 1);
}

#[tokio::test]
async fn poison_leaves_a_dead_letter_without_its_body() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let id = pair.submit().await.unwrap();
    pair.submit().await.unwrap();
    let mut settlements: Vec<_> = pair.claim(2).await.unwrap().into_iter().map(answer).collect();
    let message = "it kills".to_owned();
    settlements[0].reply.outcome = Err(ReplyError { failure: Failure::Poison, message });
    settlements[0].reply.digest = 0xabc;
    let entry = settlements[0].entry;
    pair.consumer.settle(settlements).await.unwrap();
    let mut redis = administrator(&server).await;
    let letters = redis.xrange_all("bf:{model:1}:dead").await.unwrap().ids;
    assert_eq!(letters.len(), 1);
    let fields = [
        ("request", id.to_string()),
        ("gateway", pair.gateway.to_string()),
        ("attempt", "0".to_owned()),
        ("digest", "0000000000000abc".to_owned()),
        ("entry", entry.to_string()),
        ("message", "it kills".to_owned()),
    ];
    assert_eq!(letters[0].map.len(), fields.len());
    for (name, value) in fields {
        assert_eq!(letters[0].get::<String>(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn a_full_redis_prolongs_liveness_and_new_workers_can_drain_it() {
    let server = RedisServer::start_with(&["--maxmemory", "8mb"]).await;
    let pair = Pair::new(&server.url()).await;
    let observer = RedisBroker::connect(&server.url()).await.unwrap().observer().await.unwrap();
    let id = WorkerId::random();
    let worker = RedisBroker::connect(&server.url()).await.unwrap();
    let worker = worker.worker(queue(), id).await.unwrap().consumer;
    let announcement = Announcement::new(id, model());
    worker.renew(&announcement).await.unwrap();
    let job = pair.job(400_000);
    let entry = pair.producer.submit(&queue(), &job).await.unwrap();
    while pair.producer.submit(&queue(), &job).await.is_ok() {}
    assert!(observer.memory().await.unwrap()[0].used > 0.95);

    let filled = Instant::now();
    while filled.elapsed() < Duration::from_secs(4) {
        worker.renew(&announcement).await.unwrap();
        sleep(Duration::from_millis(500)).await;
    }
    assert!(observer.fleet().await.unwrap().workers[0].live);
    assert!(observer.news().await.unwrap().unwrap().workers[0].live);
    let gateways = [pair.gateway, GatewayId::random()];
    assert_eq!(worker.gateways_alive(&gateways).await.unwrap(), [true, false]);
    assert!(pair.producer.is_ready());
    assert_eq!(pair.producer.outstanding(&queue(), &[entry]).await.unwrap(), [true]);
    let newcomer = RedisBroker::connect(&server.url()).await.unwrap();
    let mut newcomer = newcomer.worker(queue(), WorkerId::random()).await.unwrap();
    let mut poison = answer(newcomer.claims.claim(1).await.unwrap().remove(0));
    let message = "it kills".to_owned();
    poison.reply.outcome = Err(ReplyError { failure: Failure::Poison, message });
    assert_eq!(newcomer.consumer.settle(vec![poison]).await.unwrap(), 0);
    assert_eq!(pair.producer.outstanding(&queue(), &[entry]).await.unwrap(), [false]);
}

#[tokio::test]
async fn deleting_the_stream_of_one_class_does_not_harm_the_others() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let mut redis = administrator(&server).await;
    let submit = async |priority| {
        let job = Job { priority, ..pair.job(1) };
        pair.producer.submit(&queue(), &job).await.unwrap();
    };
    // Marks both classes as in use, so that both are read.
    for priority in [Priority::Critical, Priority::Default] {
        submit(priority).await;
    }
    assert_eq!(pair.claim(10).await.unwrap().len(), 2);
    redis.del("bf:{model:1}:q:critical").await.unwrap();
    submit(Priority::Critical).await;
    submit(Priority::Default).await;
    let mut claimed = HashSet::new();
    // One of these claims only creates the deleted stream again.
    for _ in 0..3 {
        let batch = pair.claim(10).await.unwrap();
        claimed.extend(batch.iter().map(|delivery| delivery.entry.priority));
    }
    assert_eq!(claimed, HashSet::from([Priority::Critical, Priority::Default]));
}

#[tokio::test]
async fn jobs_are_outstanding_in_a_queue_without_workers() {
    let server = RedisServer::start().await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let pair = Pair::new(&server.url()).await;
    let elsewhere = QueueName::new("elsewhere", 2);
    let entry = pair.producer.submit(&elsewhere, &pair.job(1)).await.unwrap();
    let later = EntryId { sequence: entry.sequence + 1, ..entry };
    let outstanding = pair.producer.outstanding(&elsewhere, &[later, entry]).await.unwrap();
    assert_eq!(outstanding, [false, true]);
    let backlog = broker.observer().await.unwrap().backlog(&elsewhere).await.unwrap();
    assert_eq!((backlog.waiting, backlog.added), ([0, 1, 0], 1));
}

#[tokio::test]
async fn a_flush_between_two_reads_makes_no_worker_look_dead() {
    let server = RedisServer::start().await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let (worker, redis) = (WorkerId::random(), administrator(&server).await);
    let consumer = broker.worker(queue(), worker).await.unwrap().consumer;
    let observer = broker.observer().await.unwrap();
    for round in 0..500 {
        consumer.renew(&Announcement::new(worker, model())).await.unwrap();
        redis.clone().set("bf:{fleet}:epoch", round).await.unwrap();
        let mut redis = redis.clone();
        let look = async {
            if round % 2 == 0 {
                return observer.fleet().await;
            }
            observer.news().await.map(Option::unwrap_or_default)
        };
        let (seen, ()) = tokio::join!(look, async {
            // The flush happens at a different moment in each round.
            for _ in 0..round % 8 {
                redis.ping().await.unwrap();
            }
            redis.flushall().await.unwrap();
        });
        let dead = seen.iter().flat_map(|seen| &seen.workers).any(|worker| !worker.live);
        assert!(!dead, "round {round}: {seen:?}");
    }
}
