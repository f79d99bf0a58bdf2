//! Counts and logs how often Redis denied access to this process: a wrong password, or a missing
//! permission.
//!
//! The counts belong to the process, like its log: a program uses one Redis with one user.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use redis::{ErrorKind, RedisError};

use super::codes::server_code;
use crate::throttle::Throttle;

/// Minimum time between two log lines.
const EVERY: Duration = Duration::from_secs(10);

static PASSWORD: AtomicU64 = AtomicU64::new(0);
static PERMISSION: AtomicU64 = AtomicU64::new(0);
static IDENTITY: Mutex<String> = Mutex::new(String::new());
static LOG: Mutex<Throttle> = Mutex::new(Throttle::new(EVERY));

/// How often Redis denied access to this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denials {
    /// Connections that Redis refused because user or password are wrong or missing.
    pub password: u64,
    /// Commands that Redis refused because the user lacks a permission.
    pub permission: u64,
}

/// The counts since the process started.
pub fn denials() -> Denials {
    Denials { password: PASSWORD.load(Relaxed), permission: PERMISSION.load(Relaxed) }
}

/// Sets as whom the process connects, for errors of single commands. Makes the next denial log a
/// line, because a new password was read.
pub(super) fn identify(address: &str, user: &str) {
    *IDENTITY.lock() = format!("Redis at {address} denies user {user:?} a command");
    LOG.lock().reset();
}

/// The start of an error text about a command: address and user.
pub(super) fn denied_command() -> String {
    IDENTITY.lock().clone()
}

/// Whether Redis does not accept the user or the password.
pub(super) fn is_of_password(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(server_code(error).as_deref(), Some("WRONGPASS" | "NOAUTH"))
}

/// Whether the user lacks a permission.
pub(super) fn is_of_permission(error: &RedisError) -> bool {
    server_code(error).as_deref() == Some("NOPERM")
}

/// Records a refused connection. `advice` names user and address.
pub(super) fn count_password(advice: &str) {
    PASSWORD.fetch_add(1, Relaxed);
    if let Some(omitted) = LOG.lock().admit() {
        tracing::error!(reason = advice, omitted, "Redis denied access");
    }
}

/// Records a refused command.
pub(super) fn count_permission(advice: &str) {
    PERMISSION.fetch_add(1, Relaxed);
    if let Some(omitted) = LOG.lock().admit() {
        tracing::error!(reason = advice, omitted, "Redis denied a command");
    }
}
