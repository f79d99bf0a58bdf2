//! Classifies errors of Redis, and of the connection to Redis.

use std::{error::Error, io, sync::Arc};

use redis::{ErrorKind, RedisError};

use super::{codes::server_code, denials};
use crate::{BrokerError, roles::Cause};

/// Converts the error of an attempt to connect to the server `address` as `user`.
pub(super) fn connection_error(error: RedisError, address: &str, user: &str) -> BrokerError {
    if error.kind() == ErrorKind::RESP3NotSupported {
        return too_old(address, "older than 6.0");
    }
    if denials::is_of_password(&error) {
        let advice = format!(
            "Redis at {address} denies access to user {user:?}: {error}; set the user and the \
             password in --redis-url or in the file of --redis-url-file"
        );
        denials::count_password(&advice);
        return BrokerError::denied(AccessError { advice, source: error });
    }
    match broker_error(error) {
        BrokerError::Unreachable(cause) => BrokerError::unreachable(UnreachableError {
            advice: format!(
                "no connection to Redis at {address}: {cause}; check that it runs, and that \
                 --redis-url names it"
            ),
            source: cause,
        }),
        other => other,
    }
}

/// The error for a server whose version is too old.
pub(super) fn too_old(address: &str, version: &str) -> BrokerError {
    BrokerError::misconfigured(format!(
        "Redis at {address} has version {version}, and Batchfleet needs 7.0 or newer; set \
         --redis-url to a newer server"
    ))
}

/// Converts an error of Redis to a [`BrokerError`].
pub(super) fn broker_error(error: RedisError) -> BrokerError {
    if let Some(advice) = tls_advice(&error) {
        return BrokerError::misconfigured(TlsError { advice, source: error });
    }
    if denials::is_of_permission(&error) {
        let advice = format!(
            "{}: {error}; give the user of --redis-url this permission: `batchfleet redis-acl` \
             prints the rules of workers, and the chart's users.acl has those of every program",
            denials::denied_command()
        );
        denials::count_permission(&advice);
        return BrokerError::denied(AccessError { advice, source: error });
    }
    match server_code(&error).as_deref() {
        // Out of memory, or no disk space for the append-only file.
        Some("OOM" | "MISCONF") => BrokerError::Full,
        // The server takes no jobs for now: for example, it is a replica, or loads its data.
        Some(
            "READONLY" | "NOREPLICAS" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN"
            | "UNBLOCKED" | "MOVED" | "ASK",
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

/// Whether an error with this code shows that another node of a cluster has the keys or gets them.
pub(super) fn is_elsewhere(code: &str) -> bool {
    matches!(code, "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "UNBLOCKED" | "READONLY")
}

/// The error for an answer that cannot be parsed.
pub(super) fn unreadable(command: &str) -> BrokerError {
    BrokerError::refused(format!("Redis gave an unreadable answer to {command}"))
}

/// Whether Redis reports that a key does not exist.
pub(super) fn no_such_key(error: &RedisError) -> bool {
    error.clone().into_server_errors().is_some_and(|errors| {
        errors.iter().any(|(_, error)| error.details().is_some_and(|text| text == "no such key"))
    })
}

/// Whether Redis refused a value because of its size, `proto-max-bulk-len`. Redis then closes the
/// connection.
pub(super) fn is_too_large(error: &RedisError) -> bool {
    has_text(error, "invalid bulk length")
}

/// Whether Redis refused the number of a bit as too high.
pub(super) fn is_out_of_range(error: &RedisError) -> bool {
    has_text(error, "out of range")
}

fn has_text(error: &RedisError, text: &str) -> bool {
    error.clone().into_server_errors().is_some_and(|errors| {
        errors.iter().any(|(_, error)| error.details().is_some_and(|it| it.contains(text)))
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

/// Redis denied access.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
struct AccessError {
    advice: String,
    source: RedisError,
}

/// No connection could be opened.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
struct UnreachableError {
    advice: String,
    source: Cause,
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
