//! The connections that all roles of one process share.

use std::sync::Arc;

use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::{
    denials, errors::broker_error, keys::Keys, large_reply::LARGE, large_values::LargeValues,
    link::Link, locator::Locator, pool::Pool, tasks::Tasks, value_limit::ValueLimit,
};
use crate::{BrokerError, BrokerHealth, Outage};

/// The shared connections, and the locator for further connections.
pub(super) struct Connections {
    pub(super) locator: Arc<Locator>,
    /// The names of keys and channels.
    pub(super) keys: Keys,
    /// For control calls, and to open connections for blocking reads.
    pub(super) pool: Pool,
    /// For everything that happens per request or per batch, except large values.
    pub(super) link: Link,
    large: LargeValues,
    /// Keep the link and the heartbeat of a gateway.
    pub(super) tasks: Tasks,
    limit: ValueLimit,
}

impl Connections {
    /// Opens the link, in a single attempt.
    pub(super) async fn open(locator: &Arc<Locator>) -> Result<Self, BrokerError> {
        let tasks = Tasks::default();
        let link = Link::open(Arc::clone(locator), &tasks).await?;
        Ok(Self::over(link, locator, tasks))
    }

    /// The connections to a Redis that has not answered since `since`. They are opened once it does.
    pub(super) fn open_later(locator: &Arc<Locator>, since: Instant) -> Self {
        let tasks = Tasks::default();
        Self::over(Link::open_later(Arc::clone(locator), &tasks, since), locator, tasks)
    }

    fn over(link: Link, locator: &Arc<Locator>, tasks: Tasks) -> Self {
        let large = LargeValues::new(locator);
        let (locator, pool) = (Arc::clone(locator), Pool::new(Arc::clone(locator)));
        Self {
            keys: locator.keys(),
            locator,
            pool,
            link,
            large,
            tasks,
            limit: ValueLimit::default(),
        }
    }

    /// Whether Redis can be used at present.
    pub(super) fn health(&self) -> BrokerHealth {
        let outage = match (self.link.failure(), self.pool.failure()) {
            (Some(link), Some(pool)) => Some(if pool.0 < link.0 { pool } else { link }),
            (link, pool) => link.or(pool),
        };
        let outage = outage.map(|(since, error)| Outage { lasts: since.elapsed(), error });
        BrokerHealth { outage, denied: denials::lasting(), panicked: self.tasks.panicked() }
    }

    /// The limit of Redis that a value of `size` bytes exceeds, in bytes; `None` if Redis takes the
    /// value.
    pub(super) async fn exceeded(&self, size: usize) -> Option<usize> {
        self.limit.exceeded(size, self.keys, &self.link).await
    }

    /// Runs commands that contain values of `size` bytes: on the link, or, if they are large, on a
    /// connection of their own. Returns the answers of the commands that are not ignored.
    pub(super) async fn send(
        &self,
        commands: &Pipeline,
        size: usize,
    ) -> Result<Vec<Value>, BrokerError> {
        if size > LARGE {
            let sent = self.large.run(commands, size, &self.link).await;
            if let Err(BrokerError::TooLarge { limit, .. }) = sent {
                self.limit.learn(limit);
            }
            return sent;
        }
        self.run(commands).await
    }

    /// Runs small commands on the link. Returns the answers of the commands that are not ignored.
    pub(super) async fn run(&self, commands: &Pipeline) -> Result<Vec<Value>, BrokerError> {
        let mut connection = self.link.connection().await?;
        commands.query_async(&mut connection).await.map_err(broker_error)
    }
}
