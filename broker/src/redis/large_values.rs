//! Sends large values over connections of their own, so that they do not delay small commands.
//!
//! Such a connection carries one value at a time. It returns to the pool once Redis has answered. In
//! all other cases it is closed: the rest of the value is then not sent, and Redis discards what has
//! arrived. A value is therefore never on two connections at once.

use std::{sync::Arc, time::Duration};

use redis::{Pipeline, Value};
use tokio::sync::Semaphore;

use super::{
    connect::PATIENCE,
    errors::{broker_error, is_too_large},
    link::Link,
    locator::Locator,
    pool::{Connection, Pool},
};
use crate::BrokerError;

/// How many large values are sent at the same time. Limited, because they share the bandwidth, and
/// because Redis holds the part of each value that has arrived.
const AT_ONCE: usize = 4;
/// The lowest bandwidth at which a value arrives in time, in bytes per second.
const LOWEST_BANDWIDTH: u64 = 1_000_000;

/// How long to wait for the answer to commands, or for an answer, of `size` bytes.
pub(super) fn patience(size: usize) -> Duration {
    PATIENCE + transfer_time(size)
}

/// How long `size` bytes are under way at the lowest bandwidth.
pub(super) fn transfer_time(size: usize) -> Duration {
    Duration::from_millis((size as u64).saturating_mul(1000) / LOWEST_BANDWIDTH)
}

/// Sends large values.
pub(super) struct LargeValues {
    pool: Pool,
    turns: Semaphore,
}

impl LargeValues {
    /// Opens no connection before the first value.
    pub(super) fn new(locator: &Arc<Locator>) -> Self {
        let pool = Pool::of_size(Arc::clone(locator), AT_ONCE);
        Self { pool, turns: Semaphore::new(AT_ONCE) }
    }

    /// Runs commands of `size` bytes, and returns the answers that are not ignored. Gives up when
    /// the answer is not there within [`patience`], and as soon as the link breaks, because the link
    /// detects an outage, a restart of Redis or a failover within seconds.
    pub(super) async fn run(
        &self,
        commands: &Pipeline,
        size: usize,
        link: &Link,
    ) -> Result<Vec<Value>, BrokerError> {
        let _turn = self.turns.acquire().await.map_err(BrokerError::unreachable)?;
        // While the link is down, the value waits or fails like a small one.
        drop(link.connection().await?);
        let mut connection = Closing(Some(self.pool.get().await?));
        let Closing(Some(open)) = &mut connection else {
            return Err(BrokerError::unreachable("no connection"));
        };
        open.set_patience(patience(size));
        let answers = tokio::select! {
            answers = commands.query_async(&mut **open) => answers.map_err(|error| {
                if is_too_large(&error) {
                    BrokerError::TooLarge { size, limit: size - 1 }
                } else {
                    broker_error(error)
                }
            }),
            () = link.lost() => Err(BrokerError::unreachable("the connection to Redis was lost")),
        };
        if open.has_answered() && !matches!(answers, Err(BrokerError::TooLarge { .. })) {
            connection.keep();
        }
        answers
    }
}

/// A connection that is closed on drop, unless it is kept.
struct Closing(Option<Connection>);

impl Closing {
    /// Returns the connection to the pool.
    fn keep(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            // Dropping what was taken out of the pool closes it.
            drop(Connection::take(connection));
        }
    }
}
