//! Takes over jobs whose worker died, or holds them for too long.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
    time::Duration,
};

use redis::{
    Pipeline, RedisError, Value, aio::ConnectionLike,
    streams::StreamInfoConsumersReply as Consumers,
};
use tokio::time::Instant;

use super::{
    connect::{broker_error, milliseconds, no_such_key, nonsense, pool_error},
    consumer::{RedisConsumer, lost_group},
    entries::{Entry, entries, id_text, parse_id},
    keys,
};
use crate::{
    BrokerError, Delivery, EntryId, Priority,
    roles::{LIVENESS, RECLAIM_AFTER},
};

/// What a consumer saw of Redis's epoch last. Who does not live is only believed dead once the
/// epoch has stood for [`LIVENESS`]: before, the living may not have had time to say so.
#[derive(Default)]
pub(super) struct Epoch {
    seen: Option<String>,
    changed: Option<Instant>,
}

impl Epoch {
    /// Notes the current epoch; whether it has stood for long enough. The first one counts as old:
    /// the age of the connection speaks for it.
    fn settled(&mut self, now: Option<String>) -> bool {
        if self.seen.is_some() && self.seen != now {
            self.changed = Some(Instant::now());
        }
        self.seen = now;
        self.changed.is_none_or(|changed| changed.elapsed() >= LIVENESS)
    }
}

/// Who holds jobs, by class, and Redis's clock in milliseconds.
struct Holders {
    names: [Vec<String>; Priority::ALL.len()],
    clock: u64,
}

/// One look for entries that are held for too long.
struct Search<'a> {
    class: Priority,
    stream: &'a str,
    /// The id of the youngest entry of interest.
    until: String,
    idle: Duration,
    /// Whose; `None` for anybody's.
    holder: Option<&'a str>,
}

/// An entry that somebody holds: who, for how many milliseconds, and how often it was delivered.
type Pending = (String, String, u64, u32);

impl RedisConsumer {
    pub(super) async fn reclaim_up_to(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        let mut connection = self.shared.pool.get().await.map_err(pool_error)?;
        let holders = match self.holders(&mut *connection).await {
            // The queue is gone, and made anew by the next claim.
            Err(error) if lost_queue(&error) => return Ok(Vec::new()),
            holders => holders.map_err(broker_error)?,
        };
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
        let overdue = overdue(&mut *connection, searches, limit).await.map_err(broker_error)?;
        if overdue.is_empty() {
            return Ok(Vec::new());
        }
        let (entries, clock) = self.take_over(&mut *connection, &overdue).await?;
        Ok(self.deliver(entries, clock).await)
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
        let settled = self.epoch.lock().unwrap_or_else(PoisonError::into_inner).settled(epoch);
        let connected = self.shared.link.up_for() >= LIVENESS;
        Ok((settled && connected).then(|| values.iter().map(Option::is_some).collect()))
    }

    async fn holders(&self, connection: &mut impl ConnectionLike) -> Result<Holders, RedisError> {
        let mut look = Pipeline::new();
        for stream in &self.streams {
            look.cmd("XINFO").arg("CONSUMERS").arg(stream).arg(keys::GROUP);
        }
        let (critical, default, sheddable, time): (Consumers, Consumers, Consumers, _) =
            look.cmd("TIME").query_async(connection).await?;
        let names = [critical, default, sheddable].map(|reply| {
            let holding = reply.consumers.into_iter().filter(|consumer| consumer.pending > 0);
            holding.map(|consumer| consumer.name).collect()
        });
        Ok(Holders { names, clock: milliseconds(time) })
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

    /// Claims these entries, except those that were settled or claimed by another meanwhile; with
    /// Redis's clock in milliseconds. Redis forgets those that do not exist any more.
    async fn take_over(
        &self,
        connection: &mut impl ConnectionLike,
        overdue: &[(EntryId, u32)],
    ) -> Result<(Vec<Entry>, u64), BrokerError> {
        let mut claim = Pipeline::new();
        let mut classes = Vec::new();
        for (class, stream) in Priority::ALL.into_iter().zip(&self.streams) {
            let of_class = overdue.iter().filter(|(id, _)| id.priority == class);
            let ids: Vec<_> = of_class.map(|(id, _)| id_text(*id)).collect();
            if !ids.is_empty() {
                classes.push(class);
                let claim = claim.cmd("XCLAIM").arg(stream).arg(keys::GROUP).arg(&self.worker);
                claim.arg(millis(RECLAIM_AFTER)).arg(ids);
            }
        }
        claim.cmd("TIME");
        let mut answers: Vec<Value> = claim.query_async(connection).await.map_err(broker_error)?;
        let time = answers.pop().ok_or_else(|| nonsense("TIME"))?;
        let time = redis::from_redis_value(time).map_err(|_| nonsense("TIME"))?;
        let before: HashMap<EntryId, u32> = overdue.iter().copied().collect();
        let mut claimed = Vec::new();
        for (class, answer) in classes.into_iter().zip(answers) {
            for mut entry in entries(answer, class).ok_or_else(|| nonsense("XCLAIM"))? {
                entry.deliveries = before.get(&entry.id).map_or(2, |before| before + 1);
                claimed.push(entry);
            }
        }
        claimed.sort_unstable_by_key(|entry| by_age(entry.id));
        Ok((claimed, milliseconds(time)))
    }
}

/// What the searches find, the oldest first, and how often each was delivered.
async fn overdue(
    connection: &mut impl ConnectionLike,
    searches: Vec<Search<'_>>,
    limit: usize,
) -> Result<Vec<(EntryId, u32)>, RedisError> {
    let mut look = Pipeline::new();
    for Search { stream, until, idle, holder, .. } in &searches {
        let pending = look.cmd("XPENDING").arg(stream).arg(keys::GROUP);
        pending.arg("IDLE").arg(millis(*idle)).arg("-").arg(until).arg(limit).arg(holder);
    }
    let found: Vec<Vec<Pending>> = look.query_async(connection).await?;
    let mut overdue = Vec::new();
    for (Search { class, .. }, pending) in searches.iter().zip(found) {
        let entry = |(id, _, _, deliveries): Pending| Some((parse_id(&id, *class)?, deliveries));
        overdue.extend(pending.into_iter().filter_map(entry));
    }
    overdue.sort_unstable_by_key(|(id, _)| by_age(*id));
    overdue.dedup();
    overdue.truncate(limit);
    Ok(overdue)
}

/// The order in which entries were added, whatever their class.
fn by_age(id: EntryId) -> (u64, u64, Priority) {
    (id.milliseconds, id.sequence, id.priority)
}

/// Whether there is no such queue: nobody holds anything of it.
fn lost_queue(error: &RedisError) -> bool {
    lost_group(error) || no_such_key(error)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
