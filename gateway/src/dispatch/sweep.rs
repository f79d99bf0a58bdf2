//! Resubmits jobs that the queue has lost, so that no accepted request is lost.
//!
//! After an interruption of the queue, and after a long time without a reply, the sweep searches
//! the queue for the job of a request. If the job is no longer in the queue, either its reply is
//! about to arrive, or the job or the reply is lost.

use std::{collections::HashMap, sync::Arc, time::Duration};

use batchfleet_broker::{BrokerError, EntryId, QueueName, RequestId};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info};

use super::line::JobLine;
use crate::ledger::SILENCE;

/// Interval between attempts to send unsent requests.
const RETRY: Duration = Duration::from_millis(100);
/// Interval between searches for requests without a reply.
const LOOK: Duration = Duration::from_secs(1);
/// Time for a reply to arrive after its job has left the queue.
const GRACE: Duration = Duration::from_millis(300);

/// Task: searches the queues for jobs presumed lost, and resubmits lost jobs. `interrupted` is
/// notified when the queue may have lost jobs.
pub(super) async fn run(line: Arc<JobLine>, interrupted: Arc<Notify>) {
    let mut retry = interval(RETRY);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = Instant::now();
    // Jobs last seen in the queue before this time are presumed lost.
    let mut interruption: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = retry.tick() => {}
            () = interrupted.notified() => interruption = Some(Instant::now()),
        }
        if !line.producer().is_ready() {
            continue;
        }
        if let Some(before) = interruption {
            if search(&line, before).await.is_ok() {
                interruption = None;
            }
        } else if looked.elapsed() >= LOOK {
            looked = Instant::now();
            let Some(silent) = looked.checked_sub(SILENCE) else { continue };
            if let Err(error) = search(&line, silent).await {
                debug!(%error, "failed to look for silent requests");
            }
        }
        send_unsent(&line).await;
    }
}

/// Searches for every job last seen in its queue before `before`.
async fn search(line: &JobLine, before: Instant) -> Result<(), BrokerError> {
    let mut lost = Vec::new();
    for (queue, jobs) in by_queue(line, before) {
        let entries: Vec<_> = jobs.iter().map(|&(_, entry)| entry).collect();
        let found = line.producer().outstanding(&queue, &entries).await?;
        let now = Instant::now();
        for ((id, entry), is_found) in jobs.into_iter().zip(found) {
            if is_found {
                line.ledger().found(id, entry, now);
            } else {
                lost.push((id, entry));
            }
        }
    }
    if lost.is_empty() {
        return Ok(());
    }
    sleep(GRACE).await;
    let now = Instant::now();
    let mut ledger = line.ledger();
    let again = lost.iter().filter(|&&(id, entry)| ledger.lost(id, entry, now)).count();
    drop(ledger);
    if again > 0 {
        info!(requests = again, "resubmitting jobs that the queue has lost");
    }
    Ok(())
}

fn by_queue(line: &JobLine, before: Instant) -> HashMap<QueueName, Vec<(RequestId, EntryId)>> {
    let mut queues = HashMap::<QueueName, Vec<_>>::new();
    for (id, entry, caller) in line.ledger().presumed_lost(before) {
        let queue = &caller.model.spec.queue;
        match queues.get_mut(queue) {
            Some(jobs) => jobs.push((id, entry)),
            None => drop(queues.insert(queue.clone(), vec![(id, entry)])),
        }
    }
    queues
}

/// Submits the job of every unsent request.
async fn send_unsent(line: &Arc<JobLine>) {
    let mut sending = JoinSet::new();
    for (job, caller) in line.ledger().take_unsent(Instant::now()) {
        let (line, model) = (line.clone(), caller.model.clone());
        line.count_resubmission();
        sending.spawn(async move {
            if line.send(&model, &job).await.is_err() {
                // The queue is full, but may have room again before the deadline.
                line.ledger().unsent(job.id);
            }
        });
    }
    while sending.join_next().await.is_some() {}
}
