//! Which workers live, by their liveness keys: a worker that has left, and still holds jobs, keeps its
//! key with the value [`LEFT`].

use redis::aio::ConnectionLike;

use super::{errors::broker_error, keys::Keys};
use crate::BrokerError;

/// The liveness key of a worker that claims no more jobs.
pub(super) const LEFT: &str = "left";

/// Whether each worker lives. `epoch` is the epoch of the read that found them.
pub(super) async fn of_workers(
    keys: Keys,
    connection: &mut impl ConnectionLike,
    workers: &[String],
    epoch: Option<&String>,
) -> Result<Vec<bool>, BrokerError> {
    if workers.is_empty() {
        return Ok(Vec::new());
    }
    let mut names: Vec<String> = workers.iter().map(|worker| keys.live(worker)).collect();
    names.push(keys.epoch());
    let mut live: Vec<Option<String>> =
        redis::cmd("MGET").arg(names).query_async(connection).await.map_err(broker_error)?;
    if live.pop().flatten().as_ref() != epoch {
        // Redis lost its data between the two queries, so every worker would look dead.
        return Err(BrokerError::unreachable("Redis has just lost its data"));
    }
    let claims = |key: &Option<String>| key.as_ref().is_some_and(|value| value != LEFT);
    Ok(live.iter().map(claims).collect())
}
