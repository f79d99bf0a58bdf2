//! Connections for control calls, which keep these off the busy ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deadpool_redis::{Connection, Hook, HookError, Manager, PoolError, Runtime};
use redis::RedisError;
use tokio::time::Instant;

use super::{
    connect::{PATIENCE, broker_error, connection_config},
    place::Place,
};
use crate::BrokerError;

/// Control calls are few.
const SIZE: usize = 8;

/// Connections to where Redis is now. Clones share them.
#[derive(Clone)]
pub(super) struct Pool {
    place: Arc<Place>,
    filled: Arc<Mutex<Option<Filled>>>,
}

/// Connections to where Redis was found.
#[derive(Clone)]
struct Filled {
    since: Instant,
    connections: deadpool_redis::Pool,
}

impl Pool {
    /// Opens none yet.
    pub(super) fn new(place: Arc<Place>) -> Self {
        Self { place, filled: Arc::default() }
    }

    /// One of them; given back when it is dropped.
    pub(super) async fn get(&self) -> Result<Connection, BrokerError> {
        let kept = self.filled().clone().filter(|kept| !self.place.is_elsewhere_since(kept.since));
        if let Some(kept) = kept {
            match kept.connections.get().await {
                // Another certificate may be wanted by now.
                Err(PoolError::Backend(_) | PoolError::PostCreateHook(_)) => {}
                got => return got.map_err(broken),
            }
        }
        self.fill().await?.get().await.map_err(broken)
    }

    /// Begins anew where Redis is now.
    async fn fill(&self) -> Result<deadpool_redis::Pool, BrokerError> {
        let since = Instant::now();
        let client = self.place.client().await.map_err(broker_error)?;
        let server = client.get_connection_info().clone();
        let manager = Manager::new_with_config(server, connection_config());
        let connections = deadpool_redis::Pool::builder(manager.map_err(broker_error)?)
            .max_size(SIZE)
            .wait_timeout(Some(PATIENCE))
            .create_timeout(Some(PATIENCE))
            .recycle_timeout(Some(PATIENCE))
            .runtime(Runtime::Tokio1)
            .post_create(leads_to_a_master(Arc::clone(&self.place)))
            .build()
            .map_err(BrokerError::refused)?;
        *self.filled() = Some(Filled { since, connections: connections.clone() });
        Ok(connections)
    }

    /// A panic elsewhere leaves it whole: every change is a single assignment.
    fn filled(&self) -> MutexGuard<'_, Option<Filled>> {
        self.filled.lock().unwrap_or_else(PoisonError::into_inner)
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

fn leads_to_a_master(place: Arc<Place>) -> Hook {
    Hook::async_fn(move |connection, _| {
        let place = Arc::clone(&place);
        Box::pin(async move {
            let checked: Result<(), RedisError> = place.check(connection).await;
            checked.map_err(HookError::Backend)
        })
    })
}
