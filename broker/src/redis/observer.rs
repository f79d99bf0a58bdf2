//! Looks at queues and at who serves them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use deadpool_redis::Connection;
use redis::{
    FromRedisValue, Pipeline, RedisError, Value,
    aio::ConnectionLike,
    streams::{StreamInfoGroup, StreamInfoGroupsReply},
};

use super::{
    Shared,
    connect::{broker_error, info, milliseconds, no_such_key},
    consumer::Renewal,
    entries::parse_id,
    keys, promise, traffic,
};
use crate::{
    Announcement, Backlog, BrokerError, FleetSnapshot, ObservedWorker, Observer, Priority,
    QueueName, ShardId, ShardMemory, TrafficReport, roles::REMEMBERED,
};

/// What somebody said, by who said it or of what.
type Words = HashMap<String, String>;

pub(super) struct RedisObserver {
    shared: Arc<Shared>,
}

impl RedisObserver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn connection(&self) -> Result<Connection, BrokerError> {
        self.shared.pool.get().await
    }
}

#[async_trait]
impl Observer for RedisObserver {
    async fn fleet(&self) -> Result<FleetSnapshot, BrokerError> {
        let mut connection = self.connection().await?;
        let (workers, promises, time, epoch): (Words, Words, _, Option<String>) = Pipeline::new()
            .hgetall(keys::WORKERS)
            .hgetall(keys::PROMISES)
            .cmd("TIME")
            .get(keys::EPOCH)
            .query_async(&mut *connection)
            .await
            .map_err(broker_error)?;
        let now = milliseconds(time);
        let promises = promise::read(&promises, now);
        let (known, forgotten) = sort_out(&workers, now);
        if !forgotten.is_empty() {
            redis::cmd("HDEL")
                .arg(keys::WORKERS)
                .arg(forgotten)
                .exec_async(&mut *connection)
                .await
                .map_err(broker_error)?;
        }
        if known.is_empty() {
            return Ok(FleetSnapshot { workers: Vec::new(), promises });
        }
        let mut live: Vec<Option<String>> = redis::cmd("MGET")
            .arg(known.iter().map(|(worker, _)| keys::live(worker)).collect::<Vec<_>>())
            .arg(keys::EPOCH)
            .query_async(&mut *connection)
            .await
            .map_err(broker_error)?;
        if live.pop().flatten() != epoch {
            // Emptied between the two questions, it makes every worker look dead.
            return Err(BrokerError::unreachable("Redis has just lost its data"));
        }
        let observe = |((_, announcement), live): ((_, _), Option<_>)| ObservedWorker {
            announcement,
            live: live.is_some(),
        };
        Ok(FleetSnapshot { workers: known.into_iter().zip(live).map(observe).collect(), promises })
    }

    async fn backlog(&self, queue: &QueueName) -> Result<Backlog, BrokerError> {
        let streams = keys::queue(queue);
        let mut connection = self.connection().await?;
        let (looks, now) = look(&mut *connection, &streams).await.map_err(broker_error)?;
        let closer = look_closer(&mut *connection, &streams, &looks).await.map_err(broker_error)?;
        let mut backlog = Backlog::default();
        for (class, (look, (oldest, added))) in looks.iter().zip(closer).enumerate() {
            backlog.waiting[class] = look.waiting();
            backlog.in_flight += look.workers.pending as u64;
            let age = oldest.map_or(0, |oldest: u64| now.saturating_sub(oldest));
            backlog.oldest_age = backlog.oldest_age.max(Duration::from_millis(age));
            backlog.added += added;
        }
        Ok(backlog)
    }

    async fn held(&self, queue: &QueueName) -> Result<HashMap<String, u64>, BrokerError> {
        let mut connection = self.connection().await?;
        let classes = promise::consumers(&mut *connection, &keys::queue(queue)).await?;
        let mut held = HashMap::new();
        for consumer in classes.into_iter().flatten() {
            *held.entry(consumer.name).or_default() += consumer.pending as u64;
        }
        Ok(held)
    }

    async fn traffic(&self) -> Result<Vec<TrafficReport>, BrokerError> {
        traffic::hear(&mut *self.connection().await?).await
    }

    async fn memory(&self) -> Result<Vec<ShardMemory>, BrokerError> {
        let Some(info) = info(&mut *self.connection().await?, &["memory"]).await? else {
            return Ok(Vec::new());
        };
        let field = |name| info.field(name)?.parse::<f64>().ok();
        let limited = field("used_memory").zip(field("maxmemory")).filter(|(_, most)| *most > 0.0);
        let shard = |(used, most)| ShardMemory { shard: ShardId::default(), used: used / most };
        Ok(limited.map(shard).into_iter().collect())
    }
}

/// The stream of one class, as it was; empty if there is none.
#[derive(Default)]
struct Look {
    length: u64,
    workers: StreamInfoGroup,
    /// Entries ever added, if the census tells.
    added: Option<u64>,
}

impl Look {
    fn new(length: u64, groups: &[StreamInfoGroup]) -> Self {
        let group = |name| groups.iter().find(|group| group.name == name).cloned();
        // From version 8 on, Redis says 0 of every empty stream.
        let added = group(keys::CENSUS).and_then(|group| group.lag).filter(|added| *added > 0);
        let workers = group(keys::GROUP).unwrap_or_default();
        Self { length, workers, added: added.map(|added| added as u64) }
    }

    /// Never the group's own `lag`: Redis loses count as soon as a waiting entry is deleted.
    fn waiting(&self) -> u64 {
        self.length.saturating_sub(self.workers.pending as u64)
    }
}

/// Looks at streams; with Redis's clock in milliseconds.
async fn look(
    connection: &mut impl ConnectionLike,
    streams: &[String],
) -> Result<(Vec<Look>, u64), RedisError> {
    let mut commands = Pipeline::new();
    for stream in streams {
        commands.cmd("XLEN").arg(stream).cmd("XINFO").arg("GROUPS").arg(stream);
    }
    commands.cmd("TIME").ignore_errors();
    let answers: Vec<Value> = commands.query_async(connection).await?;
    let mut answers = answers.into_iter();
    let mut looks = Vec::with_capacity(streams.len());
    for _ in streams {
        let length = parse(answers.next())?;
        looks.push(match parse::<StreamInfoGroupsReply>(answers.next()) {
            Err(error) if no_such_key(&error) => Look::default(),
            groups => Look::new(length, &groups?.groups),
        });
    }
    Ok((looks, milliseconds(parse(answers.next())?)))
}

/// When the oldest waiting entry of each was added, in milliseconds, and how many ever were.
async fn look_closer(
    connection: &mut impl ConnectionLike,
    streams: &[String],
    looks: &[Look],
) -> Result<Vec<(Option<u64>, u64)>, RedisError> {
    let mut commands = Pipeline::new();
    for (stream, look) in streams.iter().zip(looks) {
        if look.waiting() > 0 {
            let last = &look.workers.last_delivered_id;
            let after = if last.is_empty() { "0-0" } else { last };
            let range = commands.cmd("XRANGE").arg(stream).arg(format!("({after}"));
            range.arg("+").arg("COUNT").arg(1);
        }
        if look.added.is_none() {
            // Shows two entries along with it, so not what to ask every time.
            commands.cmd("XINFO").arg("STREAM").arg(stream);
        }
    }
    let answers: Vec<Value> = if commands.is_empty() {
        Vec::new()
    } else {
        commands.ignore_errors().query_async(connection).await?
    };
    let mut answers = answers.into_iter();
    let mut closer = Vec::with_capacity(looks.len());
    for look in looks {
        let mut oldest = None;
        if look.waiting() > 0 {
            let entries: Vec<(String, Value)> = parse(answers.next())?;
            oldest = entries.first().and_then(|(id, _)| parse_id(id, Priority::Default));
        }
        let added = match look.added {
            Some(added) => added,
            None => match parse::<HashMap<String, Value>>(answers.next()) {
                Err(error) if no_such_key(&error) => 0,
                info => info?.remove("entries-added").map_or(Ok(0), |added| parse(Some(added)))?,
            },
        };
        closer.push((oldest.map(|id| id.milliseconds), added));
    }
    Ok(closer)
}

fn parse<T: FromRedisValue>(answer: Option<Value>) -> Result<T, RedisError> {
    Ok(redis::from_redis_value(answer.unwrap_or(Value::Nil).extract_error()?)?)
}

/// Who is still worth knowing, and who has been silent for too long.
fn sort_out(workers: &HashMap<String, String>, now: u64) -> (Vec<(&str, Announcement)>, Vec<&str>) {
    let mut known = Vec::with_capacity(workers.len());
    let mut forgotten = Vec::new();
    for (worker, renewal) in workers {
        match serde_json::from_str::<Renewal>(renewal) {
            Ok(Renewal { seen, .. })
                if Duration::from_millis(now.saturating_sub(seen)) >= REMEMBERED =>
            {
                forgotten.push(worker.as_str());
            }
            Ok(Renewal { announcement, .. }) => known.push((worker.as_str(), announcement)),
            // It may make sense to a newer program: leave it to that one.
            Err(error) => tracing::warn!(worker, %error, "skipped an unreadable announcement"),
        }
    }
    (known, forgotten)
}
