//! The gateway's role that submits jobs.

use std::{collections::HashSet, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use redis::{Cmd, Pipeline, RedisWrite, Value};
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    census,
    clock::RedisClock,
    connections::Connections,
    entries::{entry_id, id_text, parse_id},
    errors::{broker_error, unreadable},
    heartbeat::Heartbeat,
    keys::{self, Keys},
    large_reply::LARGE,
    observer,
    replies::RedisReplies,
    traffic,
};
use crate::{
    BrokerError, EntryId, GatewayId, GatewayRoles, Job, Priority, Producer, QueueName, Traffic,
    wire,
};

/// How many entries one command looks up. Limited, because Redis runs no other command meanwhile.
const SLICE: usize = 200;
/// How many bytes of large jobs are sent concurrently. Limited, because each job is copied twice.
const SENDING: usize = 8 << 20;
/// Bytes per permit of the `sending` semaphore.
const PERMIT: usize = 1 << 10;

struct RedisProducer {
    connections: Arc<Connections>,
    gateway: GatewayId,
    sending: Arc<Semaphore>,
    /// The runtime whose tasks maintain the connections.
    runtime: Handle,
    heartbeat: Arc<Heartbeat>,
    clock: RedisClock,
}

/// Opens the roles of one gateway boot.
pub(super) async fn open(
    connections: Arc<Connections>,
    gateway: GatewayId,
) -> Result<GatewayRoles, BrokerError> {
    let replies = RedisReplies::open(&connections, gateway).await?;
    let heartbeat = replies.heartbeat();
    let sending = Arc::new(Semaphore::new(SENDING / PERMIT));
    let runtime = Handle::current();
    let clock = RedisClock::default();
    let producer = RedisProducer { connections, gateway, sending, runtime, heartbeat, clock };
    Ok(GatewayRoles { producer: Arc::new(producer), replies: Box::new(replies) })
}

/// Builds the command that adds a job to the stream of its class.
fn add_command(keys: Keys, queue: &QueueName, job: &Job) -> Cmd {
    let size = job.size();
    let mut add = Cmd::with_capacity(5, size + 128);
    add.arg("XADD").arg(keys.stream(queue, job.priority)).arg("*").arg(keys::JOB);
    // Encoded into the command, so that the tensors are copied once.
    wire::write_job(&mut add.bufmut_for_next_arg(size), job);
    add
}

/// Parses the entry of the added job from the answer.
fn added(answer: Value, job: &Job) -> Result<EntryId, BrokerError> {
    let entry = answer.extract_error().map_err(broker_error)?;
    entry_id(&entry, job.priority).ok_or_else(|| unreadable("XADD"))
}

async fn add(
    connections: &Connections,
    queue: &QueueName,
    job: &Job,
) -> Result<EntryId, BrokerError> {
    let mut commands = Pipeline::with_capacity(1);
    commands.add_command(add_command(connections.keys, queue, job));
    let answers = connections.send(&commands, job.size()).await?;
    added(answers.into_iter().next().ok_or_else(|| unreadable("XADD"))?, job)
}

/// The age of an entry, in the order of its stream.
const fn age(entry: EntryId) -> (u64, u64) {
    (entry.milliseconds, entry.sequence)
}

impl RedisProducer {
    async fn submit_large(&self, queue: &QueueName, job: &Job) -> Result<EntryId, BrokerError> {
        let permits = job.size().min(SENDING) / PERMIT;
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let turn = self.sending.clone().acquire_many_owned(permits).await;
        let turn = turn.map_err(BrokerError::unreachable)?;
        let (connections, queue, job) = (self.connections.clone(), queue.clone(), job.clone());
        // Copying a large job would delay the other requests on the caller's thread.
        let adding = async move {
            let _turn = turn;
            add(&connections, &queue, &job).await
        };
        let added = AbortOnDropHandle::new(self.runtime.spawn(adding)).await;
        added.map_err(BrokerError::unreachable)?
    }
}

#[async_trait]
impl Producer for RedisProducer {
    async fn submit(&self, queue: &QueueName, job: &Job) -> Result<EntryId, BrokerError> {
        if job.size() <= LARGE {
            return add(&self.connections, queue, job).await;
        }
        if let Some(limit) = self.connections.exceeded(job.size()).await {
            return Err(BrokerError::TooLarge { size: job.size(), limit });
        }
        // The caller does not wait for the job after its deadline.
        timeout(job.ttl, self.submit_large(queue, job)).await.map_err(BrokerError::unreachable)?
    }

    async fn submit_all(&self, jobs: &[(&QueueName, &Job)]) -> Vec<Result<EntryId, BrokerError>> {
        let connections = &self.connections;
        let mut adds = Pipeline::with_capacity(jobs.len());
        for (queue, job) in jobs {
            adds.add_command(add_command(connections.keys, queue, job));
        }
        match connections.run(adds.ignore_errors()).await {
            Ok(answers) => {
                answers.into_iter().zip(jobs).map(|(a, (_, job))| added(a, job)).collect()
            }
            Err(error) => vec![Err(error); jobs.len()],
        }
    }

    async fn introduce(&self, admin: SocketAddr) -> Result<Option<SocketAddr>, BrokerError> {
        let ip = match admin.ip() {
            ip if ip.is_unspecified() => self.connections.locator.local_ip().await,
            ip => Some(ip),
        };
        let Some(ip) = ip else { return Ok(None) };
        let address = SocketAddr::new(ip, admin.port());
        self.heartbeat.introduce(address).await?;
        Ok(Some(address))
    }

    /// Deletes the entry, claimed or not. A worker that holds the entry does not read it again, and
    /// settles it without an error.
    async fn withdraw(&self, queue: &QueueName, entry: EntryId) -> Result<(), BrokerError> {
        let mut connection = self.connections.link.connection().await?;
        redis::cmd("XDEL")
            .arg(self.connections.keys.stream(queue, entry.priority))
            .arg(id_text(entry))
            .exec_async(&mut connection)
            .await
            .map_err(broker_error)
    }

    async fn withdraw_waiting(
        &self,
        queue: &QueueName,
        entries: &[EntryId],
    ) -> Result<Vec<bool>, BrokerError> {
        let mut connection = self.connections.pool.get().await?;
        let streams = self.connections.keys.queue(queue);
        let claimed = observer::last_claimed(&mut *connection, &streams).await;
        let claimed = claimed.map_err(broker_error)?;
        let is_waiting = |entry: &&EntryId| claimed[entry.priority as usize] < Some(age(**entry));
        let mut removal = Pipeline::new();
        for (class, stream) in Priority::ALL.into_iter().zip(&streams) {
            let waiting = entries.iter().filter(|entry| entry.priority == class);
            let ids: Vec<_> = waiting.filter(is_waiting).copied().map(id_text).collect();
            for ids in ids.chunks(SLICE) {
                removal.cmd("XDEL").arg(stream).arg(ids).ignore();
            }
        }
        if !removal.is_empty() {
            removal.exec_async(&mut *connection).await.map_err(broker_error)?;
        }
        Ok(entries.iter().map(|entry| is_waiting(&entry)).collect())
    }

    async fn outstanding(
        &self,
        queue: &QueueName,
        entries: &[EntryId],
    ) -> Result<Vec<bool>, BrokerError> {
        let mut connection = self.connections.pool.get().await?;
        let mut outstanding = HashSet::with_capacity(entries.len());
        for class in Priority::ALL {
            let of_class = entries.iter().filter(|entry| entry.priority == class);
            let ids: Vec<_> = of_class.copied().map(id_text).collect();
            let stream = self.connections.keys.stream(queue, class);
            for ids in ids.chunks(SLICE) {
                let ids = census::outstanding(&mut *connection, &stream, ids).await;
                let ids = ids.map_err(broker_error)?;
                outstanding.extend(ids.iter().filter_map(|id| parse_id(id, class)));
            }
        }
        Ok(entries.iter().map(|entry| outstanding.contains(entry)).collect())
    }

    async fn report(&self, traffic: &[Traffic]) -> Result<(), BrokerError> {
        let mut connection = self.connections.pool.get().await?;
        traffic::publish(
            self.connections.keys,
            &mut *connection,
            self.gateway,
            &self.clock,
            traffic,
        )
        .await
    }

    fn is_ready(&self) -> bool {
        self.heartbeat.is_steady() && self.connections.link.is_usable()
    }
}
