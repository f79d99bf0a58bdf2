//! Sends again what the queue has lost, so that no accepted request is.
//!
//! A request is looked for in the queue after the queue was interrupted, and after a long silence.
//! What is not there has either been answered, and the answer is about to arrive, or been lost
//! together with its answer.

use std::{collections::HashMap, sync::Arc, time::Duration};

use batchfleet_broker::{BrokerError, EntryId, QueueName, RequestId};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info};

use crate::{dispatch::Dispatcher, ledger::SILENCE};

/// How often requests that are here are sent, once the queue can be reached.
const RETRY: Duration = Duration::from_millis(100);
/// How often silent requests are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// How long an answer may travel that was sent when its job left the queue.
const GRACE: Duration = Duration::from_millis(300);

/// Task: looks for suspects and sends again what was lost. `interrupted` is notified when the queue
/// may have lost anything.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>, interrupted: Arc<Notify>) {
    let mut retry = interval(RETRY);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = Instant::now();
    // Everything that was queued before this moment is suspect.
    let mut suspect_before: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = retry.tick() => {}
            () = interrupted.notified() => suspect_before = Some(Instant::now()),
        }
        if !dispatcher.producer.is_ready() {
            continue;
        }
        if let Some(before) = suspect_before {
            if search(&dispatcher, before).await.is_ok() {
                suspect_before = None;
            }
        } else if looked.elapsed() >= LOOK {
            looked = Instant::now();
            let Some(silent) = looked.checked_sub(SILENCE) else { continue };
            if let Err(error) = search(&dispatcher, silent).await {
                debug!(%error, "cannot look for silent requests");
            }
        }
        send_unsent(&dispatcher).await;
    }
}

/// Looks for every request last seen in its queue before `before`.
async fn search(dispatcher: &Dispatcher, before: Instant) -> Result<(), BrokerError> {
    let mut lost = Vec::new();
    for (queue, suspects) in by_queue(dispatcher, before) {
        let entries: Vec<_> = suspects.iter().map(|&(_, entry)| entry).collect();
        let outstanding = dispatcher.producer.outstanding(&queue, &entries).await?;
        let now = Instant::now();
        for ((id, entry), is_outstanding) in suspects.into_iter().zip(outstanding) {
            if is_outstanding {
                dispatcher.ledger().stands(id, entry, now);
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
    let mut ledger = dispatcher.ledger();
    let again = lost.iter().filter(|&&(id, entry)| ledger.lost(id, entry, now)).count();
    drop(ledger);
    if again > 0 {
        info!(requests = again, "sending again what the queue has lost");
    }
    Ok(())
}

fn by_queue(
    dispatcher: &Dispatcher,
    before: Instant,
) -> HashMap<QueueName, Vec<(RequestId, EntryId)>> {
    let mut queues = HashMap::<QueueName, Vec<_>>::new();
    for (id, entry, caller) in dispatcher.ledger().suspects(before) {
        let queue = &caller.model.spec.queue;
        match queues.get_mut(queue) {
            Some(suspects) => suspects.push((id, entry)),
            None => drop(queues.insert(queue.clone(), vec![(id, entry)])),
        }
    }
    queues
}

/// Sends every request that is here.
async fn send_unsent(dispatcher: &Arc<Dispatcher>) {
    let mut sending = JoinSet::new();
    {
        let mut ledger = dispatcher.ledger();
        for (job, caller) in ledger.take_unsent(Instant::now()) {
            let (dispatcher, model) = (dispatcher.clone(), caller.model.clone());
            dispatcher.metrics.resubmissions.inc();
            sending.spawn(async move {
                if dispatcher.send(&model, &job).await.is_err() {
                    // The queue is full, which passes: the caller's deadline decides.
                    dispatcher.ledger().unsent(job.id);
                }
            });
        }
    }
    while sending.join_next().await.is_some() {}
}
