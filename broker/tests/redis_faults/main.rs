//! What the Redis broker does when Redis, or the way to it, fails: an established broker comes back
//! by itself, and nothing is silent.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests stand outside a #[test]")]

mod contents;
mod large;
mod outages;
mod sentinels;
mod strays;
mod tls;

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{
    Broker, BrokerError, Consumer, Datatype, Delivery, GatewayId, Inbound, Job, ModelSpec,
    Priority, Producer, QueueName, Reply, RequestId, Settlement, Tensor, Timing, WorkerId,
    redis::{RedisAddress, RedisBroker},
};
use batchfleet_testkit::RedisServer;
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(15);

/// A gateway and a worker on one queue, over one broker.
struct Pair {
    gateway: GatewayId,
    producer: Arc<dyn Producer>,
    consumer: Arc<dyn Consumer>,
}

impl Pair {
    async fn new(address: impl Into<RedisAddress>) -> Self {
        let broker = RedisBroker::connect(address).await.unwrap();
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
            trace: None,
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

fn model() -> ModelSpec {
    ModelSpec {
        queue: queue(),
        platform: "p".into(),
        backend: "b".into(),
        max_batch: std::num::NonZeroU32::new(1),
        inputs: Vec::new(),
        outputs: Vec::new(),
    }
}

/// Redis as its administrator sees it.
async fn administrator(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn refused(address: impl Into<RedisAddress>) -> String {
    match RedisBroker::connect(address).await {
        Err(BrokerError::Misconfigured(cause)) => cause.to_string(),
        other => panic!("not refused: {:?}", other.err()),
    }
}
