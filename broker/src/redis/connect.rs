//! How connections are opened, how long they may take, and what their errors mean.

use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::{Manager, Pool, PoolError, Runtime};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, ProtocolVersion, RedisError, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use crate::BrokerError;

/// How long to wait for a connection, and for the answer to a command that does not block.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Control calls are few; the pool only keeps them off the busy connections.
const POOL_SIZE: usize = 8;

/// The client for `url`. Speaks RESP3, in which a connection tells that it broke.
pub(super) fn client(url: &str) -> Result<Client, BrokerError> {
    let refused = |error: RedisError| {
        let reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
        BrokerError::Misconfigured(format!(
            "not a Redis URL such as redis://user:password@host:6379/0: {reason}"
        ))
    };
    let info = Client::open(url).map_err(refused)?.get_connection_info().clone();
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.set_redis_settings(settings)).map_err(refused)
}

/// Settings of every connection; redis-rs would wait for an answer no longer than 500 ms.
pub(super) fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE))
}

/// The pool for control calls.
pub(super) fn pool(client: &Client) -> Result<Pool, BrokerError> {
    let manager =
        Manager::new_with_config(client.get_connection_info().clone(), connection_config())
            .map_err(broker_error)?;
    Pool::builder(manager)
        .max_size(POOL_SIZE)
        .wait_timeout(Some(PATIENCE))
        .create_timeout(Some(PATIENCE))
        .recycle_timeout(Some(PATIENCE))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| BrokerError::Refused(error.to_string()))
}

/// What a failed check-out means.
pub(super) fn pool_error(error: PoolError) -> BrokerError {
    match error {
        PoolError::Backend(error) => broker_error(error),
        other => BrokerError::Unreachable(other.to_string()),
    }
}

/// What Redis says about itself in these sections; `None` if we may not ask: a user without the
/// right is a setting, not a fault.
pub(super) async fn info(
    connection: &mut impl ConnectionLike,
    sections: &[&str],
) -> Result<Option<Info>, BrokerError> {
    match redis::cmd("INFO").arg(sections).query_async(connection).await {
        Ok(text) => Ok(Some(Info(text))),
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(None),
        Err(error) => Err(broker_error(error)),
    }
}

/// An answer to `INFO`.
pub(super) struct Info(String);

impl Info {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
    }
}

/// Refuses a Redis that makes room by deleting: it would delete whole queues.
pub(super) async fn refuse_eviction(
    connection: &mut MultiplexedConnection,
) -> Result<(), BrokerError> {
    let Some(info) = info(connection, &["memory"]).await? else { return Ok(()) };
    match info.field("maxmemory_policy") {
        Some(policy) if policy != "noeviction" && info.field("maxmemory") != Some("0") => {
            Err(BrokerError::Misconfigured(format!(
                "Redis has maxmemory-policy {policy} and would delete queued requests when its \
                 memory is full; set maxmemory-policy to noeviction"
            )))
        }
        _ => Ok(()),
    }
}

/// What an error of Redis or of the way to it means to this crate's users.
#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
pub(super) fn broker_error(error: RedisError) -> BrokerError {
    match server_code(&error).as_deref() {
        // No memory, or no room on the disk of its append-only file.
        Some("OOM" | "MISCONF") => BrokerError::Full,
        Some(
            "READONLY" | "NOREPLICAS" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN"
            | "UNBLOCKED",
        ) => BrokerError::Unreachable(error.to_string()),
        None if error.is_io_error() => BrokerError::Unreachable(error.to_string()),
        _ => BrokerError::Refused(error.to_string()),
    }
}

/// The code of the first error that Redis itself answered, also inside a pipeline.
pub(super) fn server_code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| error.code().to_owned())
}

/// Whether it says that a key does not exist.
pub(super) fn no_such_key(error: &RedisError) -> bool {
    error.clone().into_server_errors().is_some_and(|errors| {
        errors.iter().any(|(_, error)| error.details().is_some_and(|text| text == "no such key"))
    })
}

/// An answer that makes no sense.
pub(super) fn nonsense(command: &str) -> BrokerError {
    BrokerError::Refused(format!("Redis gave an answer to {command} that makes no sense"))
}

/// Redis's clock in milliseconds, from an answer to `TIME`.
pub(super) fn milliseconds((seconds, microseconds): (u64, u64)) -> u64 {
    seconds * 1000 + microseconds / 1000
}

/// The bytes of a bulk string, without copying them.
pub(super) fn into_bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        _ => None,
    }
}
