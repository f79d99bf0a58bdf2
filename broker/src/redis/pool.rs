//! Pools of connections: for control calls, which it keeps off the busy connections, and for large
//! values.

use std::{sync::Arc, time::Duration};

use deadpool::{
    Runtime,
    managed::{self, Object},
};
use parking_lot::Mutex;
use redis::RedisError;
use tokio::time::Instant;

use super::{
    connect::PATIENCE,
    locator::{Locator, Route},
    pooled::PoolManager,
};
use crate::BrokerError;

/// A connection, which returns to the pool when dropped.
pub(super) type Connection = Object<PoolManager>;

type PoolError = managed::PoolError<RedisError>;

/// Maximum number of connections for control calls, which are few.
const SIZE: usize = 8;
/// How long a failure counts without another attempt. Programs that use a Redis try at least once a second;
/// one that no longer does, such as a worker that has moved to another Redis, must not count it as lost
/// for ever.
const KNOWN_FOR: Duration = Duration::from_secs(3);

/// Connections to the master, shared by clones. The pool is refilled when the URL of Redis changes,
/// when the master moves, and when a connection cannot be opened.
#[derive(Clone)]
pub(super) struct Pool {
    locator: Arc<Locator>,
    size: usize,
    filled: Arc<Mutex<Option<Filled>>>,
    failure: Arc<Mutex<Option<Failure>>>,
}

/// The attempts to take a connection that have failed since the last success.
struct Failure {
    first: Instant,
    last: Instant,
    error: BrokerError,
}

/// Connections to the server that was the master at `since`.
#[derive(Clone)]
struct Filled {
    route: Arc<Route>,
    since: Instant,
    connections: managed::Pool<PoolManager>,
}

impl Pool {
    /// Creates an empty pool for control calls.
    pub(super) fn new(locator: Arc<Locator>) -> Self {
        Self::of_size(locator, SIZE)
    }

    /// Creates an empty pool of at most `size` connections.
    pub(super) fn of_size(locator: Arc<Locator>, size: usize) -> Self {
        Self { locator, size, filled: Arc::default(), failure: Arc::default() }
    }

    /// Takes a connection, which returns to the pool when dropped.
    pub(super) async fn get(&self) -> Result<Connection, BrokerError> {
        let got = self.take().await;
        let mut failure = self.failure.lock();
        match &got {
            Ok(_) => *failure = None,
            Err(error) => {
                let last = Instant::now();
                let first = failure.take().map_or(last, |failure| failure.first);
                *failure = Some(Failure { first, last, error: error.clone() });
            }
        }
        drop(failure);
        got
    }

    /// Since when no connection could be taken, and the reason; `None` if none was wanted lately.
    pub(super) fn failure(&self) -> Option<(Instant, BrokerError)> {
        let failure = self.failure.lock();
        let recent = failure.as_ref().filter(|failure| failure.last.elapsed() < KNOWN_FOR);
        recent.map(|failure| (failure.first, failure.error.clone()))
    }

    async fn take(&self) -> Result<Connection, BrokerError> {
        let is_current = |kept: &Filled| {
            let known = self.locator.known_route();
            Arc::ptr_eq(&kept.route, &known) && !self.locator.has_moved_since(kept.since)
        };
        let kept = self.filled.lock().clone().filter(is_current);
        if let Some(kept) = kept {
            match kept.connections.get().await {
                // Refill the pool, which reads URL and certificates again: they may have changed.
                Err(PoolError::Backend(_)) => {}
                got => return got.map_err(|error| broken(error, &kept.route)),
            }
        }
        let route = self.locator.route();
        let connections = self.fill(&route).await?;
        connections.get().await.map_err(|error| broken(error, &route))
    }

    /// Locates the master, and fills the pool with connections to it.
    async fn fill(&self, route: &Arc<Route>) -> Result<managed::Pool<PoolManager>, BrokerError> {
        let since = Instant::now();
        let client = self.locator.client(route).await.map_err(|error| route.explain(error))?;
        let manager = PoolManager { client, locator: Arc::clone(&self.locator) };
        let connections = managed::Pool::builder(manager)
            .max_size(self.size)
            .wait_timeout(Some(PATIENCE))
            .create_timeout(Some(PATIENCE))
            .recycle_timeout(Some(PATIENCE))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(BrokerError::refused)?;
        let (route, kept) = (Arc::clone(route), connections.clone());
        *self.filled.lock() = Some(Filled { route, since, connections: kept });
        Ok(connections)
    }
}

fn broken(error: PoolError, route: &Route) -> BrokerError {
    match error {
        PoolError::Backend(error) => route.explain(error),
        other => BrokerError::unreachable(other),
    }
}
