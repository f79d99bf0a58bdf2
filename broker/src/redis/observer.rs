//! Looks at queues and at who serves them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{
    Pipeline, RedisError, Value,
    streams::{StreamInfoGroup, StreamInfoGroupsReply},
};

use super::{
    Shared,
    connect::{broker_error, entry_id, milliseconds, nonsense, pool_error},
    consumer::Renewal,
    keys,
};
use crate::{Announcement, Backlog, BrokerError, Observer, QueueName, roles::REMEMBERED};

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

    /// Never asks for the group's `lag`: Redis loses count as soon as a waiting entry is deleted.
    async fn backlog(&self, queue: &QueueName) -> Result<Backlog, BrokerError> {
        let queue = keys::queue(queue);
        let mut connection = self.connection().await?;
        let looked: Result<(u64, StreamInfoGroupsReply, (u64, u64)), _> = Pipeline::new()
            .cmd("XLEN")
            .arg(&queue)
            .cmd("XINFO")
            .arg("GROUPS")
            .arg(&queue)
            .cmd("TIME")
            .query_async(&mut connection)
            .await;
        let (length, groups, time) = match looked {
            Ok(looked) => looked,
            Err(error) if no_such_key(&error) => return Ok(Backlog::default()),
            Err(error) => return Err(broker_error(error)),
        };
        let group = groups.groups.into_iter().find(|group| group.name == keys::GROUP);
        let StreamInfoGroup { pending, last_delivered_id, .. } = group.unwrap_or_default();
        let in_flight = pending as u64;
        let waiting = length.saturating_sub(in_flight);
        let mut backlog = Backlog { waiting, in_flight, oldest_age: Duration::ZERO };
        if waiting > 0 {
            let after = if last_delivered_id.is_empty() { "0-0" } else { &last_delivered_id };
            let oldest: Vec<(Value, Value)> = redis::cmd("XRANGE")
                .arg(&queue)
                .arg(format!("({after}"))
                .arg("+")
                .arg("COUNT")
                .arg(1)
                .query_async(&mut connection)
                .await
                .map_err(broker_error)?;
            if let Some((id, _)) = oldest.first() {
                let id = entry_id(id).ok_or_else(|| nonsense("XRANGE"))?;
                let age = milliseconds(time).saturating_sub(id.milliseconds);
                backlog.oldest_age = Duration::from_millis(age);
            }
        }
        Ok(backlog)
    }
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

fn no_such_key(error: &RedisError) -> bool {
    error.clone().into_server_errors().is_some_and(|errors| {
        errors.iter().any(|(_, error)| error.details().is_some_and(|text| text == "no such key"))
    })
}
