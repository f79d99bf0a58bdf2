//! A gateway's side: jobs out, replies in.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use redis::{
    Cmd, Pipeline, PushInfo, PushKind, RedisError, RedisWrite, Value, aio::ConnectionLike,
};
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Shared,
    connect::{broker_error, into_bytes, nonsense, server_code},
    consumer::create_census,
    entries::{entry_id, id_text, parse_id},
    keys,
    link::Line,
    parcel::{LARGE, Parcel, Parcels},
    pulse::Pulse,
    traffic,
};
use crate::{
    BrokerError, EntryId, GatewayId, GatewayRoles, Inbound, Job, Priority, Producer, QueueName,
    Replies, ShardId, Traffic, wire,
};

/// How many entries are looked up at a time: Redis does nothing else meanwhile.
const SLICE: usize = 200;
/// How many bytes of large jobs may be on their way to Redis at a time: each is copied twice for
/// it, and what comes behind it waits.
const LEAVING: usize = 8 << 20;
/// The bytes of one permit of these.
const PERMIT: usize = 1 << 10;

struct RedisProducer {
    shared: Arc<Shared>,
    gateway: GatewayId,
    leaving: Arc<Semaphore>,
    /// Whose tasks keep the connections.
    runtime: Handle,
    pulse: Arc<Pulse>,
}

/// Replies on their way in.
struct RedisReplies {
    shared: Arc<Shared>,
    channel: String,
    /// `None` between the loss of one subscription and the next.
    subscription: Option<Line>,
    parcels: Parcels,
    pulse: Arc<Pulse>,
}

/// Opens both ways of a gateway.
pub(super) async fn open(
    shared: Arc<Shared>,
    gateway: GatewayId,
) -> Result<GatewayRoles, BrokerError> {
    let channel = keys::replies(gateway);
    let line = Line::open(&shared.place, Some(&channel)).await.map_err(broker_error)?;
    // Begun once the subscription is open: whatever is lost from now on is noticed.
    let pulse = Arc::new(Pulse::start(Arc::clone(&shared), gateway).await?);
    let replies = RedisReplies {
        shared: Arc::clone(&shared),
        channel,
        subscription: Some(line),
        parcels: Parcels::new(shared.pool.clone()),
        pulse: Arc::clone(&pulse),
    };
    let leaving = Arc::new(Semaphore::new(LEAVING / PERMIT));
    let producer = RedisProducer { shared, gateway, leaving, runtime: Handle::current(), pulse };
    Ok(GatewayRoles { producer: Arc::new(producer), replies: Box::new(replies) })
}

/// Which of these entries stand in the stream, without reading them: Redis tells by letting the
/// census claim them, and forgets that at once.
async fn stand(
    connection: &mut impl ConnectionLike,
    stream: &str,
    ids: &[String],
) -> Result<Vec<String>, RedisError> {
    let mut census = Pipeline::new();
    census.cmd("XCLAIM").arg(stream).arg(keys::CENSUS).arg(keys::CENSUS);
    census.arg(0).arg(ids).arg("FORCE").arg("JUSTID");
    census.cmd("XACK").arg(stream).arg(keys::CENSUS).arg(ids).ignore();
    match census.query_async(connection).await {
        Err(error) if server_code(&error).as_deref() == Some("NOGROUP") => {}
        answer => return answer.map(|(standing,)| standing),
    }
    if let Err(error) = create_census(stream).exec_async(connection).await {
        match server_code(&error).as_deref() {
            Some("BUSYGROUP") => {}
            // There is no such stream, so nothing stands in it.
            Some("ERR") => return Ok(Vec::new()),
            _ => return Err(error),
        }
    }
    census.query_async(connection).await.map(|(standing,)| standing)
}

/// The command that adds a job to the stream of its class.
fn add_command(queue: &QueueName, job: &Job) -> Cmd {
    let size = job.size();
    let mut add = Cmd::with_capacity(5, size + 128);
    add.arg("XADD").arg(keys::stream(queue, job.priority)).arg("*").arg(keys::JOB);
    // Straight into the command: the tensors are copied once.
    wire::write_job(&mut add.bufmut_for_next_arg(size), job);
    add
}

/// Where a job stands that was added, by the answer to that.
fn added(answer: Value, job: &Job) -> Result<EntryId, BrokerError> {
    let entry = answer.extract_error().map_err(broker_error)?;
    entry_id(&entry, job.priority).ok_or_else(|| nonsense("XADD"))
}

async fn add(shared: &Shared, queue: &QueueName, job: &Job) -> Result<EntryId, BrokerError> {
    let add = add_command(queue, job);
    let mut connection = shared.link.connection().await?;
    added(connection.send_packed_command(&add).await.map_err(broker_error)?, job)
}

#[async_trait]
impl Producer for RedisProducer {
    async fn submit(&self, queue: &QueueName, job: &Job) -> Result<EntryId, BrokerError> {
        if job.size() <= LARGE {
            return add(&self.shared, queue, job).await;
        }
        let permits = job.size().min(LEAVING) / PERMIT;
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let turn = self.leaving.clone().acquire_many_owned(permits).await;
        let turn = turn.map_err(BrokerError::unreachable)?;
        let (shared, queue, job) = (self.shared.clone(), queue.clone(), job.clone());
        // Copying that much would hold up whoever else is served by the caller's thread.
        let adding = async move {
            let _turn = turn;
            add(&shared, &queue, &job).await
        };
        let added = AbortOnDropHandle::new(self.runtime.spawn(adding)).await;
        added.map_err(BrokerError::unreachable)?
    }

    async fn submit_all(&self, jobs: &[(&QueueName, &Job)]) -> Vec<Result<EntryId, BrokerError>> {
        let mut adds = Pipeline::with_capacity(jobs.len());
        for (queue, job) in jobs {
            adds.add_command(add_command(queue, job));
        }
        match self.shared.run(adds.ignore_errors()).await {
            Ok(answers) => {
                answers.into_iter().zip(jobs).map(|(a, (_, job))| added(a, job)).collect()
            }
            Err(error) => vec![Err(error); jobs.len()],
        }
    }

    /// Deletes it claimed or not: whoever holds it does not look into the stream again, and
    /// settling forgives that the entry is gone.
    async fn withdraw(&self, queue: &QueueName, entry: EntryId) -> Result<(), BrokerError> {
        let mut connection = self.shared.link.connection().await?;
        redis::cmd("XDEL")
            .arg(keys::stream(queue, entry.priority))
            .arg(id_text(entry))
            .exec_async(&mut connection)
            .await
            .map_err(broker_error)
    }

    async fn outstanding(
        &self,
        queue: &QueueName,
        entries: &[EntryId],
    ) -> Result<Vec<bool>, BrokerError> {
        let mut connection = self.shared.pool.get().await?;
        let mut standing = HashSet::with_capacity(entries.len());
        for class in Priority::ALL {
            let of_class = entries.iter().filter(|entry| entry.priority == class);
            let ids: Vec<_> = of_class.copied().map(id_text).collect();
            let stream = keys::stream(queue, class);
            for ids in ids.chunks(SLICE) {
                let ids = stand(&mut *connection, &stream, ids).await.map_err(broker_error)?;
                standing.extend(ids.iter().filter_map(|id| parse_id(id, class)));
            }
        }
        Ok(entries.iter().map(|entry| standing.contains(entry)).collect())
    }

    async fn report(&self, traffic: &[Traffic]) -> Result<(), BrokerError> {
        let mut connection = self.shared.pool.get().await?;
        traffic::say(&mut *connection, self.gateway, traffic).await
    }

    fn is_ready(&self) -> bool {
        self.pulse.is_steady() && self.shared.link.is_hopeful()
    }
}

#[async_trait]
impl Replies for RedisReplies {
    async fn receive(&mut self) -> Inbound {
        let Self { subscription, parcels, .. } = self;
        loop {
            let Some(line) = subscription.as_mut() else {
                let line = Line::reopen(&self.shared.place, Some(&self.channel)).await;
                *subscription = Some(line);
                tracing::info!("receiving replies again");
                // One gap, told once, even if Redis lost its data as well.
                self.pulse.catch_up().await;
                return Inbound::Interrupted(ShardId::default());
            };
            let come = tokio::select! {
                pushed = line.next() => match pushed.map(message) {
                    Ok(None) => continue,
                    Ok(Some(message)) => match Parcel::noted(&message) {
                        None => Ok(message),
                        Some(parcel) => {
                            parcels.fetch(parcel);
                            continue;
                        }
                    },
                    Err(why) => {
                        tracing::warn!(%why, "lost the subscription to replies");
                        *subscription = None;
                        continue;
                    }
                },
                fetched = parcels.next() => fetched,
                () = self.pulse.changed() => return Inbound::Interrupted(ShardId::default()),
            };
            return come.map_or_else(|error| lost(&error), read);
        }
    }
}

/// The bytes of a message; `None` for what is none, such as the confirmation of the subscription.
fn message(push: PushInfo) -> Option<Bytes> {
    if push.kind != PushKind::Message {
        return None;
    }
    push.data.into_iter().nth(1).and_then(into_bytes)
}

fn read(replies: Bytes) -> Inbound {
    wire::decode_replies(replies).map_or_else(|error| lost(&error), Inbound::Replies)
}

/// Answers are lost with what cannot be read, as if the subscription had been broken.
fn lost(error: &dyn std::error::Error) -> Inbound {
    tracing::error!(%error, "lost replies");
    Inbound::Interrupted(ShardId::default())
}
