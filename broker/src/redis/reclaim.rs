//! Takes over jobs from workers that died, or that have held the jobs for longer than the lease.

use std::{collections::HashSet, time::Duration};

use redis::{aio::ConnectionLike, streams::StreamInfoConsumer};

use super::{
    consumers,
    errors::{broker_error, lost_queue},
    glance::Glance,
    held::HeldEntries,
    pending::{self, PendingEntry, PendingSearch, millis},
    pooled::PooledConnection,
    presence::WorkerPresence,
    queue::WorkerQueue,
    roll::{self, Roll},
};
use crate::{BrokerError, Delivery, Priority, roles::RECLAIM_AFTER};

/// The most dead workers in a roll. The others follow once these hold nothing.
const MOST_DEAD: usize = 16;

/// The queue, what the worker holds there, and what it knows of the other workers.
type Of<'a> = (&'a WorkerQueue, &'a HeldEntries, &'a WorkerPresence);

/// Takes over up to `limit` jobs, oldest first. `glance` has the answers that came with the last
/// renewal.
pub(super) async fn reclaim(
    of: Of<'_>,
    glance: Option<Glance>,
    (lease, limit): (Duration, usize),
) -> Result<Vec<Delivery>, BrokerError> {
    let (queue, held, presence) = of;
    let mut connection = queue.connections().pool.get().await?;
    let mut found = search(of, &mut connection, glance, (lease, limit)).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    for found in &mut found {
        found.deliveries += 1;
    }
    let mut deliveries =
        pending::take_over(queue, &mut connection, &found, &mut *held.lock().await).await?;
    let keys = queue.keys();
    let gateways = deliveries.iter().map(|delivery| keys.gateway(delivery.job.gateway)).collect();
    // Jobs that were taken over must be returned, even if this query fails.
    if let Ok(Some(alive)) = presence.alive(&mut *connection, gateways).await {
        for (delivery, alive) in deliveries.iter_mut().zip(alive) {
            delivery.awaited = alive;
        }
    }
    Ok(deliveries)
}

/// Finds up to `limit` jobs that may be taken over, oldest first.
pub(super) async fn search(
    (queue, held, presence): Of<'_>,
    connection: &mut PooledConnection,
    glance: Option<Glance>,
    (lease, limit): (Duration, usize),
) -> Result<Vec<PendingEntry>, BrokerError> {
    let glance = if let Some(glance) = glance {
        glance
    } else {
        let glance = Glance::look(queue, connection).await?;
        held.compare(&glance.oldest).await;
        glance
    };
    let Glance { is_turn, roll, clock, epoch, .. } = glance;
    // Every worker compares the epoch, so that a change of it is detected in time.
    let is_trusted = presence.trusts(epoch);
    let roll = if is_turn {
        look(queue, held, presence, connection).await?
    } else {
        roll.filter(|_| is_trusted)
    };
    queue.workers().set(roll.as_ref());
    let Some(mut roll) = roll else { return Ok(Vec::new()) };
    // The worker that has the turn also finds out whether a job is overdue.
    let searches = searches(queue, lease, clock, &roll, is_turn || roll.overdue);
    let mut found = Vec::new();
    if !searches.is_empty() {
        found = match pending::search(connection, searches, limit).await {
            Err(error) if lost_queue(&error) => Vec::new(),
            found => found.map_err(broker_error)?,
        };
    }
    if is_turn {
        roll.overdue = found.iter().any(|entry| entry.idle >= millis(lease));
        roll::write(queue.keys(), connection, queue.name(), &roll).await?;
    }
    Ok(found)
}

/// Finds out which workers of the queue live. `None` during the liveness grace period.
async fn look(
    queue: &WorkerQueue,
    held: &HeldEntries,
    presence: &WorkerPresence,
    connection: &mut impl ConnectionLike,
) -> Result<Option<Roll>, BrokerError> {
    let classes = consumers::read(connection, queue.streams()).await?;
    let of_class = |class: Priority| classes.get(class as usize).into_iter().flatten();
    let own = classes.iter().flatten().filter(|consumer| consumer.name == queue.worker());
    // A difference may be due to strays. The numbers also differ during a claim or settlement,
    // which causes one unnecessary search.
    if own.map(|consumer| consumer.pending).sum::<usize>() != held.lock().await.len() {
        held.suspect_strays(true);
    }
    let names: HashSet<&str> = classes.iter().flatten().map(name).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let keys = queue.keys();
    let workers = names.iter().map(|name| keys.live(name)).collect();
    let Some(live) = presence.alive(connection, workers).await? else { return Ok(None) };
    let living: HashSet<&str> =
        names.into_iter().zip(live).filter(|(_, live)| *live).map(|(name, _)| name).collect();
    // Every worker is in the groups of all classes.
    let workers = of_class(Priority::Default).filter(|worker| living.contains(name(worker)));
    let holding = classes.iter().flatten().filter(|consumer| consumer.pending > 0).map(name);
    let dead: HashSet<&str> =
        holding.filter(|name| *name != queue.worker() && !living.contains(name)).collect();
    let dead = dead.into_iter().take(MOST_DEAD).map(str::to_owned).collect();
    Ok(Some(Roll { workers: workers.count(), dead, overdue: false }))
}

fn name(consumer: &StreamInfoConsumer) -> &str {
    &consumer.name
}

/// Builds searches for entries held by dead workers, and, if `overdue`, by any worker for longer than
/// the lease.
fn searches<'a>(
    queue: &'a WorkerQueue,
    lease: Duration,
    clock: u64,
    roll: &'a Roll,
    overdue: bool,
) -> Vec<PendingSearch<'a>> {
    // An entry that has been held for longer than the lease was added even earlier.
    let before_lease = clock.saturating_sub(millis(lease)).to_string();
    let mut searches = Vec::new();
    for (class, stream) in queue.classes() {
        if overdue {
            let (until, idle) = (before_lease.clone(), lease);
            searches.push(PendingSearch { class, stream, until, idle, holder: None });
        }
        for name in &roll.dead {
            let (until, idle) = ("+".to_owned(), RECLAIM_AFTER);
            searches.push(PendingSearch { class, stream, until, idle, holder: Some(name) });
        }
    }
    searches
}
