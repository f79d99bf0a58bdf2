//! The callers of outstanding requests.

use std::{collections::HashMap, sync::Arc};

use batchfleet_broker::{EntryId, QueueName, RequestId};
use parking_lot::Mutex;

use crate::{ledger::Ledger, mailbox::Address, model::Model};

/// The ledger that the parts of a dispatcher share.
pub(super) type SharedLedger = Arc<Mutex<Ledger<Caller>>>;

/// The caller of one outstanding request.
pub(super) struct Caller {
    /// The model version of the request.
    pub(super) model: Arc<Model>,
    /// Rows of the request.
    pub(super) rows: u32,
    /// Where the caller waits for the answer.
    pub(super) address: Address,
}

/// Jobs in one queue.
pub(super) type QueuedJobs = (QueueName, Vec<(RequestId, EntryId)>);

/// Sorts jobs by their queue.
pub(super) fn by_queue(jobs: Vec<(RequestId, EntryId, &Caller)>) -> Vec<QueuedJobs> {
    let mut queues = HashMap::<&QueueName, Vec<_>>::new();
    for (id, entry, caller) in jobs {
        queues.entry(&caller.model.spec.queue).or_default().push((id, entry));
    }
    queues.into_iter().map(|(queue, jobs)| (queue.clone(), jobs)).collect()
}
