//! Takes over jobs whose worker died, or holds them for too long.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
    time::Duration,
};

use redis::{Pipeline, RedisError, Value, aio::ConnectionLike, streams::StreamInfoConsumersReply};
use tokio::time::Instant;

use super::{
    connect::{broker_error, milliseconds, nonsense, pool_error},
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
    seen: Option<Option<String>>,
    changed: Option<Instant>,
}

impl Epoch {
    /// Notes the current epoch; whether it has stood for long enough. The first one counts as old:
    /// the age of the connection speaks for it.
    fn settled(&mut self, now: Option<String>) -> bool {
        if self.seen.replace(now.clone()).is_some_and(|before| before != now) {
            self.changed = Some(Instant::now());
        }
        self.changed.is_none_or(|changed| changed.elapsed() >= LIVENESS)
    }
}

/// An entry that somebody holds: who, for how many milliseconds, and how often it was delivered.
type Pending = (String, String, u64, u32);

impl RedisConsumer {
    pub(super) async fn reclaim_up_to(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        let mut connection = self.shared.pool.get().await.map_err(pool_error)?;
        let (holders, clock) = match self.holders(&mut connection).await {
            // The queue is gone, and made anew by the next claim.
            Err(error) if lost_group(&error) => return Ok(Vec::new()),
            holders => holders.map_err(broker_error)?,
        };
        let workers: HashSet<&String> =
            holders.iter().flatten().filter(|&holder| *holder != self.worker).collect();
        let live = workers.iter().map(|worker| keys::live(worker)).collect();
        // Asked even where nobody holds anything: a change of the epoch must be seen in time.
        let Some(live) = self.alive(&mut connection, live).await? else { return Ok(Vec::new()) };
        let dead: HashSet<&String> = workers
            .into_iter()
            .zip(live)
            .filter(|(_, live)| !live)
            .map(|(worker, _)| worker)
            .collect();
        let overdue = self.overdue(&mut connection, &holders, &dead, limit, clock).await;
        let overdue = overdue.map_err(broker_error)?;
        if overdue.is_empty() {
            return Ok(Vec::new());
        }
        let (entries, clock) = self.take_over(&mut connection, &overdue).await?;
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

    /// Who holds jobs, in each class, and Redis's clock in milliseconds.
    async fn holders(
        &self,
        connection: &mut impl ConnectionLike,
    ) -> Result<(Vec<Vec<String>>, u64), RedisError> {
        let mut look = Pipeline::new();
        for stream in &self.streams {
            look.cmd("XINFO").arg("CONSUMERS").arg(stream).arg(keys::GROUP);
        }
        look.cmd("TIME");
        let (critical, default, sheddable, time): (
            StreamInfoConsumersReply,
            StreamInfoConsumersReply,
            StreamInfoConsumersReply,
            _,
        ) = look.query_async(connection).await?;
        let holders = [critical, default, sheddable].map(|reply| {
            let holding = reply.consumers.into_iter().filter(|consumer| consumer.pending > 0);
            holding.map(|consumer| consumer.name).collect()
        });
        Ok((holders.into(), milliseconds(time)))
    }

    /// The oldest entries that `dead` workers hold, or anybody for longer than the lease, and how
    /// often each was delivered.
    async fn overdue(
        &self,
        connection: &mut impl ConnectionLike,
        holders: &[Vec<String>],
        dead: &HashSet<&String>,
        limit: usize,
        clock: u64,
    ) -> Result<Vec<(EntryId, u32)>, RedisError> {
        // What is held for that long was added even earlier: the younger need no look.
        let long_ago = clock.saturating_sub(millis(self.lease)).to_string();
        let mut look = Pipeline::new();
        let mut classes = Vec::new();
        for ((class, stream), holders) in Priority::ALL.into_iter().zip(&self.streams).zip(holders)
        {
            let mut ask = |idle, until: &str, holder: Option<&String>| {
                classes.push(class);
                let pending = look.cmd("XPENDING").arg(stream).arg(keys::GROUP).arg("IDLE");
                pending.arg(millis(idle)).arg("-").arg(until).arg(limit).arg(holder);
            };
            if !holders.is_empty() {
                ask(self.lease, &long_ago, None);
            }
            for holder in holders.iter().filter(|holder| dead.contains(holder)) {
                ask(RECLAIM_AFTER, "+", Some(holder));
            }
        }
        if classes.is_empty() {
            return Ok(Vec::new());
        }
        let pending: Vec<Vec<Pending>> = look.query_async(connection).await?;
        let mut overdue: Vec<_> = classes
            .into_iter()
            .zip(pending)
            .flat_map(|(class, pending)| pending.into_iter().map(move |entry| (class, entry)))
            .filter_map(|(class, (id, _, _, deliveries))| Some((parse_id(&id, class)?, deliveries)))
            .collect();
        overdue.sort_unstable_by_key(|(id, _)| (id.milliseconds, id.sequence, id.priority));
        overdue.dedup();
        overdue.truncate(limit);
        Ok(overdue)
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
        claimed.sort_unstable_by_key(|entry| (entry.id.milliseconds, entry.id.sequence));
        Ok((claimed, milliseconds(time)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
