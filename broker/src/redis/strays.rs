//! Finds strays: entries that Redis gave to a read whose answer never arrived.
//!
//! Redis executes a read that its worker has given up, once Redis resumes or the network delivers
//! the command. The entries are then held in the name of a live worker that does not know of them,
//! so other workers cannot take them over before the lease ends. Only the worker itself can find
//! the strays, because it tracks the entries that it holds.

use std::{collections::HashSet, time::Duration};

use super::{
    errors::{broker_error, lost_queue},
    held::HeldEntries,
    pending::{self, PendingEntry, PendingSearch},
    queue::WorkerQueue,
};
use crate::{BrokerError, Delivery, EntryId};

/// Takes up to `limit` strays, oldest first. The number of deliveries does not increase, because
/// the lost delivery ran nothing.
///
/// Must not run during a read, because entries in transit to the worker look like strays.
pub(super) async fn take(
    queue: &WorkerQueue,
    held_entries: &HeldEntries,
    limit: usize,
) -> Result<Vec<Delivery>, BrokerError> {
    let mut connection = queue.connections().pool.get().await?;
    let mut held = held_entries.lock().await;
    let searches = queue.classes().map(|(class, stream)| {
        let (until, holder) = ("+".to_owned(), Some(queue.worker()));
        PendingSearch { class, stream, until, idle: Duration::ZERO, holder }
    });
    // Enough that `limit` strays remain even if every held entry comes first.
    let enough = held.len().saturating_add(limit);
    let mut found = match pending::search(&mut *connection, searches.collect(), enough).await {
        // The queue is gone, including its held entries.
        Err(error) if lost_queue(&error) => return Ok(Vec::new()),
        found => found.map_err(broker_error)?,
    };
    let all = found.len() < enough;
    if all {
        // Other workers may have taken over entries after their lease ended.
        let found: HashSet<EntryId> = found.iter().map(|found| found.entry).collect();
        held.retain(|entry| found.contains(entry));
    }
    found.retain(|PendingEntry { entry, .. }| !held.contains(entry));
    found.truncate(limit);
    let strays = pending::take_over(queue, &mut connection, &found, &mut held).await?;
    held_entries.suspect_strays(!all);
    if !strays.is_empty() {
        tracing::warn!(queue = %queue.name(), jobs = strays.len(), "found jobs that never arrived");
    }
    Ok(strays)
}
