//! A pool of connections for control calls, which keeps them off the busy connections.

use std::sync::Arc;

use deadpool_redis::{Connection, Hook, HookError, Manager, PoolError, Runtime};
use parking_lot::Mutex;
use redis::RedisError;
use tokio::time::Instant;

use super::{
    connect::{PATIENCE, connection_config},
    errors::broker_error,
    locator::Locator,
};
use crate::BrokerError;

/// Maximum number of connections. Control calls are few.
const SIZE: usize = 8;

/// Connections to the master, shared by clones. The pool is refilled when the master moves, and
/// when a connection cannot be opened.
#[derive(Clone)]
pub(super) struct Pool {
    locator: Arc<Locator>,
    filled: Arc<Mutex<Option<Filled>>>,
}

/// Connections to the server that was the master at `since`.
#[derive(Clone)]
struct Filled {
    since: Instant,
    connections: deadpool_redis::Pool,
}

impl Pool {
    /// Creates an empty pool.
    pub(super) fn new(locator: Arc<Locator>) -> Self {
        Self { locator, filled: Arc::default() }
    }

    /// Takes a connection, which returns to the pool when dropped.
    pub(super) async fn get(&self) -> Result<Connection, BrokerError> {
        let kept =
            self.filled.lock().clone().filter(|kept| !self.locator.has_moved_since(kept.since));
        if let Some(kept) = kept {
            match kept.connections.get().await {
                // Refill the pool, which reads the certificates again: they may have been renewed.
                Err(PoolError::Backend(_) | PoolError::PostCreateHook(_)) => {}
                got => return got.map_err(broken),
            }
        }
        self.fill().await?.get().await.map_err(broken)
    }

    /// Locates the master, and fills the pool with connections to it.
    async fn fill(&self) -> Result<deadpool_redis::Pool, BrokerError> {
        let since = Instant::now();
        let client = self.locator.client().await.map_err(broker_error)?;
        let server = client.get_connection_info().clone();
        let manager = Manager::new_with_config(server, connection_config());
        let connections = deadpool_redis::Pool::builder(manager.map_err(broker_error)?)
            .max_size(SIZE)
            .wait_timeout(Some(PATIENCE))
            .create_timeout(Some(PATIENCE))
            .recycle_timeout(Some(PATIENCE))
            .runtime(Runtime::Tokio1)
            .post_create(leads_to_a_master(Arc::clone(&self.locator)))
            .build()
            .map_err(BrokerError::refused)?;
        *self.filled.lock() = Some(Filled { since, connections: connections.clone() });
        Ok(connections)
    }
}

fn broken(error: PoolError) -> BrokerError {
    match error {
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            broker_error(error)
        }
        other => BrokerError::unreachable(other),
    }
}

fn leads_to_a_master(locator: Arc<Locator>) -> Hook {
    Hook::async_fn(move |connection, _| {
        let locator = Arc::clone(&locator);
        Box::pin(async move {
            let checked: Result<(), RedisError> = locator.check(connection).await;
            checked.map_err(HookError::Backend)
        })
    })
}
