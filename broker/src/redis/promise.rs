//! Promises of controllers: one hash, with a field per queue.

use std::{collections::HashMap, time::Duration};

use redis::aio::ConnectionLike;

use super::{announcement::StoredAnnouncement, errors::broker_error, keys, values::milliseconds};
use crate::{
    Announcement, BrokerError, Promise,
    roles::{PROMISED, REMEMBERED},
};

/// Makes or renews a promise.
pub(super) async fn make(
    connection: &mut impl ConnectionLike,
    expected: &Announcement,
) -> Result<(), BrokerError> {
    let time = redis::cmd("TIME").query_async(connection).await.map_err(broker_error)?;
    let stored = StoredAnnouncement::json(expected, milliseconds(time))?;
    let mut set = redis::cmd("HSET");
    set.arg(keys::PROMISES).arg(expected.model.queue.to_string()).arg(stored);
    set.exec_async(connection).await.map_err(broker_error)
}

/// Parses the promises of the last hour. An old promise no longer holds, but keeps its model known.
pub(super) fn read(promises: &HashMap<String, String>, now: u64) -> Vec<Promise> {
    let parse = |promise: &String| {
        let StoredAnnouncement { announcement, seen } = serde_json::from_str(promise).ok()?;
        let age = Duration::from_millis(now.saturating_sub(seen));
        let promise = Promise { expected: announcement, holds: age < PROMISED };
        (age < REMEMBERED).then_some(promise)
    };
    promises.values().filter_map(parse).collect()
}
