//! The controller's role: publishes targets, makes promises, and forgets workers that are gone.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{Pipeline, aio::ConnectionLike, streams::StreamInfoConsumer};

use super::{connections::Connections, consumers, errors::broker_error, keys, promise};
use crate::{Announcement, BrokerError, Controller, QueueName, Target};

/// The role of the controller.
pub(super) struct RedisController(pub(super) Arc<Connections>);

#[async_trait]
impl Controller for RedisController {
    async fn next_epoch(&self, _: &QueueName) -> Result<u64, BrokerError> {
        let mut connection = self.0.pool.get().await?;
        // Redis's clock rises even if Redis loses its data, or if several programs publish.
        let (seconds, microseconds): (u64, u64) =
            redis::cmd("TIME").query_async(&mut *connection).await.map_err(broker_error)?;
        Ok(seconds * 1_000_000 + microseconds)
    }

    async fn publish_at(&self, queue: &QueueName, target: Target) -> Result<(), BrokerError> {
        let mut connection = self.0.pool.get().await?;
        let epoch = target.epoch;
        let target = serde_json::to_string(&target).map_err(BrokerError::refused)?;
        let key = self.0.keys.target(queue);
        Pipeline::new()
            .atomic()
            .set(&key, target)
            .cmd(self.0.locator.channels().publish())
            .arg(&key)
            .arg(epoch)
            .exec_async(&mut *connection)
            .await
            .map_err(broker_error)
    }

    async fn promise(&self, expected: &Announcement) -> Result<(), BrokerError> {
        promise::make(self.0.keys, &mut *self.0.pool.get().await?, expected).await
    }

    async fn retract(&self, last: &Announcement) -> Result<(), BrokerError> {
        promise::retract(self.0.keys, &mut *self.0.pool.get().await?, last).await
    }

    async fn forget(&self, queue: &QueueName, silent: Duration) -> Result<usize, BrokerError> {
        let mut connection = self.0.pool.get().await?;
        forget(&mut *connection, &self.0.keys.queue(queue), silent).await
    }
}

/// Deletes idle workers from the groups of a queue: workers that hold no entries and have not tried
/// to claim for `silent`. Returns the number of deleted workers. A live worker claims every second,
/// and would be created again.
async fn forget(
    connection: &mut impl ConnectionLike,
    streams: &[String],
    silent: Duration,
) -> Result<usize, BrokerError> {
    let classes = consumers::read(connection, streams).await?;
    let gone = |consumer: &&StreamInfoConsumer| {
        consumer.pending == 0 && Duration::from_millis(consumer.idle as u64) >= silent
    };
    // A worker is deleted from the groups of all classes, or of none.
    let kept: HashSet<&str> = classes.iter().flatten().filter(|c| !gone(c)).map(name).collect();
    let (mut forget, mut forgotten) = (Pipeline::new(), HashSet::new());
    for (stream, consumers) in streams.iter().zip(&classes) {
        for consumer in consumers.iter().map(name).filter(|name| !kept.contains(name)) {
            let command = forget.cmd("XGROUP").arg("DELCONSUMER").arg(stream);
            command.arg(keys::GROUP).arg(consumer).ignore();
            forgotten.insert(consumer);
        }
    }
    if !forgotten.is_empty() {
        forget.exec_async(connection).await.map_err(broker_error)?;
    }
    Ok(forgotten.len())
}

fn name(consumer: &StreamInfoConsumer) -> &str {
    &consumer.name
}
