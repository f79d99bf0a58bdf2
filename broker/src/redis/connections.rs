//! The connections that all roles of one process share.

use std::sync::Arc;

use redis::{Pipeline, Value};

use super::{
    errors::broker_error, link::Link, locator::Locator, pool::Pool, value_limit::ValueLimit,
};
use crate::BrokerError;

/// The shared connections, and the locator for further connections.
pub(super) struct Connections {
    pub(super) locator: Arc<Locator>,
    /// For control calls, and to open connections for blocking reads.
    pub(super) pool: Pool,
    /// For everything that happens per request or per batch.
    pub(super) link: Link,
    limit: ValueLimit,
}

impl Connections {
    /// Opens the link, in a single attempt.
    pub(super) async fn open(locator: &Arc<Locator>) -> Result<Self, BrokerError> {
        let link = Link::open(Arc::clone(locator)).await.map_err(broker_error)?;
        let (locator, pool) = (Arc::clone(locator), Pool::new(Arc::clone(locator)));
        Ok(Self { locator, pool, link, limit: ValueLimit::default() })
    }

    /// The limit of Redis that a value of `size` bytes exceeds, in bytes; `None` if Redis takes the
    /// value.
    pub(super) async fn exceeded(&self, size: usize) -> Option<usize> {
        self.limit.exceeded(size, &self.link).await
    }

    /// Runs commands on the link. Returns the answers of the commands that are not ignored.
    pub(super) async fn run(&self, commands: &Pipeline) -> Result<Vec<Value>, BrokerError> {
        let mut connection = self.link.connection().await?;
        commands.query_async(&mut connection).await.map_err(broker_error)
    }
}
