//! Takes over jobs whose worker died, or holds them for too long.

use std::{
    collections::HashSet,
    sync::{MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use redis::{
    Pipeline, RedisError, Value,
    aio::ConnectionLike,
    streams::{StreamInfoConsumer, StreamInfoConsumersReply as Consumers},
};
use tokio::time::Instant;

use super::{
    connect::{broker_error, milliseconds, no_such_key, nonsense},
    consumer::{RedisConsumer, lost_group},
    entries::{entries, id_text, parse_id},
    keys,
};
use crate::{
    BrokerError, Delivery, EntryId, Priority,
    roles::{LIVENESS, RECLAIM_AFTER},
};

/// Why the absence of a sign of life may mean nothing: Redis lost it, or does not take any. Who
/// shows none is only believed dead [`LIVENESS`] after that, when the living have had time to.
#[derive(Default)]
pub(super) struct Doubt {
    /// The epoch of Redis's data that was seen last.
    epoch: Option<String>,
    since: Option<Instant>,
}

impl Doubt {
    /// To be called when this worker's own sign of life was not taken: nobody's may have been.
    pub(super) fn raise(&mut self) {
        self.since = Some(Instant::now());
    }

    /// Notes the current epoch; whether no doubt is left. The first one counts as old: the age of
    /// the connection speaks for it.
    fn is_over(&mut self, epoch: Option<String>) -> bool {
        if self.epoch.is_some() && self.epoch != epoch {
            self.raise();
        }
        self.epoch = epoch;
        self.since.is_none_or(|since| since.elapsed() >= LIVENESS)
    }
}

/// Who holds jobs, by class, and Redis's clock in milliseconds.
struct Holders {
    names: [Vec<String>; Priority::ALL.len()],
    /// How many this worker holds, in all classes.
    own: usize,
    clock: u64,
}

/// One look for entries that are held for too long.
pub(super) struct Search<'a> {
    pub(super) class: Priority,
    pub(super) stream: &'a str,
    /// The id of the youngest entry of interest.
    pub(super) until: String,
    pub(super) idle: Duration,
    /// Whose; `None` for anybody's.
    pub(super) holder: Option<&'a str>,
}

/// An entry that somebody holds: who, for how many milliseconds, and how often it was delivered.
type Pending = (String, String, u64, u32);

/// An entry that a search found.
pub(super) struct Found {
    pub(super) entry: EntryId,
    /// For how many milliseconds it has been held.
    idle: u64,
    /// How often it was delivered.
    pub(super) deliveries: u32,
}

impl RedisConsumer {
    pub(super) async fn reclaim_up_to(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        let mut connection = self.shared.pool.get().await?;
        let holders = match self.holders(&mut *connection).await {
            // The queue is gone, and made anew by the next claim.
            Err(error) if lost_queue(&error) => return Ok(Vec::new()),
            holders => holders.map_err(broker_error)?,
        };
        // They also differ while a claim or a settlement is under way: a look more than needed.
        if holders.own != self.held.lock().await.len() {
            self.strays.store(true, Relaxed);
        }
        let others: HashSet<&str> = holders.names.iter().flatten().map(String::as_str).collect();
        let others: Vec<&str> = others.into_iter().filter(|name| *name != self.worker).collect();
        let keys = others.iter().map(|name| keys::live(name)).collect();
        // Asked even where nobody holds anything: a change of the epoch must be seen in time.
        let Some(live) = self.alive(&mut *connection, keys).await? else {
            return Ok(Vec::new());
        };
        let dead: HashSet<&str> =
            others.into_iter().zip(live).filter(|(_, live)| !live).map(|(name, _)| name).collect();
        let searches = self.searches(&holders, &dead);
        if searches.is_empty() {
            return Ok(Vec::new());
        }
        let mut overdue = search(&mut *connection, searches, limit).await.map_err(broker_error)?;
        for found in &mut overdue {
            found.deliveries += 1;
        }
        let mut deliveries =
            self.take_over(&mut *connection, &overdue, &mut *self.held.lock().await).await?;
        let keys = deliveries.iter().map(|delivery| keys::gateway(delivery.job.gateway)).collect();
        // What is taken over is owed, whether that is known or not.
        if let Ok(Some(alive)) = self.alive(&mut *connection, keys).await {
            for (delivery, alive) in deliveries.iter_mut().zip(alive) {
                delivery.awaited = alive;
            }
        }
        Ok(deliveries)
    }

    /// Which of these keys of living things exist; `None` while their absence means nothing.
    pub(super) async fn alive(
        &self,
        connection: &mut impl ConnectionLike,
        mut keys: Vec<String>,
    ) -> Result<Option<Vec<bool>>, BrokerError> {
        keys.push(keys::EPOCH.to_owned());
        let mut values: Vec<Option<String>> =
            redis::cmd("MGET").arg(keys).query_async(connection).await.map_err(broker_error)?;
        let epoch = values.pop().flatten();
        let certain = self.doubt().is_over(epoch);
        let connected = self.shared.link.up_for() >= LIVENESS;
        Ok((certain && connected).then(|| values.iter().map(Option::is_some).collect()))
    }

    pub(super) fn doubt(&self) -> MutexGuard<'_, Doubt> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn holders(&self, connection: &mut impl ConnectionLike) -> Result<Holders, RedisError> {
        let mut look = Pipeline::new();
        for stream in &self.streams {
            look.cmd("XINFO").arg("CONSUMERS").arg(stream).arg(keys::GROUP);
        }
        let (critical, default, sheddable, time): (Consumers, Consumers, Consumers, _) =
            look.cmd("TIME").query_async(connection).await?;
        let mut own = 0;
        let names = [critical, default, sheddable].map(|reply| {
            let holding = reply.consumers.into_iter().filter(|consumer| consumer.pending > 0);
            let name = |consumer: StreamInfoConsumer| {
                own += if consumer.name == self.worker { consumer.pending } else { 0 };
                consumer.name
            };
            holding.map(name).collect()
        });
        Ok(Holders { names, own, clock: milliseconds(time) })
    }

    /// Where to look for what `dead` workers hold, or anybody for longer than the lease.
    fn searches<'a>(&'a self, holders: &'a Holders, dead: &HashSet<&str>) -> Vec<Search<'a>> {
        // What is held for that long was added even earlier: the younger need no look.
        let long_ago = holders.clock.saturating_sub(millis(self.lease)).to_string();
        let mut searches = Vec::new();
        for ((class, stream), names) in
            Priority::ALL.into_iter().zip(&self.streams).zip(&holders.names)
        {
            if !names.is_empty() {
                let (until, idle) = (long_ago.clone(), self.lease);
                searches.push(Search { class, stream, until, idle, holder: None });
            }
            for name in names.iter().filter(|name| dead.contains(name.as_str())) {
                let (until, idle) = ("+".to_owned(), RECLAIM_AFTER);
                searches.push(Search { class, stream, until, idle, holder: Some(name) });
            }
        }
        searches
    }

    /// Claims these entries for the delivery that their count tells, except those that were settled
    /// or claimed by another meanwhile. Redis forgets those that do not exist any more.
    pub(super) async fn take_over(
        &self,
        connection: &mut impl ConnectionLike,
        found: &[Found],
        held: &mut HashSet<EntryId>,
    ) -> Result<Vec<Delivery>, BrokerError> {
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let mut claim = Pipeline::new();
        for Found { entry, idle, deliveries } in found {
            let stream = &self.streams[entry.priority as usize];
            let claim = claim.cmd("XCLAIM").arg(stream).arg(keys::GROUP).arg(&self.worker);
            // What another claimed since the search has been idle for less.
            claim.arg(idle).arg(id_text(*entry)).arg("RETRYCOUNT").arg(deliveries);
        }
        claim.cmd("TIME");
        let mut answers: Vec<Value> = claim.query_async(connection).await.map_err(broker_error)?;
        let time = answers.pop().ok_or_else(|| nonsense("TIME"))?;
        let time = redis::from_redis_value(time).map_err(|_| nonsense("TIME"))?;
        let mut claimed = Vec::new();
        for (found, answer) in found.iter().zip(answers) {
            let answer = entries(answer, found.entry.priority).ok_or_else(|| nonsense("XCLAIM"))?;
            claimed.extend(answer.into_iter().map(|mut entry| {
                entry.deliveries = found.deliveries;
                entry
            }));
        }
        let deliveries = self.deliver(claimed, milliseconds(time)).await;
        held.extend(deliveries.iter().map(|delivery| delivery.entry));
        Ok(deliveries)
    }
}

/// What the searches find, the oldest first.
pub(super) async fn search(
    connection: &mut impl ConnectionLike,
    searches: Vec<Search<'_>>,
    limit: usize,
) -> Result<Vec<Found>, RedisError> {
    let mut look = Pipeline::new();
    for Search { stream, until, idle, holder, .. } in &searches {
        let pending = look.cmd("XPENDING").arg(stream).arg(keys::GROUP);
        pending.arg("IDLE").arg(millis(*idle)).arg("-").arg(until).arg(limit).arg(holder);
    }
    let answers: Vec<Vec<Pending>> = look.query_async(connection).await?;
    let mut all = Vec::new();
    for (Search { class, .. }, pending) in searches.iter().zip(answers) {
        let found = |(id, _, idle, deliveries): Pending| {
            Some(Found { entry: parse_id(&id, *class)?, idle, deliveries })
        };
        all.extend(pending.into_iter().filter_map(found));
    }
    all.sort_unstable_by_key(|found| by_age(found.entry));
    all.dedup_by_key(|found| found.entry);
    all.truncate(limit);
    Ok(all)
}

/// The order in which entries were added, whatever their class.
fn by_age(id: EntryId) -> (u64, u64, Priority) {
    (id.milliseconds, id.sequence, id.priority)
}

/// Whether there is no such queue: nobody holds anything of it.
pub(super) fn lost_queue(error: &RedisError) -> bool {
    lost_group(error) || no_such_key(error)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
