//! Pending entries: claimed and not settled, by any worker. Finds them and takes them over.

use std::{collections::HashSet, time::Duration};

use redis::{Pipeline, RedisError, Value, aio::ConnectionLike};

use super::{
    entries::{entries, id_text, parse_id},
    errors::{broker_error, unreadable},
    keys,
    queue::WorkerQueue,
    values::milliseconds,
};
use crate::{BrokerError, Delivery, EntryId, Priority};

/// One search for pending entries.
pub(super) struct PendingSearch<'a> {
    pub(super) class: Priority,
    pub(super) stream: &'a str,
    /// The highest id of interest.
    pub(super) until: String,
    /// How long an entry must have been held.
    pub(super) idle: Duration,
    /// The worker that holds it; `None` for any.
    pub(super) holder: Option<&'a str>,
}

/// A pending entry that was found.
pub(super) struct PendingEntry {
    pub(super) entry: EntryId,
    /// How long it has been held, in milliseconds.
    idle: u64,
    /// How often it was delivered.
    pub(super) deliveries: u32,
}

/// A row of `XPENDING`: id, worker, milliseconds held, deliveries.
type Row = (String, String, u64, u32);

/// Runs the searches in one round trip; at most `limit` entries, the oldest first.
pub(super) async fn search(
    connection: &mut impl ConnectionLike,
    searches: Vec<PendingSearch<'_>>,
    limit: usize,
) -> Result<Vec<PendingEntry>, RedisError> {
    let mut commands = Pipeline::new();
    for PendingSearch { stream, until, idle, holder, .. } in &searches {
        let pending = commands.cmd("XPENDING").arg(stream).arg(keys::GROUP);
        pending.arg("IDLE").arg(millis(*idle)).arg("-").arg(until).arg(limit).arg(holder);
    }
    let answers: Vec<Vec<Row>> = commands.query_async(connection).await?;
    let mut all = Vec::new();
    for (PendingSearch { class, .. }, rows) in searches.iter().zip(answers) {
        let found = |(id, _, idle, deliveries): Row| {
            Some(PendingEntry { entry: parse_id(&id, *class)?, idle, deliveries })
        };
        all.extend(rows.into_iter().filter_map(found));
    }
    all.sort_unstable_by_key(|found| by_age(found.entry));
    all.dedup_by_key(|found| found.entry);
    all.truncate(limit);
    Ok(all)
}

/// Claims these entries with the number of deliveries that they are given, and adds them to `held`.
/// Leaves out those that were settled, or claimed by another worker, since the search; Redis
/// forgets those that no longer exist.
pub(super) async fn take_over(
    queue: &WorkerQueue,
    connection: &mut impl ConnectionLike,
    found: &[PendingEntry],
    held: &mut HashSet<EntryId>,
) -> Result<Vec<Delivery>, BrokerError> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut claim = Pipeline::new();
    for PendingEntry { entry, idle, deliveries } in found {
        let stream = queue.stream(entry.priority);
        let claim = claim.cmd("XCLAIM").arg(stream).arg(keys::GROUP).arg(queue.worker());
        // An entry that another worker claimed since the search has been idle for less.
        claim.arg(idle).arg(id_text(*entry)).arg("RETRYCOUNT").arg(deliveries);
    }
    claim.cmd("TIME");
    let mut answers: Vec<Value> = claim.query_async(connection).await.map_err(broker_error)?;
    let time = answers.pop().ok_or_else(|| unreadable("TIME"))?;
    let time = redis::from_redis_value(time).map_err(|_| unreadable("TIME"))?;
    let mut claimed = Vec::new();
    for (found, answer) in found.iter().zip(answers) {
        let answer = entries(answer, found.entry.priority).ok_or_else(|| unreadable("XCLAIM"))?;
        claimed.extend(answer.into_iter().map(|mut entry| {
            entry.deliveries = found.deliveries;
            entry
        }));
    }
    let deliveries = queue.deliver(claimed, milliseconds(time)).await;
    held.extend(deliveries.iter().map(|delivery| delivery.entry));
    Ok(deliveries)
}

/// The order in which entries were added, whatever their class.
fn by_age(id: EntryId) -> (u64, u64, Priority) {
    (id.milliseconds, id.sequence, id.priority)
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
