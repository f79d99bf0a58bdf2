//! A pool of connections for control calls, which keeps them off the busy connections.

use std::sync::Arc;

use deadpool::{
    Runtime,
    managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult},
};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::{
    connect::{PATIENCE, connection_config},
    locator::Locator,
};
use crate::BrokerError;

/// Maximum number of connections. Control calls are few.
const SIZE: usize = 8;

/// Connections to the master, shared by clones.
#[derive(Clone)]
pub(super) struct Pool {
    connections: managed::Pool<Connector>,
    failure: Arc<Mutex<Option<(Instant, BrokerError)>>>,
}

/// A connection, which returns to the pool when dropped.
pub(super) type PooledConnection = Object<Connector>;

/// Opens the connections of the pool.
pub(super) struct Connector(Arc<Locator>);

impl managed::Manager for Connector {
    type Type = MultiplexedConnection;
    type Error = BrokerError;

    async fn create(&self) -> Result<MultiplexedConnection, BrokerError> {
        self.0.open(&connection_config()).await
    }

    /// Drops connections that are broken, or lead to a server that is no longer the master.
    async fn recycle(
        &self,
        connection: &mut MultiplexedConnection,
        metrics: &Metrics,
    ) -> RecycleResult<BrokerError> {
        if self.0.has_moved_since(Instant::from_std(metrics.created)) {
            return Err(RecycleError::message("the master moved"));
        }
        let ping = redis::cmd("PING").exec_async(connection).await;
        ping.map_err(|error| RecycleError::Backend(BrokerError::unreachable(error)))
    }
}

impl Pool {
    /// Creates an empty pool.
    pub(super) fn new(locator: Arc<Locator>) -> Result<Self, BrokerError> {
        let connections = managed::Pool::builder(Connector(locator))
            .max_size(SIZE)
            .wait_timeout(Some(PATIENCE))
            .create_timeout(Some(PATIENCE))
            .recycle_timeout(Some(PATIENCE))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(BrokerError::refused)?;
        Ok(Self { connections, failure: Arc::default() })
    }

    /// Takes a connection.
    pub(super) async fn get(&self) -> Result<PooledConnection, BrokerError> {
        let got = self.connections.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            other => BrokerError::unreachable(other),
        });
        let mut failure = self.failure.lock();
        match &got {
            Ok(_) => *failure = None,
            Err(error) => {
                let since = failure.take().map_or_else(Instant::now, |(since, _)| since);
                *failure = Some((since, error.clone()));
            }
        }
        drop(failure);
        got
    }

    /// Since when no connection could be taken, and the reason.
    pub(super) fn failure(&self) -> Option<(Instant, BrokerError)> {
        self.failure.lock().clone()
    }
}
