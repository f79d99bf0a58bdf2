//! The Redis broker during failures of Redis and of the network: it recovers automatically, and
//! reports every loss.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests stand outside a #[test]")]

mod access;
mod clusters;
mod commands;
mod contents;
mod large;
mod large_values;
mod news;
mod outages;
mod roll;
mod sentinels;
mod several;
mod slow_transfers;
mod strays;
mod tls;

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{
    Broker, BrokerError, Claims, Consumer, Datatype, Delivery, GatewayId, GatewayRoles, Inbound,
    Job, ModelSpec, Priority, Producer, QueueName, Replies, Reply, RequestId, Settlement, Tensor,
    Timing, WorkerId, WorkerRoles,
    redis::{RedisAddress, RedisBroker},
};
use batchfleet_testkit::RedisServer;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(15);

/// A gateway and a worker on one queue, over one broker.
struct Pair {
    gateway: GatewayId,
    producer: Arc<dyn Producer>,
    replies: Mutex<Box<dyn Replies>>,
    claims: Mutex<Box<dyn Claims>>,
    consumer: Arc<dyn Consumer>,
}

impl Pair {
    async fn new(address: impl Into<RedisAddress>) -> Self {
        let broker = RedisBroker::connect(address).await.unwrap();
        Self::between(&broker, &broker).await
    }

    /// A gateway over the first broker, and a worker over the second one.
    async fn between(of_gateway: &dyn Broker, of_worker: &dyn Broker) -> Self {
        let gateway = GatewayId::random();
        let GatewayRoles { producer, replies } = of_gateway.gateway(gateway).await.unwrap();
        let worker = of_worker.worker(queue(), WorkerId::random()).await.unwrap();
        let WorkerRoles { claims, consumer, .. } = worker;
        let (replies, claims) = (Mutex::new(replies), Mutex::new(claims));
        Self { gateway, producer, replies, claims, consumer }
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
            classes: Vec::new(),
            offer: None,
        }
    }

    async fn submit(&self) -> Result<RequestId, BrokerError> {
        let job = self.job(10);
        self.producer.submit(&queue(), &job).await.map(|_| job.id)
    }

    /// Submits until a job is accepted, for at most [`PATIENCE`].
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

    /// Claims until a job arrives, for at most [`PATIENCE`].
    async fn claim_at_last(&self) -> Vec<Delivery> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.claim(10).await {
                Ok(batch) if !batch.is_empty() => return batch,
                Ok(_) => {}
                Err(error) => assert_eq!(error.code(), "unreachable", "{error}"),
            }
            assert!(Instant::now() < until, "no job came");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn claim(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        self.claims.lock().await.claim(limit).await
    }

    async fn inbound(&self) -> Inbound {
        self.replies.lock().await.receive().await
    }

    async fn receive(&self) -> Inbound {
        timeout(PATIENCE, self.inbound()).await.unwrap()
    }

    /// Serves one request.
    async fn serves(&self) {
        let id = self.submit_at_last().await;
        let batch = self.claim_at_last().await;
        assert_eq!(batch.iter().map(|delivery| delivery.job.id).collect::<Vec<_>>(), [id]);
        let undelivered =
            self.consumer.settle(batch.into_iter().map(answer).collect()).await.unwrap();
        assert_eq!(undelivered, 0);
        match self.receive().await {
            Inbound::Replies(replies) => assert_eq!(replies[0].id, id),
            Inbound::Interrupted(_) => panic!("interrupted without a reason"),
        }
    }
}

fn queue() -> QueueName {
    QueueName::new("model", 1)
}

fn answer(delivery: Delivery) -> Settlement {
    let Delivery { entry, job: Job { id, gateway, attempt, digest, inputs, .. }, .. } = delivery;
    let (timing, outcome) = (Timing::default(), Ok(inputs));
    let reply = Reply { id, attempt, digest, timing, outcome, pushed: None };
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

/// The connection of a Redis administrator.
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
