//! Finds and takes over pending entries, which are claimed by any worker and not settled.

use std::{collections::HashSet, time::Duration};

use redis::{Pipeline, RedisError, Value, aio::ConnectionLike};

use super::{
    connect::PATIENCE,
    entries::{Entry, entries, id_text, parse_id},
    errors::{broker_error, unreadable},
    keys,
    pooled::PooledConnection,
    queue::WorkerQueue,
    values::milliseconds,
};
use crate::{BrokerError, Delivery, EntryId, Priority};

/// A search for pending entries in one stream.
pub(super) struct PendingSearch<'a> {
    pub(super) class: Priority,
    pub(super) stream: &'a str,
    /// The highest id to search.
    pub(super) until: String,
    /// The minimum time that the entry has been held.
    pub(super) idle: Duration,
    /// The worker that holds the entry; `None` for any worker.
    pub(super) holder: Option<&'a str>,
}

/// A pending entry, found by a search.
pub(super) struct PendingEntry {
    pub(super) entry: EntryId,
    /// How long the entry has been held, in milliseconds.
    pub(super) idle: u64,
    /// How often the entry was delivered.
    pub(super) deliveries: u32,
}

/// A row of `XPENDING`: id, worker, milliseconds held, deliveries.
type Row = (String, String, u64, u32);

/// Runs the searches in one round trip. Returns at most `limit` entries, oldest first.
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

/// Claims the entries, sets their numbers of deliveries, and adds them to `held`: one of them after a
/// transfer that took too long. Leaves out entries that were settled, or claimed by another worker,
/// since the search. Redis forgets entries that no longer exist.
pub(super) async fn take_over(
    queue: &WorkerQueue,
    connection: &mut PooledConnection,
    found: &[PendingEntry],
    held: &mut HashSet<EntryId>,
) -> Result<Vec<Delivery>, BrokerError> {
    let transfers = queue.transfers();
    let found = &found[..transfers.jobs(found.len())];
    if found.is_empty() {
        return Ok(Vec::new());
    }
    connection.set_patience(transfers.patience(PATIENCE, found.len()));
    let mut claim = Pipeline::new();
    for PendingEntry { entry, idle, deliveries } in found {
        let stream = queue.stream(entry.priority);
        let claim = claim.cmd("XCLAIM").arg(stream).arg(keys::GROUP).arg(queue.worker());
        // Leaves out entries that another worker has claimed since the search: their idle time is
        // lower.
        claim.arg(idle).arg(id_text(*entry)).arg("RETRYCOUNT").arg(deliveries);
    }
    claim.cmd("TIME");
    let answers: Result<Vec<Value>, _> = tokio::select! {
        answers = claim.query_async(connection) => answers,
        () = queue.connections().link.lost_after(PATIENCE) => {
            return Err(BrokerError::unreachable("the connection to Redis was lost"));
        }
    };
    let mut answers = answers.map_err(|error| {
        queue.note_failure(&error);
        broker_error(error)
    })?;
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
    transfers.arrived(claimed.iter().map(Entry::size));
    let deliveries = queue.deliver(claimed, milliseconds(time)).await;
    held.extend(deliveries.iter().map(|delivery| delivery.entry));
    Ok(deliveries)
}

/// Restarts the time for which the entries have been held, without a delivery. Leaves out entries
/// that have been held for less than `held_for`.
pub(super) async fn renew(
    queue: &WorkerQueue,
    entries: &[EntryId],
    held_for: Duration,
) -> Result<(), BrokerError> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut renew = Pipeline::new();
    for entry in entries {
        let stream = queue.stream(entry.priority);
        let claim = renew.cmd("XCLAIM").arg(stream).arg(keys::GROUP).arg(queue.worker());
        claim.arg(millis(held_for)).arg(id_text(*entry)).arg("JUSTID").ignore();
    }
    queue.connections().run(&renew).await?;
    Ok(())
}

/// Sort key for entries of all classes, in the order in which they were added.
fn by_age(id: EntryId) -> (u64, u64, Priority) {
    (id.milliseconds, id.sequence, id.priority)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
