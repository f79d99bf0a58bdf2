//! Takes over jobs from workers that died, or that have held the jobs for longer than the lease.

use std::{collections::HashSet, time::Duration};

use redis::{Value, streams::StreamInfoConsumer};

use super::{
    consumers,
    errors::broker_error,
    held::HeldEntries,
    keys,
    pending::{self, PendingSearch, millis},
    presence::WorkerPresence,
    queue::WorkerQueue,
    values::{milliseconds, parse},
};
use crate::{BrokerError, Delivery, roles::RECLAIM_AFTER};

/// The workers that hold jobs.
struct Holders {
    /// Names of the workers by class, highest class first.
    names: Vec<Vec<String>>,
    /// Redis's clock in milliseconds.
    clock: u64,
}

/// Takes over up to `limit` jobs, oldest first.
pub(super) async fn reclaim(
    queue: &WorkerQueue,
    held: &HeldEntries,
    presence: &WorkerPresence,
    (lease, limit): (Duration, usize),
) -> Result<Vec<Delivery>, BrokerError> {
    let mut connection = queue.connections().pool.get().await?;
    let mut questions = consumers::questions(queue.streams());
    let answers = questions.cmd("TIME").query_async(&mut *connection).await;
    let mut answers: Vec<Value> = answers.map_err(broker_error)?;
    let clock = milliseconds(parse(answers.pop()).map_err(broker_error)?);
    let classes =
        answers.into_iter().map(consumers::parse).collect::<Result<Vec<_>, BrokerError>>()?;
    let all = classes.iter().flatten().filter(|consumer| consumer.name == queue.worker());
    let own: usize = all.map(|consumer| consumer.pending).sum();
    // A difference may be due to strays. The numbers also differ during a claim or settlement,
    // which causes one unnecessary search.
    if own != held.lock().await.len() {
        held.suspect_strays(true);
    }
    let holders = Holders { names: classes.into_iter().map(holding).collect(), clock };
    let others: HashSet<&str> = holders.names.iter().flatten().map(String::as_str).collect();
    let others: Vec<&str> = others.into_iter().filter(|name| *name != queue.worker()).collect();
    let keys = others.iter().map(|name| keys::live(name)).collect();
    // Queried even if no worker holds jobs, so that a change of the epoch is detected in time.
    let Some(live) = presence.alive(&mut *connection, keys).await? else {
        return Ok(Vec::new());
    };
    let dead: HashSet<&str> =
        others.into_iter().zip(live).filter(|(_, live)| !live).map(|(name, _)| name).collect();
    let searches = searches(queue, lease, &holders, &dead);
    if searches.is_empty() {
        return Ok(Vec::new());
    }
    let overdue = pending::search(&mut *connection, searches, limit).await;
    let mut overdue = overdue.map_err(broker_error)?;
    for found in &mut overdue {
        found.deliveries += 1;
    }
    let mut deliveries =
        pending::take_over(queue, &mut *connection, &overdue, &mut *held.lock().await).await?;
    let keys = deliveries.iter().map(|delivery| keys::gateway(delivery.job.gateway)).collect();
    // Jobs that were taken over must be returned, even if this query fails.
    if let Ok(Some(alive)) = presence.alive(&mut *connection, keys).await {
        for (delivery, alive) in deliveries.iter_mut().zip(alive) {
            delivery.awaited = alive;
        }
    }
    Ok(deliveries)
}

/// The names of consumers that hold entries.
fn holding(consumers: Vec<StreamInfoConsumer>) -> Vec<String> {
    let holding = consumers.into_iter().filter(|consumer| consumer.pending > 0);
    holding.map(|consumer| consumer.name).collect()
}

/// Builds searches for entries held by `dead` workers, or by any worker for longer than the lease.
fn searches<'a>(
    queue: &'a WorkerQueue,
    lease: Duration,
    holders: &'a Holders,
    dead: &HashSet<&str>,
) -> Vec<PendingSearch<'a>> {
    // An entry that has been held for longer than the lease was added even earlier.
    let before_lease = holders.clock.saturating_sub(millis(lease)).to_string();
    let mut searches = Vec::new();
    for ((class, stream), names) in queue.classes().zip(&holders.names) {
        if !names.is_empty() {
            let (until, idle) = (before_lease.clone(), lease);
            searches.push(PendingSearch { class, stream, until, idle, holder: None });
        }
        for name in names.iter().filter(|name| dead.contains(name.as_str())) {
            let (until, idle) = ("+".to_owned(), RECLAIM_AFTER);
            searches.push(PendingSearch { class, stream, until, idle, holder: Some(name) });
        }
    }
    searches
}
