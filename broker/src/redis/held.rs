//! The entries that a worker holds: delivered, and neither settled nor handed back.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::sync::{Mutex, MutexGuard};

use crate::{Delivery, EntryId};

/// The entries that a worker holds.
#[derive(Default)]
pub(super) struct HeldEntries {
    entries: Mutex<HashSet<EntryId>>,
    strays: AtomicBool,
}

impl HeldEntries {
    /// Locks the entries. Hold the lock while taking over entries, so that they do not look like
    /// strays.
    pub(super) async fn lock(&self) -> MutexGuard<'_, HashSet<EntryId>> {
        self.entries.lock().await
    }

    /// Adds the entries of new deliveries.
    pub(super) async fn add(&self, deliveries: &[Delivery]) {
        self.lock().await.extend(deliveries.iter().map(|delivery| delivery.entry));
    }

    /// Removes entries that were settled or handed back.
    pub(super) async fn release(&self, entries: &[EntryId]) {
        let mut held = self.lock().await;
        for entry in entries {
            held.remove(entry);
        }
    }

    /// Compares with entries that this worker holds by Redis's account.
    pub(super) async fn compare(&self, counted: &[EntryId]) {
        let held = self.lock().await;
        if counted.iter().any(|entry| !held.contains(entry)) {
            self.suspect_strays(true);
        }
    }

    /// Whether Redis may count entries as held by this worker that are missing here.
    pub(super) fn may_have_strays(&self) -> bool {
        self.strays.load(Relaxed)
    }

    /// Sets what [`may_have_strays`](Self::may_have_strays) returns.
    pub(super) fn suspect_strays(&self, strays: bool) {
        self.strays.store(strays, Relaxed);
    }
}
