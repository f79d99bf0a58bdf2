//! Promises of controllers: one hash, with a field per queue.

use std::{collections::HashMap, time::Duration};

use redis::{Pipeline, aio::ConnectionLike};
use serde::{Deserialize, Serialize};

use super::{
    announcement::StoredAnnouncement, errors::broker_error, keys::Keys, values::milliseconds,
};
use crate::{
    Announcement, BrokerError, Promise,
    roles::{PROMISED, REMEMBERED},
};

/// A promise, or a retracted one.
#[derive(Serialize, Deserialize)]
struct StoredPromise {
    #[serde(flatten)]
    expected: StoredAnnouncement,
    /// Redis's clock when the promise was retracted, in milliseconds. Programs of earlier versions
    /// ignore this field. For them a retracted promise is one that no longer holds, because its
    /// `seen` is older than [`PROMISED`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retracted: Option<u64>,
}

impl StoredPromise {
    fn made(expected: &Announcement, now: u64) -> Self {
        let expected = StoredAnnouncement { announcement: expected.clone(), seen: now };
        Self { expected, retracted: None }
    }

    fn retracted(last: &Announcement, now: u64) -> Self {
        let promised = u64::try_from(PROMISED.as_millis()).unwrap_or(u64::MAX);
        let made = Self::made(last, now.saturating_sub(promised));
        Self { retracted: Some(now), ..made }
    }
}

/// Makes or renews a promise, and deletes promises that are junk or older than an hour.
pub(super) async fn make(
    keys: Keys,
    connection: &mut impl ConnectionLike,
    expected: &Announcement,
) -> Result<(), BrokerError> {
    store(keys, connection, |now| StoredPromise::made(expected, now)).await
}

/// Retracts the promise for a queue, also if there was none, or renews the retraction.
pub(super) async fn retract(
    keys: Keys,
    connection: &mut impl ConnectionLike,
    last: &Announcement,
) -> Result<(), BrokerError> {
    store(keys, connection, |now| StoredPromise::retracted(last, now)).await
}

/// Stores a promise, and deletes those that are junk or older than an hour.
async fn store(
    keys: Keys,
    connection: &mut impl ConnectionLike,
    promise: impl FnOnce(u64) -> StoredPromise,
) -> Result<(), BrokerError> {
    let (time, all): (_, HashMap<String, String>) = Pipeline::new()
        .cmd("TIME")
        .hgetall(keys.promises())
        .query_async(connection)
        .await
        .map_err(broker_error)?;
    let now = milliseconds(time);
    let promise = promise(now);
    let stored = serde_json::to_string(&promise).map_err(BrokerError::refused)?;
    let stale = all.iter().filter(|(_, promise)| parse(promise, now).is_none());
    let stale: Vec<&String> = stale.map(|(queue, _)| queue).collect();
    let mut commands = Pipeline::new();
    if !stale.is_empty() {
        // Before the new promise, which may replace a stale one.
        commands.hdel(keys.promises(), stale);
    }
    let queue = promise.expected.announcement.model.queue.to_string();
    commands.hset(keys.promises(), queue, stored);
    commands.exec_async(connection).await.map_err(broker_error)
}

/// Parses the promises of the last hour. An old promise no longer holds, but keeps its model known.
pub(super) fn read(promises: &HashMap<String, String>, now: u64) -> Vec<Promise> {
    promises.values().filter_map(|promise| parse(promise, now)).collect()
}

/// Parses a promise; `None` if it is older than an hour, or junk.
fn parse(promise: &str, now: u64) -> Option<Promise> {
    let StoredPromise { expected, retracted } = serde_json::from_str(promise).ok()?;
    let StoredAnnouncement { announcement: expected, seen } = expected;
    let age = |since: u64| Duration::from_millis(now.saturating_sub(since));
    let is_valid = age(seen) < REMEMBERED && expected.model.queue.is_valid();
    let holds = retracted.is_none() && age(seen) < PROMISED;
    let retracted = retracted.is_some_and(|since| age(since) < PROMISED);
    is_valid.then_some(Promise { expected, holds, retracted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelSpec, QueueName, WorkerId};

    fn announcement() -> Announcement {
        let spec = ModelSpec {
            queue: QueueName::new("m", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        Announcement::new(WorkerId(1), spec)
    }

    #[test]
    fn a_retraction_ends_and_never_holds_as_a_promise_for_earlier_versions() {
        let (at, promised) = (10_000_000, 15_000);
        let stored = serde_json::to_string(&StoredPromise::retracted(&announcement(), at)).unwrap();
        let read = |now: u64| parse(&stored, now).map(|found| (found.holds, found.retracted));
        assert_eq!(read(at), Some((false, true)));
        assert_eq!(read(at + promised - 1), Some((false, true)));
        assert_eq!(read(at + promised), Some((false, false)));
        assert_eq!(read(at + 3_600_000), None);
        let earlier: StoredAnnouncement = serde_json::from_str(&stored).unwrap();
        assert_eq!(at - earlier.seen, promised, "the age from which promises do not hold");
    }
}
