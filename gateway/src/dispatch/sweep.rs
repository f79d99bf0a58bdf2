//! Resubmits jobs that the queue has lost, so that no accepted request is lost.
//!
//! After an interruption of the queue, and after a long time without a reply, the sweep searches
//! the queue for the job of a request. If the job is no longer in the queue, either its reply is
//! about to arrive, or the job or the reply is lost.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::BrokerError;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info};

use super::{
    caller::{QueuedJobs, by_queue},
    line::JobLine,
    retracted,
};
use crate::{error::InferError, ledger::SILENCE};

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
    let mut sending = JoinSet::new();
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
            let lost = presumed_lost(&line, before);
            if search(&line, lost).await.is_ok() {
                interruption = None;
            }
        } else if looked.elapsed() >= LOOK {
            looked = Instant::now();
            if let Err(error) = look(&line, looked).await {
                debug!(%error, "failed to look for silent requests");
            }
        }
        send_unsent(&line, &mut sending);
    }
}

/// Refuses the waiting requests of deleted fleets, and searches for jobs that their workers may have
/// handed back, and for silent requests.
async fn look(line: &JobLine, now: Instant) -> Result<(), BrokerError> {
    let claimed = retracted::refuse(line).await?;
    search(line, claimed).await?;
    let Some(silent) = now.checked_sub(SILENCE) else { return Ok(()) };
    let lost = presumed_lost(line, silent);
    search(line, lost).await
}

/// Searches for these jobs in their queues.
async fn search(line: &JobLine, sought: Vec<QueuedJobs>) -> Result<(), BrokerError> {
    let mut lost = Vec::new();
    for (queue, jobs) in sought {
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

/// The jobs last seen in their queues before `before`.
fn presumed_lost(line: &JobLine, before: Instant) -> Vec<QueuedJobs> {
    by_queue(line.ledger().presumed_lost(before))
}

/// Starts to submit the job of every unsent request. Does not wait for the end, because a large job
/// can take long, and other requests may become unsent meanwhile.
fn send_unsent(line: &Arc<JobLine>, sending: &mut JoinSet<()>) {
    while sending.try_join_next().is_some() {}
    for (job, caller) in line.ledger().take_unsent(Instant::now()) {
        let (line, model) = (line.clone(), caller.model.clone());
        line.count_resubmission();
        sending.spawn(async move {
            match line.send(&model, &job).await {
                // The queue is full, but may have room again before the deadline.
                Err(InferError::QueueFull | InferError::QueueUnreachable) => {
                    line.ledger().unsent(job.id);
                }
                sent => line.refuse(&job, sent),
            }
        });
    }
}
