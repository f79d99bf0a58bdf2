//! A worker's target subscription: a channel that announces new targets immediately, and a key that is
//! read then, and every five seconds in case that Redis has lost its data. While the worker does not
//! look for dead workers, which tells it their number, the key is read every second.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{Pipeline, Value, aio::ConnectionLike};
use tokio::time::{Instant, sleep};

use super::{
    consumers,
    errors::{broker_error, unreadable},
    presence::WorkerPresence,
    queue::WorkerQueue,
    roll,
    watched::WatchedConnection,
};
use crate::{BrokerError, Guidance, Priority, Target, TargetSubscription, roles::GUIDANCE_WAIT};

/// How long a target counts as current without an announcement of another.
const CURRENT: Duration = Duration::from_secs(5);

/// A worker's subscription to the target of its queue.
pub(super) struct RedisTarget {
    queue: Arc<WorkerQueue>,
    presence: Arc<WorkerPresence>,
    /// `None` before the first subscription, and while it is broken.
    subscription: Option<WatchedConnection>,
    /// The last target, and when it was read; `None` if there may be another.
    last: Option<(Option<Target>, Instant)>,
    /// The last target that could not be parsed, which is logged once.
    unreadable: Mutex<Option<String>>,
}

impl RedisTarget {
    pub(super) fn new(queue: Arc<WorkerQueue>, presence: Arc<WorkerPresence>) -> Self {
        Self { queue, presence, subscription: None, last: None, unreadable: Mutex::default() }
    }

    /// Waits until there may be a new target.
    async fn wait(&mut self) -> Result<(), BrokerError> {
        let Some(subscription) = self.subscription.as_mut() else {
            let queue = &self.queue;
            let (locator, channel) =
                (&queue.connections().locator, queue.keys().target(queue.name()));
            let subscribed = WatchedConnection::open(locator, Some(&channel)).await;
            self.subscription = Some(subscribed?);
            self.last = None;
            // A target may have been published before the subscription.
            return Ok(());
        };
        let pushed = tokio::select! {
            pushed = subscription.next() => pushed,
            () = sleep(GUIDANCE_WAIT) => return Ok(()),
        };
        self.last = None;
        if pushed.is_err() {
            self.subscription = None;
        }
        Ok(())
    }

    /// Reads the target, and counts the live workers of the queue.
    async fn read(&self) -> Result<Guidance, BrokerError> {
        let (queue, keys) = (self.queue.name(), self.queue.keys());
        let mut connection = self.queue.connections().pool.get().await?;
        let answers: Vec<Value> = Pipeline::new()
            .get(keys.target(queue))
            .get(keys.roll(queue))
            .ignore_errors()
            .query_async(&mut *connection)
            .await
            .map_err(broker_error)?;
        let [target, roll] = answers.try_into().map_err(|_| unreadable("GET"))?;
        let target = target.extract_error().map_err(broker_error)?;
        let target: Option<String> =
            redis::from_redis_value(target).map_err(|_| unreadable("GET"))?;
        let workers = match roll::read(Some(roll)) {
            Some(roll) => Some(roll.workers),
            None => self.count(&mut *connection).await?,
        };
        Ok(Guidance { workers, target: target.and_then(|target| self.parse(target)) })
    }

    /// Counts the live workers of the queue. Needed only until a worker has left a roll.
    async fn count(
        &self,
        connection: &mut impl ConnectionLike,
    ) -> Result<Option<usize>, BrokerError> {
        let stream = [self.queue.stream(Priority::Default).to_owned()];
        let consumers = consumers::read(connection, &stream).await?.into_iter().flatten();
        let keys = self.queue.keys();
        let names = consumers.map(|consumer| keys.live(&consumer.name)).collect();
        let live = self.presence.alive(connection, names).await?;
        Ok(live.map(|live| live.into_iter().filter(|live| *live).count()))
    }
}

impl RedisTarget {
    /// Parses a target. Skips an unreadable target, because a worker can run without a target, and
    /// has no right to remove it.
    fn parse(&self, target: String) -> Option<Target> {
        match serde_json::from_str(&target) {
            Ok(target) => Some(target),
            Err(error) => {
                let mut unreadable = self.unreadable.lock();
                if unreadable.as_ref() != Some(&target) {
                    tracing::warn!(target, %error, "skipped unreadable target");
                    *unreadable = Some(target);
                }
                None
            }
        }
    }
}

#[async_trait]
impl TargetSubscription for RedisTarget {
    async fn guidance(&mut self) -> Result<Guidance, BrokerError> {
        self.wait().await?;
        let last = self.last.as_ref().filter(|(_, read)| read.elapsed() < CURRENT);
        if let Some(((target, _), workers)) = last.zip(self.queue.workers().get()) {
            return Ok(Guidance { workers: Some(workers), target: *target });
        }
        let guidance = self.read().await?;
        self.last = Some((guidance.target, Instant::now()));
        Ok(guidance)
    }
}
