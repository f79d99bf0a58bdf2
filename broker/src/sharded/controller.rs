//! The controller's role over several shards: what it publishes, it publishes at each.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};

use super::shards::{Shards, some};
use crate::{Announcement, BrokerError, Controller, QueueName, Target};

pub(super) struct ShardedController(Vec<Arc<dyn Controller>>);

impl ShardedController {
    pub(super) async fn open(shards: &Shards) -> Result<Self, BrokerError> {
        try_join_all(shards.all.iter().map(|shard| shard.broker.controller())).await.map(Self)
    }

    /// Calls all shards. Succeeds if one does: the others are told at the next call, which comes within
    /// seconds.
    async fn call<'a, T, Calling>(
        &'a self,
        call: impl Fn(&'a dyn Controller) -> Calling,
    ) -> Result<Vec<T>, BrokerError>
    where
        Calling: Future<Output = Result<T, BrokerError>>,
    {
        some(join_all(self.0.iter().map(|controller| call(controller.as_ref()))).await)
    }
}

#[async_trait]
impl Controller for ShardedController {
    /// The highest of all shards, whose clocks may differ: a worker that moves must follow a newer target
    /// there.
    async fn next_epoch(&self, queue: &QueueName) -> Result<u64, BrokerError> {
        let epochs = self.call(|controller| controller.next_epoch(queue)).await?;
        Ok(epochs.into_iter().max().unwrap_or_default())
    }

    async fn publish_at(&self, queue: &QueueName, target: Target) -> Result<(), BrokerError> {
        self.call(|controller| controller.publish_at(queue, target)).await.map(drop)
    }

    async fn promise(&self, expected: &Announcement) -> Result<(), BrokerError> {
        self.call(|controller| controller.promise(expected)).await.map(drop)
    }

    async fn retract(&self, last: &Announcement) -> Result<(), BrokerError> {
        self.call(|controller| controller.retract(last)).await.map(drop)
    }

    async fn forget(&self, queue: &QueueName, silent: Duration) -> Result<usize, BrokerError> {
        let forgotten = self.call(|controller| controller.forget(queue, silent)).await?;
        Ok(forgotten.into_iter().sum())
    }
}
