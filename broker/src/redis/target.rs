//! What is published for a queue's workers: a key that is read again each second, and a channel on
//! which whoever listens hears at once that there is something new.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{Pipeline, Value, streams::StreamInfoConsumersReply as Consumers};
use tokio::time::sleep;

use super::{
    Shared,
    connect::{broker_error, nonsense},
    consumer::RedisConsumer,
    keys,
    link::Line,
    promise,
    reclaim::lost_queue,
};
use crate::{
    Announcement, BrokerError, Controller, Guidance, Priority, QueueName, Target,
    TargetSubscription, Wish, roles::GUIDANCE_WAIT,
};

/// A worker's subscription to the target of its queue.
pub(super) struct RedisTarget {
    consumer: Arc<RedisConsumer>,
    /// The subscription; `None` before the first and while it is broken.
    line: Option<Line>,
}

impl RedisTarget {
    pub(super) fn new(consumer: Arc<RedisConsumer>) -> Self {
        Self { consumer, line: None }
    }

    /// Waits until there may be a new target.
    async fn wait(&mut self) -> Result<(), BrokerError> {
        let Some(line) = self.line.as_mut() else {
            let RedisConsumer { shared, name, .. } = &*self.consumer;
            let line = Line::open(&shared.place, Some(&keys::target(name))).await;
            self.line = Some(line.map_err(broker_error)?);
            // A target may have been published before the subscription.
            return Ok(());
        };
        let pushed = tokio::select! {
            pushed = line.next() => pushed,
            () = sleep(GUIDANCE_WAIT) => return Ok(()),
        };
        if pushed.is_err() {
            self.line = None;
        }
        Ok(())
    }
}

#[async_trait]
impl TargetSubscription for RedisTarget {
    async fn guidance(&mut self) -> Result<Guidance, BrokerError> {
        self.wait().await?;
        self.consumer.read_guidance().await
    }
}

impl RedisConsumer {
    async fn read_guidance(&self) -> Result<Guidance, BrokerError> {
        let mut connection = self.shared.pool.get().await?;
        let answers: Vec<Value> = Pipeline::new()
            .get(keys::target(&self.name))
            .cmd("XINFO")
            .arg("CONSUMERS")
            .arg(&self.streams[Priority::Default as usize])
            .arg(keys::GROUP)
            .ignore_errors()
            .query_async(&mut *connection)
            .await
            .map_err(broker_error)?;
        let [target, consumers] = answers.try_into().map_err(|_| nonsense("GET"))?;
        let target = target.extract_error().map_err(broker_error)?;
        let target: Option<String> =
            redis::from_redis_value(target).map_err(|_| nonsense("GET"))?;
        let consumers = consumers.extract_error().and_then(|value| {
            redis::from_redis_value::<Consumers>(value).map_err(redis::RedisError::from)
        });
        let consumers = match consumers {
            // The queue is gone, and made anew by the next claim.
            Err(error) if lost_queue(&error) => Vec::new(),
            consumers => consumers.map_err(broker_error)?.consumers,
        };
        let names = consumers.iter().map(|consumer| keys::live(&consumer.name)).collect();
        let live = self.alive(&mut *connection, names).await?;
        let workers = live.map(|live| live.into_iter().filter(|live| *live).count());
        Ok(Guidance { workers, target: target.and_then(|target| parse(&target)) })
    }
}

/// Skips what makes no sense: a worker can do without.
fn parse(target: &str) -> Option<Target> {
    serde_json::from_str(target)
        .inspect_err(|error| tracing::warn!(target, %error, "skipped an unreadable target"))
        .ok()
}

pub(super) struct RedisController(pub(super) Arc<Shared>);

#[async_trait]
impl Controller for RedisController {
    async fn publish(&self, queue: &QueueName, wish: Wish) -> Result<u64, BrokerError> {
        let mut connection = self.0.pool.get().await?;
        // Rises however often Redis loses what it knew, and whoever publishes.
        let (seconds, microseconds): (u64, u64) =
            redis::cmd("TIME").query_async(&mut *connection).await.map_err(broker_error)?;
        let epoch = seconds * 1_000_000 + microseconds;
        let target =
            serde_json::to_string(&Target { epoch, wish }).map_err(BrokerError::refused)?;
        let key = keys::target(queue);
        Pipeline::new()
            .atomic()
            .set(&key, target)
            .publish(&key, epoch)
            .exec_async(&mut *connection)
            .await
            .map_err(broker_error)?;
        Ok(epoch)
    }

    async fn promise(&self, expected: &Announcement) -> Result<(), BrokerError> {
        promise::make(&mut *self.0.pool.get().await?, expected).await
    }

    async fn forget(&self, queue: &QueueName, silent: Duration) -> Result<usize, BrokerError> {
        let mut connection = self.0.pool.get().await?;
        promise::forget(&mut *connection, queue, silent).await
    }
}
