//! Looks at queues and at who serves them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{
    FromRedisValue, Pipeline, RedisError, Value,
    aio::ConnectionLike,
    streams::{StreamInfoGroup, StreamInfoGroupsReply},
};

use super::{
    Shared,
    connect::{broker_error, info, milliseconds, no_such_key, pool_error},
    consumer::Renewal,
    entries::parse_id,
    keys,
};
use crate::{Announcement, Backlog, BrokerError, Observer, Priority, QueueName, roles::REMEMBERED};

pub(super) struct RedisObserver {
    shared: Arc<Shared>,
}

impl RedisObserver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn connection(&self) -> Result<deadpool_redis::Connection, BrokerError> {
        self.shared.pool.get().await.map_err(pool_error)
    }
}

#[async_trait]
impl Observer for RedisObserver {
    async fn announcements(&self) -> Result<Vec<Announcement>, BrokerError> {
        let mut connection = self.connection().await?;
        let (workers, time): (HashMap<String, String>, _) = Pipeline::new()
            .hgetall(keys::WORKERS)
            .cmd("TIME")
            .query_async(&mut connection)
            .await
            .map_err(broker_error)?;
        let (known, forgotten) = sort_out(&workers, milliseconds(time));
        if !forgotten.is_empty() {
            redis::cmd("HDEL")
                .arg(keys::WORKERS)
                .arg(forgotten)
                .exec_async(&mut connection)
                .await
                .map_err(broker_error)?;
        }
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let live: Vec<Option<String>> = redis::cmd("MGET")
            .arg(known.iter().map(|(worker, _)| keys::live(worker)).collect::<Vec<_>>())
            .query_async(&mut connection)
            .await
            .map_err(broker_error)?;
        let announce = |((_, announcement), live): ((_, _), Option<_>)| Announcement {
            live: live.is_some(),
            ..announcement
        };
        Ok(known.into_iter().zip(live).map(announce).collect())
    }

    async fn backlog(&self, queue: &QueueName) -> Result<Backlog, BrokerError> {
        let streams = keys::queue(queue);
        let mut connection = self.connection().await?;
        let (looks, now) = look(&mut *connection, &streams).await.map_err(broker_error)?;
        let mut backlog = Backlog::default();
        for (class, (stream, look)) in streams.iter().zip(looks).enumerate() {
            let Some(look) = look else { continue };
            backlog.waiting[class] = look.waiting();
            backlog.in_flight += look.workers.pending as u64;
            let (oldest, added) =
                look_closer(&mut *connection, stream, &look).await.map_err(broker_error)?;
            let age = |oldest: u64| Duration::from_millis(now.saturating_sub(oldest));
            backlog.oldest_age = backlog.oldest_age.max(oldest.map_or(Duration::ZERO, age));
            backlog.added += added;
        }
        Ok(backlog)
    }

    async fn memory(&self) -> Result<Option<f64>, BrokerError> {
        let Some(info) = info(&mut *self.connection().await?, &["memory"]).await? else {
            return Ok(None);
        };
        let field = |name| info.field(name)?.parse::<f64>().ok();
        let limited = field("used_memory").zip(field("maxmemory")).filter(|(_, most)| *most > 0.0);
        Ok(limited.map(|(used, most)| used / most))
    }
}

/// The stream of one class, as it was.
struct Look {
    length: u64,
    workers: StreamInfoGroup,
    /// Entries ever added, if the census tells.
    added: Option<u64>,
}

impl Look {
    /// Never the group's own `lag`: Redis loses count as soon as a waiting entry is deleted.
    fn waiting(&self) -> u64 {
        self.length.saturating_sub(self.workers.pending as u64)
    }
}

/// Looks at streams, `None` for one that does not exist; and Redis's clock in milliseconds.
async fn look(
    connection: &mut impl ConnectionLike,
    streams: &[String],
) -> Result<(Vec<Option<Look>>, u64), RedisError> {
    let mut commands = Pipeline::new();
    for stream in streams {
        commands.cmd("XLEN").arg(stream).cmd("XINFO").arg("GROUPS").arg(stream);
    }
    let mut answers: Vec<Value> =
        commands.cmd("TIME").ignore_errors().query_async(connection).await?;
    let now = milliseconds(parse(answers.pop().unwrap_or(Value::Nil))?);
    let mut looks = Vec::with_capacity(streams.len());
    let mut answers = answers.into_iter();
    while let (Some(length), Some(groups)) = (answers.next(), answers.next()) {
        let length = parse(length)?;
        looks.push(match parse::<StreamInfoGroupsReply>(groups) {
            Err(error) if no_such_key(&error) => None,
            groups => {
                let groups = groups?.groups;
                let group = |name| groups.iter().find(|group| group.name == name).cloned();
                // Redis 8 says 0 of every empty stream.
                let added = group(keys::CENSUS).filter(|_| length > 0).and_then(|group| group.lag);
                let workers = group(keys::GROUP).unwrap_or_default();
                Some(Look { length, workers, added: added.map(|added| added as u64) })
            }
        });
    }
    Ok((looks, now))
}

/// When the oldest waiting entry was added, in milliseconds, and how many ever were.
async fn look_closer(
    connection: &mut impl ConnectionLike,
    stream: &str,
    look: &Look,
) -> Result<(Option<u64>, u64), RedisError> {
    let mut oldest = None;
    if look.waiting() > 0 {
        let last = &look.workers.last_delivered_id;
        let after = if last.is_empty() { "0-0" } else { last };
        let mut range = redis::cmd("XRANGE");
        range.arg(stream).arg(format!("({after}")).arg("+").arg("COUNT").arg(1);
        let entries: Vec<(String, Value)> = range.query_async(connection).await?;
        oldest = entries.first().and_then(|(id, _)| parse_id(id, Priority::Default));
    }
    let added = match look.added {
        Some(added) => added,
        None => ever_added(connection, stream).await?,
    };
    Ok((oldest.map(|id| id.milliseconds), added))
}

/// How many entries were ever added, where the census does not tell. Redis shows two of them along
/// with it, so this is not what to ask every time.
async fn ever_added(connection: &mut impl ConnectionLike, stream: &str) -> Result<u64, RedisError> {
    let info = redis::cmd("XINFO").arg("STREAM").arg(stream).query_async(connection).await;
    let mut info: HashMap<String, Value> = match info {
        Err(error) if no_such_key(&error) => return Ok(0),
        info => info?,
    };
    info.remove("entries-added").map_or(Ok(0), parse)
}

fn parse<T: FromRedisValue>(value: Value) -> Result<T, RedisError> {
    Ok(redis::from_redis_value(value.extract_error()?)?)
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
