//! Classifies errors of Redis, and of the connection to Redis.

use std::{error::Error, io, sync::Arc};

use redis::{ErrorKind, RedisError};

use crate::BrokerError;

/// Converts an error of Redis to a [`BrokerError`].
pub(super) fn broker_error(error: RedisError) -> BrokerError {
    if let Some(advice) = tls_advice(&error) {
        return BrokerError::misconfigured(TlsError { advice, source: error });
    }
    match server_code(&error).as_deref() {
        // Out of memory, or no disk space for the append-only file.
        Some("OOM" | "MISCONF") => BrokerError::Full,
        // The server takes no jobs for now: for example, it is a replica, or loads its data.
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

/// The error for an answer that cannot be parsed.
pub(super) fn unreadable(command: &str) -> BrokerError {
    BrokerError::refused(format!("Redis gave an unreadable answer to {command}"))
}

/// The code of the first error that the server returned, also within a pipeline.
pub(super) fn server_code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| error.code().to_owned())
}

/// Whether Redis reports that a key does not exist.
pub(super) fn no_such_key(error: &RedisError) -> bool {
    error.clone().into_server_errors().is_some_and(|errors| {
        errors.iter().any(|(_, error)| error.details().is_some_and(|text| text == "no such key"))
    })
}

/// Whether the consumer group does not exist: Redis restarted empty or was flushed, or the key was
/// deleted, before or during the read.
pub(super) fn lost_group(error: &RedisError) -> bool {
    let Some(errors) = error.clone().into_server_errors() else { return false };
    errors.first().is_some_and(|(_, error)| match error.code() {
        "NOGROUP" => true,
        // Redis uses the same code when the node is no longer the master.
        "UNBLOCKED" => error.details().is_some_and(|text| text.contains("no longer exists")),
        _ => false,
    })
}

/// Whether the stream or its consumer group does not exist. No worker then holds any of its jobs.
pub(super) fn lost_queue(error: &RedisError) -> bool {
    lost_group(error) || no_such_key(error)
}

/// TLS with Redis failed.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
struct TlsError {
    advice: String,
    source: RedisError,
}

/// The TLS error inside a Redis error. redis-rs wraps the error in an I/O error inside an `Arc`.
pub(super) fn rustls_error(error: &RedisError) -> Option<&rustls::Error> {
    let shared: &Arc<dyn Error + Send + Sync> = error.source()?.downcast_ref()?;
    shared.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

/// Advice on the setting to change, if a certificate is wrong or missing.
fn tls_advice(error: &RedisError) -> Option<String> {
    let error = rustls_error(error)?;
    Some(match error {
        rustls::Error::InvalidCertificate(_) => format!(
            "the certificate of Redis is not trusted: {error}; set --redis-ca to the file of the \
             authority that signed it"
        ),
        rustls::Error::AlertReceived(_) => format!(
            "Redis does not trust this program: {error}; set --redis-cert and --redis-key to its \
             certificate and key"
        ),
        _ => format!("no TLS with Redis: {error}"),
    })
}
