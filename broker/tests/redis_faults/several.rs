//! Several Redises that share the queues, one of which is full or lost.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{
    Announcement, Broker, ShardId, WorkerId, redis::RedisBroker, sharded::ShardedBroker,
};
use batchfleet_testkit::RedisServer;
use tokio::time::{Instant, sleep};

use crate::{PATIENCE, Pair, administrator, model, queue};

/// Announces a worker that lives at this Redis.
async fn live_at(broker: &RedisBroker) {
    let id = WorkerId::random();
    let worker = broker.worker(queue(), id).await.unwrap();
    worker.consumer.renew(&Announcement::new(id, model())).await.unwrap();
}

#[tokio::test]
async fn jobs_pass_by_a_redis_that_is_nearly_full() {
    let memory = ["--maxmemory", "64mb"];
    let (full, empty) = (RedisServer::start_with(&memory).await, RedisServer::start().await);
    let mut brokers = Vec::new();
    for server in [&full, &empty] {
        brokers.push(RedisBroker::connect(&server.url()).await.unwrap());
    }
    let named = brokers.iter().map(|broker| Arc::new(broker.clone()) as Arc<dyn Broker>);
    let named = named.enumerate().map(|(shard, broker)| (shard.to_string(), broker)).collect();
    let sharded = ShardedBroker::new(named, 8).await.unwrap();
    let observer = sharded.observer().await.unwrap();
    live_at(&brokers[0]).await;
    let mut fill = redis::cmd("SETRANGE");
    fill.arg("ballast").arg(55_u64 << 20).arg("x");
    fill.exec_async(&mut administrator(&full).await).await.unwrap();

    let look = async || {
        let memory = observer.look(&[queue()], true).await.unwrap().memory.unwrap();
        assert_eq!(memory.iter().map(|memory| memory.shard).collect::<Vec<_>>(), [ShardId(0)]);
        assert!(memory[0].used > 0.8 && !observer.is_full(&memory), "the other has memory");
    };
    look().await;
    let gateway = Pair::between(&sharded, &sharded).await;
    let refused = gateway.producer.submit(&queue(), &gateway.job(10)).await.unwrap_err();
    assert_eq!(refused.code(), "full", "no worker would run the job elsewhere");

    live_at(&brokers[1]).await;
    look().await;
    for _ in 0..4 {
        let entry = gateway.producer.submit(&queue(), &gateway.job(10)).await.unwrap();
        assert_eq!(entry.shard, ShardId(1));
    }
}

/// A worker that has left a lost Redis for another asks nothing of it any longer.
#[tokio::test]
async fn a_redis_that_is_back_counts_as_back_without_being_asked() {
    let mut server = RedisServer::start().await;
    let broker = RedisBroker::connect(&server.url()).await.unwrap();
    let observer = broker.observer().await.unwrap();
    server.kill();
    // The last question that the worker asks.
    observer.held(&queue()).await.unwrap_err();
    assert!(observer.health().outage.is_some());
    server.restart().await;
    let until = Instant::now() + PATIENCE;
    while observer.health().outage.is_some() {
        assert!(Instant::now() < until, "it counts as lost for ever");
        sleep(Duration::from_millis(50)).await;
    }
}
