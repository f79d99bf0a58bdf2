//! What a program checks at the start in each partition of a cluster.

use redis::{ErrorKind, RedisError, ServerErrorKind, Value, aio::ConnectionLike};

use super::{
    channels::Channels, denials, errors::broker_error, locator::Locator, routed::RoutedConnection,
};
use crate::BrokerError;

/// Finds out whether Redis has sharded channels, and refuses a number of partitions with which other
/// programs would not find the same queues.
pub(super) async fn join(
    connection: &mut RoutedConnection,
    locator: &Locator,
) -> Result<(), BrokerError> {
    let Some(partitions) = locator.partitions() else { return Ok(()) };
    let mut count = redis::cmd("PUBSUB");
    let counted = count.arg(Channels::Sharded.count()).query_async::<Value>(connection).await;
    if counted.is_err_and(|error| is_unknown(&error)) {
        tracing::warn!(address = locator.name(), "Redis has no sharded channels");
        locator.set_channels(Channels::AllNodes);
    }
    let in_use = in_use(connection, &locator.keys().partitions(), partitions).await;
    match in_use.map_err(broker_error)? {
        Some(in_use) if in_use != partitions => Err(BrokerError::misconfigured(format!(
            "the programs of this fleet use the cluster with {in_use} partitions, and this program \
             with {partitions}: partitions must be the same in every --redis-url"
        ))),
        _ => Ok(()),
    }
}

/// The number of partitions that the first program has set. `None` if this program may not read it.
async fn in_use(
    connection: &mut impl ConnectionLike,
    key: &str,
    partitions: u16,
) -> Result<Option<u16>, RedisError> {
    let mut set = redis::cmd("SET");
    let set = set.arg(key).arg(partitions).arg("NX").exec_async(connection).await;
    let is_denied = set.as_ref().is_err_and(denials::is_of_permission);
    if let Err(error) = set
        && !is_denied
    {
        return Err(error);
    }
    match redis::cmd("GET").arg(key).query_async(connection).await {
        Err(error) if denials::is_of_permission(&error) => Ok(None),
        read => read,
    }
}

/// Whether Redis does not know the command.
fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
}
