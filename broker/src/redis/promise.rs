//! Promises of controllers: one hash, with a field per queue.

use std::{collections::HashMap, time::Duration};

use redis::{Pipeline, aio::ConnectionLike};

use super::{announcement::StoredAnnouncement, errors::broker_error, keys, values::milliseconds};
use crate::{
    Announcement, BrokerError, Promise,
    roles::{PROMISED, REMEMBERED},
};

/// Makes or renews a promise, and deletes promises that are junk or older than an hour.
pub(super) async fn make(
    connection: &mut impl ConnectionLike,
    expected: &Announcement,
) -> Result<(), BrokerError> {
    let (time, all): (_, HashMap<String, String>) = Pipeline::new()
        .cmd("TIME")
        .hgetall(keys::PROMISES)
        .query_async(connection)
        .await
        .map_err(broker_error)?;
    let now = milliseconds(time);
    let stored = StoredAnnouncement::json(expected, now)?;
    let stale = all.iter().filter(|(_, promise)| parse(promise, now).is_none());
    let stale: Vec<&String> = stale.map(|(queue, _)| queue).collect();
    let mut commands = Pipeline::new();
    if !stale.is_empty() {
        // Before the new promise, which may replace a stale one.
        commands.hdel(keys::PROMISES, stale);
    }
    commands.hset(keys::PROMISES, expected.model.queue.to_string(), stored);
    commands.exec_async(connection).await.map_err(broker_error)
}

/// Parses the promises of the last hour. An old promise no longer holds, but keeps its model known.
pub(super) fn read(promises: &HashMap<String, String>, now: u64) -> Vec<Promise> {
    promises.values().filter_map(|promise| parse(promise, now)).collect()
}

/// Parses a promise; `None` if it is older than an hour, or junk.
fn parse(promise: &str, now: u64) -> Option<Promise> {
    let StoredAnnouncement { announcement, seen } = serde_json::from_str(promise).ok()?;
    let age = Duration::from_millis(now.saturating_sub(seen));
    let is_valid = age < REMEMBERED && announcement.model.queue.is_valid();
    is_valid.then_some(Promise { expected: announcement, holds: age < PROMISED })
}
