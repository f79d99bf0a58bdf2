//! A worker's side of one queue.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Cmd, Pipeline, RedisError, RedisWrite, Value, aio::MultiplexedConnection};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::Instant};

use super::{
    Shared,
    connect::{
        broker_error, entry_id, into_bytes, milliseconds, nonsense, pool_error, server_code,
    },
    keys,
};
use crate::{
    Announcement, BrokerError, Consumer, Delivery, EntryId, QueueName, Settlement, WorkerId,
    roles::{CLAIM_WAIT, LIVENESS},
    wire,
};

/// How long a blocking read may take before its connection counts as dead. Giving up a read that
/// still runs would strand what Redis hands to it.
const READ_PATIENCE: Duration = Duration::from_secs(CLAIM_WAIT.as_secs() + 4);

pub(super) struct RedisConsumer {
    shared: Arc<Shared>,
    queue: String,
    worker: String,
    /// The connection of blocking reads: a read holds up everything behind it. `None` before the
    /// first read and after a failed one.
    reader: Mutex<Option<MultiplexedConnection>>,
}

/// What stands in Redis about a worker.
#[derive(Serialize, Deserialize)]
pub(super) struct Renewal {
    #[serde(flatten)]
    pub(super) announcement: Announcement,
    /// When it was renewed: Redis's clock, in milliseconds.
    pub(super) seen: u64,
}

impl RedisConsumer {
    pub(super) async fn new(
        shared: Arc<Shared>,
        queue: &QueueName,
        worker: WorkerId,
    ) -> Result<Self, BrokerError> {
        let queue = keys::queue(queue);
        let consumer = Self { shared, queue, worker: worker.to_string(), reader: Mutex::default() };
        consumer.create_group().await?;
        Ok(consumer)
    }

    /// Creates the queue and its group where they are missing. From id 0: jobs that came before
    /// the group are for it too.
    async fn create_group(&self) -> Result<(), BrokerError> {
        let mut connection = self.shared.link.connection().await?;
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(&self.queue).arg(keys::GROUP).arg("0").arg("MKSTREAM");
        match create.exec_async(&mut connection).await {
            Err(error) if server_code(&error).as_deref() != Some("BUSYGROUP") => {
                Err(broker_error(error))
            }
            _ => Ok(()),
        }
    }

    /// A connection of its own, never given back to the pool.
    async fn open_reader(&self) -> Result<MultiplexedConnection, BrokerError> {
        let connection = self.shared.pool.get().await.map_err(pool_error)?;
        let mut connection = deadpool_redis::Connection::take(connection);
        connection.set_response_timeout(READ_PATIENCE);
        Ok(connection)
    }

    /// One blocking read, and Redis's clock when it ended.
    async fn read(
        &self,
        connection: &mut MultiplexedConnection,
        limit: usize,
    ) -> Result<(Value, (u64, u64)), RedisError> {
        let mut read = Pipeline::with_capacity(2);
        read.cmd("XREADGROUP")
            .arg("GROUP")
            .arg(keys::GROUP)
            .arg(&self.worker)
            .arg("COUNT")
            .arg(limit)
            .arg("BLOCK")
            .arg(CLAIM_WAIT.as_secs() * 1000)
            .arg("STREAMS")
            .arg(&self.queue)
            .arg(">")
            .cmd("TIME");
        read.query_async(connection).await
    }

    /// Turns what was read into deliveries. What cannot be read is removed, or it would come back
    /// for ever.
    async fn deliver(&self, reply: Value, clock: u64) -> Result<Vec<Delivery>, BrokerError> {
        let now = Instant::now();
        let entries = entries(reply).ok_or_else(|| nonsense("XREADGROUP"))?;
        let mut deliveries = Vec::with_capacity(entries.len());
        let mut unreadable = Vec::new();
        for (entry, job) in entries {
            match job.map(wire::decode_job) {
                Some(Ok(job)) => {
                    let waited = Duration::from_millis(clock.saturating_sub(entry.milliseconds));
                    let deadline = (now + job.ttl).checked_sub(waited).unwrap_or(now);
                    deliveries.push(Delivery { entry, job, waited, claimed_at: now, deadline });
                }
                Some(Err(error)) => {
                    tracing::error!(queue = self.queue, %entry, %error, "removed an unreadable job");
                    unreadable.push(entry);
                }
                None => {
                    tracing::error!(queue = self.queue, %entry, "removed an entry that is no job");
                    unreadable.push(entry);
                }
            }
        }
        if !unreadable.is_empty()
            && let Err(error) = self.commit(Pipeline::new(), unreadable.into_iter()).await
        {
            tracing::warn!(%error, "could not remove unreadable jobs");
        }
        Ok(deliveries)
    }

    /// Runs commands and removes entries, all or nothing; the commands' answers.
    async fn commit(
        &self,
        mut commands: Pipeline,
        entries: impl Iterator<Item = EntryId>,
    ) -> Result<Vec<Value>, BrokerError> {
        let mut acknowledge = redis::cmd("XACK");
        acknowledge.arg(&self.queue).arg(keys::GROUP);
        let mut delete = redis::cmd("XDEL");
        delete.arg(&self.queue);
        for entry in entries {
            let entry = entry.to_string();
            acknowledge.arg(&entry);
            delete.arg(&entry);
        }
        commands.atomic().add_command(acknowledge).ignore().add_command(delete).ignore();
        let mut connection = self.shared.link.connection().await?;
        commands.query_async(&mut connection).await.map_err(broker_error)
    }
}

/// The entries of the one stream that was read, with the job's bytes if it has any; `None` if the
/// answer has another form.
fn entries(reply: Value) -> Option<Vec<(EntryId, Option<Bytes>)>> {
    let entries = match reply {
        Value::Nil => return Some(Vec::new()),
        Value::Map(streams) => streams.into_iter().next()?.1,
        _ => return None,
    };
    let Value::Array(entries) = entries else { return None };
    let entry = |entry| {
        let Value::Array(parts) = entry else { return None };
        let [id, fields] = <[Value; 2]>::try_from(parts).ok()?;
        Some((entry_id(&id)?, job_field(fields)))
    };
    entries.into_iter().map(entry).collect()
}

fn job_field(fields: Value) -> Option<Bytes> {
    let Value::Array(fields) = fields else { return None };
    let [name, job] = <[Value; 2]>::try_from(fields).ok()?;
    if into_bytes(name)? == keys::JOB { into_bytes(job) } else { None }
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn claim(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        if limit == 0 {
            // To Redis it means "all of them".
            return Ok(Vec::new());
        }
        let mut reader = self.reader.lock().await;
        // Taken out: a claim that fails or is dropped takes its connection along.
        let mut connection = match reader.take() {
            Some(connection) => connection,
            None => self.open_reader().await?,
        };
        match self.read(&mut connection, limit).await {
            Ok((reply, time)) => {
                *reader = Some(connection);
                self.deliver(reply, milliseconds(time)).await
            }
            Err(error) if lost_group(&error) => {
                tracing::warn!(queue = self.queue, "the queue was gone and is made anew");
                self.create_group().await?;
                *reader = Some(connection);
                Ok(Vec::new())
            }
            Err(error) => Err(broker_error(error)),
        }
    }

    async fn settle(&self, mut settlements: Vec<Settlement>) -> Result<usize, BrokerError> {
        if settlements.is_empty() {
            return Ok(0);
        }
        settlements.sort_by_key(|settlement| settlement.gateway);
        let batches = || settlements.chunk_by(|one, next| one.gateway == next.gateway);
        let mut commands = Pipeline::new();
        for batch in batches() {
            let replies = batch.iter().map(|settlement| &settlement.reply);
            let size = wire::replies_size_hint(replies.clone());
            let mut publish = Cmd::with_capacity(3, size + 64);
            publish.arg("PUBLISH").arg(keys::replies(batch[0].gateway));
            wire::write_replies(&mut publish.bufmut_for_next_arg(size), replies);
            commands.add_command(publish);
        }
        let entries = settlements.iter().map(|settlement| settlement.entry);
        let listeners = self.commit(commands, entries).await?;
        let unheard = |(batch, listeners): (&[Settlement], _)| match listeners {
            Value::Int(0) => batch.len(),
            _ => 0,
        };
        Ok(batches().zip(listeners).map(unheard).sum())
    }

    /// Adds copies to the end of the queue, with what is left of their time to live.
    async fn hand_back(&self, deliveries: Vec<Delivery>) -> Result<(), BrokerError> {
        if deliveries.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let mut commands = Pipeline::new();
        let mut entries = Vec::with_capacity(deliveries.len());
        for Delivery { entry, mut job, deadline, .. } in deliveries {
            job.ttl = deadline.saturating_duration_since(now);
            commands
                .cmd("XADD")
                .arg(&self.queue)
                .arg("*")
                .arg(keys::JOB)
                .arg(&wire::encode_job(&job)[..]);
            entries.push(entry);
        }
        self.commit(commands, entries.into_iter()).await.map(drop)
    }

    async fn renew(&self, announcement: &Announcement) -> Result<(), BrokerError> {
        let mut connection = self.shared.pool.get().await.map_err(pool_error)?;
        let time = redis::cmd("TIME").query_async(&mut connection).await.map_err(broker_error)?;
        let renewal = Renewal { announcement: announcement.clone(), seen: milliseconds(time) };
        let renewal = serde_json::to_string(&renewal)
            .map_err(|error| BrokerError::Refused(error.to_string()))?;
        Pipeline::new()
            .atomic()
            .hset(keys::WORKERS, &self.worker, renewal)
            .pset_ex(keys::live(&self.worker), 1, LIVENESS.as_secs() * 1000)
            .exec_async(&mut connection)
            .await
            .map_err(broker_error)
    }

    async fn retire(&self) -> Result<(), BrokerError> {
        let mut connection = self.shared.pool.get().await.map_err(pool_error)?;
        redis::cmd("DEL")
            .arg(keys::live(&self.worker))
            .exec_async(&mut connection)
            .await
            .map_err(broker_error)
    }
}

/// Whether Redis has forgotten the queue: restarted empty, flushed, or the key was deleted, before
/// or during the read.
fn lost_group(error: &RedisError) -> bool {
    let Some(errors) = error.clone().into_server_errors() else { return false };
    errors.first().is_some_and(|(_, error)| match error.code() {
        "NOGROUP" => true,
        // The same code also announces that this node is no longer the primary.
        "UNBLOCKED" => error.details().is_some_and(|text| text.contains("no longer exists")),
        _ => false,
    })
}
