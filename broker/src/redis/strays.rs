//! Finds strays: what Redis gave to a read whose answer never came.
//!
//! A read that was given up is carried out all the same if Redis gets to it: when it wakes up, or when
//! the network remembers the bytes. What it takes is held in the name of a worker that knows nothing
//! of it but lives, so nobody would touch it before the lease ends. Only that worker can tell.

use std::{collections::HashSet, sync::atomic::Ordering::Relaxed, time::Duration};

use super::{
    connect::broker_error,
    consumer::RedisConsumer,
    reclaim::{Found, Search, lost_queue, search},
};
use crate::{BrokerError, Delivery, EntryId, Priority};

impl RedisConsumer {
    /// Takes up to `limit` strays, the oldest first, for the delivery that failed: nobody ran them.
    ///
    /// Only between reads: what one under way brings looks like strays until it is here.
    pub(super) async fn take_strays(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        let mut connection = self.shared.pool.get().await?;
        let mut held = self.held.lock().await;
        let searches = Priority::ALL.into_iter().zip(&self.streams).map(|(class, stream)| {
            let (until, holder) = ("+".to_owned(), Some(self.worker.as_str()));
            Search { class, stream, until, idle: Duration::ZERO, holder }
        });
        // So many that the held cannot hide the strays.
        let enough = held.len().saturating_add(limit);
        let mut found = match search(&mut *connection, searches.collect(), enough).await {
            // The queue is gone, and what was held of it.
            Err(error) if lost_queue(&error) => return Ok(Vec::new()),
            found => found.map_err(broker_error)?,
        };
        let all = found.len() < enough;
        if all {
            // Others may have taken over what was held for too long.
            let found: HashSet<EntryId> = found.iter().map(|found| found.entry).collect();
            held.retain(|entry| found.contains(entry));
        }
        found.retain(|Found { entry, .. }| !held.contains(entry));
        found.truncate(limit);
        let strays = self.take_over(&mut *connection, &found, &mut held).await?;
        self.strays.store(!all, Relaxed);
        if !strays.is_empty() {
            tracing::warn!(queue = %self.name, jobs = strays.len(), "found jobs that never arrived");
        }
        Ok(strays)
    }
}
