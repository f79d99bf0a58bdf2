//! How connections are opened, how long they may take, and what their errors mean.

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError,
    ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::BrokerError;

/// How long to wait for a connection, and for the answer to a command that does not block.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Settings of every connection; redis-rs would wait for an answer no longer than 500 ms.
pub(super) fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE))
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

/// Refuses a Redis that makes room by deleting, which would delete whole queues; and one that is part
/// of a cluster, where a queue and those who wait for its answers are on different nodes.
pub(super) async fn refuse_unfit(
    connection: &mut MultiplexedConnection,
) -> Result<(), BrokerError> {
    let Some(info) = info(connection, &["memory", "cluster"]).await? else { return Ok(()) };
    if info.field("cluster_enabled") == Some("1") {
        return Err(BrokerError::misconfigured(
            "Redis runs as a cluster (cluster-enabled yes), over which a queue cannot be spread; \
             use one that does not, alone or with replicas and sentinels",
        ));
    }
    match info.field("maxmemory_policy") {
        Some(policy) if policy != "noeviction" && info.field("maxmemory") != Some("0") => {
            Err(BrokerError::misconfigured(format!(
                "Redis has maxmemory-policy {policy} and would delete queued requests when its \
                 memory is full; set maxmemory-policy to noeviction"
            )))
        }
        _ => Ok(()),
    }
}

/// What an error of Redis or of the way to it means to this crate's users.
pub(super) fn broker_error(error: RedisError) -> BrokerError {
    if let Some(advice) = tls_fault(&error) {
        return BrokerError::misconfigured(TlsError { advice, source: error });
    }
    match server_code(&error).as_deref() {
        // No memory, or no room on the disk of its append-only file.
        Some("OOM" | "MISCONF") => BrokerError::Full,
        Some(
            "READONLY" | "NOREPLICAS" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN"
            | "UNBLOCKED",
        ) => BrokerError::unreachable(error),
        None if error.is_io_error() => BrokerError::unreachable(error),
        None if matches!(
            error.kind(),
            ErrorKind::InvalidClientConfig | ErrorKind::MasterNameNotFoundBySentinel
        ) =>
        {
            BrokerError::misconfigured(error)
        }
        _ => BrokerError::refused(error),
    }
}

/// TLS with Redis failed.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
struct TlsError {
    advice: String,
    source: RedisError,
}

/// The error of TLS in it, which redis-rs wraps into one of I/O, and that into a shared one.
fn rustls_error(error: &RedisError) -> Option<&rustls::Error> {
    let shared: &Arc<dyn Error + Send + Sync> = error.source()?.downcast_ref()?;
    shared.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

/// What is wrong with certificates or their absence, if that is what an error says.
fn tls_fault(error: &RedisError) -> Option<String> {
    let fault = rustls_error(error)?;
    Some(match fault {
        rustls::Error::InvalidCertificate(_) => format!(
            "the certificate of Redis is not trusted: {fault}; --redis-ca names the file of those \
             who vouch for it"
        ),
        rustls::Error::AlertReceived(_) => format!(
            "Redis does not trust us: {fault}; --redis-cert and --redis-key name the files of our \
             certificate and its key"
        ),
        _ => format!("no TLS with Redis: {fault}"),
    })
}

/// Fails if what answers at an address for TLS speaks none, or the other way round. Redis itself does
/// not say: it waits for the end of a line for ever, or hangs up.
pub(super) async fn refuse_mistaken(server: &ConnectionInfo) -> Result<(), BrokerError> {
    let (host, port, mistaken) = match server.addr() {
        ConnectionAddr::TcpTls { host, port, .. } => {
            (host, port, speaks_plainly(host, *port).await)
        }
        ConnectionAddr::Tcp(host, port) => (host, port, speaks_tls(host, *port).await),
        _ => return Ok(()),
    };
    let (speaks, scheme) = match server.addr() {
        ConnectionAddr::Tcp(..) => ("TLS", "rediss"),
        _ => ("no TLS", "redis"),
    };
    if !mistaken {
        return Ok(());
    }
    Err(BrokerError::misconfigured(format!(
        "Redis at {host}:{port} speaks {speaks}: its URL begins with {scheme}"
    )))
}

async fn speaks_plainly(host: &str, port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(b"PING\r\n").await?;
        stream.read_u8().await
    };
    matches!(timeout(PATIENCE, ask).await, Ok(Ok(b'+' | b'-')))
}

async fn speaks_tls(host: &str, port: u16) -> bool {
    let host = host.to_owned();
    let tls = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
    let Ok(client) = Client::open(tls) else { return false };
    match client.get_multiplexed_async_connection_with_config(&connection_config()).await {
        Ok(_) => true,
        // Whether it is trusted does not matter, nor whether we are.
        Err(error) => {
            let fault = rustls_error(&error);
            fault.is_some_and(|fault| !matches!(fault, rustls::Error::InvalidMessage(_)))
        }
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
    BrokerError::refused(format!("Redis gave an answer to {command} that makes no sense"))
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
