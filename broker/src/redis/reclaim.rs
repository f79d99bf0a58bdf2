//! Takes over jobs from workers that died, or that have held the jobs for longer than the lease.

use std::{collections::HashSet, time::Duration};

use redis::{Pipeline, Value, aio::ConnectionLike, streams::StreamInfoConsumer};

use super::{
    consumers,
    entries::parse_id,
    errors::{broker_error, lost_queue},
    held::HeldEntries,
    keys,
    pending::{self, PendingSearch, millis},
    presence::WorkerPresence,
    queue::WorkerQueue,
    roll::{self, Roll},
    values::{milliseconds, parse},
};
use crate::{BrokerError, Delivery, EntryId, Priority, roles::RECLAIM_AFTER};

/// The most dead workers in a roll. The others follow once these hold nothing.
const MOST_DEAD: usize = 16;

/// What a worker asks every second.
struct Glance {
    /// Whether this worker looks for all.
    is_turn: bool,
    /// What another worker found.
    roll: Option<Roll>,
    /// Redis's clock in milliseconds.
    clock: u64,
    epoch: Option<String>,
    /// The oldest entry that this worker holds in each class, by Redis's account.
    oldest: Vec<EntryId>,
}

/// Takes over up to `limit` jobs, oldest first.
pub(super) async fn reclaim(
    queue: &WorkerQueue,
    held: &HeldEntries,
    presence: &WorkerPresence,
    (lease, limit): (Duration, usize),
) -> Result<Vec<Delivery>, BrokerError> {
    let mut connection = queue.connections().pool.get().await?;
    let Glance { is_turn, roll, clock, epoch, oldest } = glance(queue, &mut *connection).await?;
    let known = held.lock().await;
    if oldest.iter().any(|entry| !known.contains(entry)) {
        held.suspect_strays(true);
    }
    drop(known);
    // Every worker compares the epoch, so that a change of it is detected in time.
    let is_trusted = presence.trusts(epoch);
    let roll = if is_turn {
        look(queue, held, presence, &mut *connection).await?
    } else {
        roll.filter(|_| is_trusted)
    };
    queue.workers().set(roll.as_ref());
    let Some(mut roll) = roll else { return Ok(Vec::new()) };
    // The worker that has the turn also finds out whether a job is overdue.
    let searches = searches(queue, lease, clock, &roll, is_turn || roll.overdue);
    let mut found = Vec::new();
    if !searches.is_empty() {
        found = match pending::search(&mut *connection, searches, limit).await {
            Err(error) if lost_queue(&error) => Vec::new(),
            found => found.map_err(broker_error)?,
        };
    }
    if is_turn {
        roll.overdue = found.iter().any(|entry| entry.idle >= millis(lease));
        roll::write(&mut *connection, queue.name(), &roll).await?;
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    for found in &mut found {
        found.deliveries += 1;
    }
    let mut deliveries =
        pending::take_over(queue, &mut *connection, &found, &mut *held.lock().await).await?;
    let keys = deliveries.iter().map(|delivery| keys::gateway(delivery.job.gateway)).collect();
    // Jobs that were taken over must be returned, even if this query fails.
    if let Ok(Some(alive)) = presence.alive(&mut *connection, keys).await {
        for (delivery, alive) in deliveries.iter_mut().zip(alive) {
            delivery.awaited = alive;
        }
    }
    Ok(deliveries)
}

/// Asks in one round trip whether this worker looks for all, and what another has found.
async fn glance(
    queue: &WorkerQueue,
    connection: &mut impl ConnectionLike,
) -> Result<Glance, BrokerError> {
    let mut commands = Pipeline::new();
    roll::take_turn(&mut commands, queue.name(), queue.worker());
    commands.get(keys::roll(queue.name())).cmd("TIME").get(keys::EPOCH);
    for stream in queue.streams() {
        // An entry that Redis has just given to a claim is not known here yet.
        let pending = commands.cmd("XPENDING").arg(stream).arg(keys::GROUP);
        pending.arg("IDLE").arg(millis(RECLAIM_AFTER)).arg("-").arg("+").arg(1).arg(queue.worker());
    }
    commands.ignore_errors();
    let answers: Vec<Value> = commands.query_async(connection).await.map_err(broker_error)?;
    let mut answers = answers.into_iter();
    let is_turn = roll::is_turn_of(queue.worker(), answers.next(), answers.next());
    let roll = roll::read(answers.next());
    let clock = milliseconds(parse(answers.next()).map_err(broker_error)?);
    let epoch = parse(answers.next()).map_err(broker_error)?;
    let mut oldest = Vec::new();
    for (class, answer) in Priority::ALL.into_iter().zip(answers) {
        match parse::<Vec<(String, String, u64, u32)>>(Some(answer)) {
            Err(error) if lost_queue(&error) => {}
            rows => {
                let rows = rows.map_err(broker_error)?;
                oldest.extend(rows.into_iter().filter_map(|(id, ..)| parse_id(&id, class)));
            }
        }
    }
    Ok(Glance { is_turn, roll, clock, epoch, oldest })
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
    let keys = names.iter().map(|name| keys::live(name)).collect();
    let Some(live) = presence.alive(connection, keys).await? else { return Ok(None) };
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
