//! Findings: what one program has found out, and leaves under a key for the others, which save that
//! work. Every program can do without.

use redis::{Value, aio::ConnectionLike};
use serde::{Serialize, de::DeserializeOwned};

use super::{denials, errors::broker_error, values::parse};
use crate::BrokerError;

/// Leaves findings for this many milliseconds. A full Redis, and one that denies it, does without.
pub(super) async fn leave(
    connection: &mut impl ConnectionLike,
    key: &str,
    findings: &impl Serialize,
    kept: u64,
) -> Result<(), BrokerError> {
    let findings = serde_json::to_string(findings).map_err(BrokerError::refused)?;
    let mut set = redis::cmd("PSETEX");
    match set.arg(key).arg(kept).arg(findings).exec_async(connection).await {
        Err(error) if denials::is_of_permission(&error) => Ok(()),
        left => match left.map_err(broker_error) {
            Err(BrokerError::Full) => Ok(()),
            left => left,
        },
    }
}

/// The findings in an answer to `GET`; `None` if there are none that this program can read.
pub(super) fn read<T: DeserializeOwned>(answer: Option<Value>) -> Option<T> {
    serde_json::from_str(&parse::<Option<String>>(answer).ok()??).ok()
}
