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
use tokio::time::Instant;

use super::codes::server_code;
use crate::throttle::Throttle;

/// Minimum time between two log lines.
const EVERY: Duration = Duration::from_secs(10);

static PASSWORD: AtomicU64 = AtomicU64::new(0);
static PERMISSION: AtomicU64 = AtomicU64::new(0);
static IDENTITY: Mutex<String> = Mutex::new(String::new());
static LOG: Mutex<Throttle> = Mutex::new(Throttle::new(EVERY));
static SERIES: Mutex<Option<Series>> = Mutex::new(None);

/// How long after a refused command the next one of a series comes at the latest. A process that is
/// not ready is asked nothing, so commands that requests need come seldom.
const PAUSE: Duration = Duration::from_secs(10);
/// How long after its last command a series goes on if there is another one.
const MEMORY: Duration = Duration::from_mins(5);

/// Commands that Redis refused one after another, because the user lacks a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Series {
    first: Instant,
    last: Instant,
}

impl Series {
    /// The series with one more refused command.
    fn extended(series: Option<Self>, now: Instant) -> Self {
        let first = series.filter(|series| now - series.last < MEMORY);
        Self { first: first.map_or(now, |series| series.first), last: now }
    }

    /// How long the series has lasted; `None` if no command has been refused for a while.
    fn lasts(self, now: Instant) -> Option<Duration> {
        (now - self.last < PAUSE).then(|| now - self.first)
    }
}

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

/// How long Redis has refused commands that this process needs; `None` if it refuses none.
pub(super) fn lasting() -> Option<Duration> {
    let series = *SERIES.lock();
    series?.lasts(Instant::now())
}

/// Records a refused command.
pub(super) fn count_permission(advice: &str) {
    PERMISSION.fetch_add(1, Relaxed);
    let mut series = SERIES.lock();
    *series = Some(Series::extended(*series, Instant::now()));
    drop(series);
    if let Some(omitted) = LOG.lock().admit() {
        tracing::error!(reason = advice, omitted, "Redis denied a command");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_commands_are_a_series_until_there_are_none_for_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = Series::extended(None, start);
        assert_eq!(first.lasts(at(9)), Some(Duration::from_secs(9)));
        assert_eq!(first.lasts(at(10)), None);
        let again = Series::extended(Some(first), at(100));
        assert_eq!(again.lasts(at(101)), Some(Duration::from_secs(101)));
        let other = Series::extended(Some(again), at(400));
        assert_eq!(other.lasts(at(401)), Some(Duration::from_secs(1)));
    }
}
