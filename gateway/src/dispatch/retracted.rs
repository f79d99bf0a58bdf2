//! Refuses the requests that wait for a model whose fleet was deleted. Jobs that a worker has claimed
//! still get their answer.

use batchfleet_broker::BrokerError;
use tracing::info;

use super::{
    caller::{Caller, QueuedJobs, by_queue},
    line::JobLine,
};
use crate::error::InferError;

/// Refuses the requests of retracted models whose jobs no worker has claimed. Returns the jobs that
/// a worker has claimed or handed back, by queue.
pub(super) async fn refuse(line: &JobLine) -> Result<Vec<QueuedJobs>, BrokerError> {
    let unsent = line.ledger().release_unsent(is_retracted);
    let mut refused = unsent.len();
    unsent.into_iter().for_each(answer);
    let queued = by_queue(line.ledger().queued(is_retracted));
    let mut claimed = Vec::new();
    for (queue, jobs) in queued {
        let entries: Vec<_> = jobs.iter().map(|&(_, entry)| entry).collect();
        let withdrawn = line.producer().withdraw_waiting(&queue, &entries).await?;
        let mut held = Vec::new();
        for ((id, entry), is_withdrawn) in jobs.into_iter().zip(withdrawn) {
            if !is_withdrawn {
                held.push((id, entry));
            } else if let Some(caller) = line.ledger().release_queued(id, entry) {
                refused += 1;
                answer(caller);
            }
        }
        if !held.is_empty() {
            claimed.push((queue, held));
        }
    }
    if refused > 0 {
        info!(requests = refused, "refused waiting requests of deleted fleets");
    }
    Ok(claimed)
}

fn is_retracted(caller: &Caller) -> bool {
    caller.model.is_retracted()
}

fn answer(caller: Caller) {
    let model = caller.model.spec.queue.model.clone();
    caller.address.send(Err(InferError::FleetDeleted(model)));
}
