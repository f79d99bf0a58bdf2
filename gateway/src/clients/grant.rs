//! The permissions of a client, and the format of their fields in a file of keys.

use std::sync::Arc;

use batchfleet_broker::Priority;

use super::expiry::Expiry;

/// The SHA-256 of an API key.
pub(super) type KeyHash = [u8; 32];

/// What identifies a client in a file of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identification {
    /// The hash of an API key.
    Key(KeyHash),
    /// The name in a certificate.
    Certificate(String),
}

/// The permissions of a client.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Grant {
    /// The name of the client. API keys, tokens and certificates of the same name belong to the same
    /// client.
    pub(super) name: Arc<str>,
    /// The highest priority class of the client's requests.
    pub(super) class: Priority,
    /// Requests per second, 0 for no limit; `None` for `--client-rate`.
    pub(super) rate: Option<f64>,
    /// Requests in flight, 0 for no limit; `None` for `--client-in-flight`.
    pub(super) in_flight: Option<usize>,
    /// The only models the client may use; `None` for all.
    pub(super) models: Option<Vec<String>>,
    /// When the credential expires; `None` for never.
    pub(super) expires: Option<Expiry>,
}

impl Grant {
    /// The permissions of a client for which nothing else is configured.
    pub(super) fn of(name: Arc<str>, class: Priority) -> Self {
        Self { name, class, rate: None, in_flight: None, models: None, expires: None }
    }
}

/// Reads a SHA-256 of 64 hexadecimal digits.
pub(super) fn key_hash(text: &str) -> Option<KeyHash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

/// Reads the name of a priority class, in upper or lower case.
pub(crate) fn class(name: &str) -> Option<Priority> {
    Priority::ALL.into_iter().find(|class| class.name().eq_ignore_ascii_case(name))
}

/// Checks a rate: a finite number of at least 0.
pub(super) fn rate(rate: f64) -> Option<f64> {
    Some(rate).filter(|rate| rate.is_finite() && *rate >= 0.0)
}
