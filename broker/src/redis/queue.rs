//! A worker's view of one queue: the stream of each class, with its consumer group.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use redis::{Pipeline, RedisError, Value};
use tokio::time::Instant;

use super::{
    census,
    codes::server_code,
    connections::Connections,
    entries::{Entry, id_text},
    errors::broker_error,
    keys::{self, Keys},
    roll::LastCount,
    transfers::Transfers,
};
use crate::{
    BrokerError, Delivery, EntryId, Priority, QueueName, WorkerId, throttle::Throttle, wire,
};

/// Limits the log lines about unreadable jobs.
static UNREADABLE: Mutex<Throttle> = Mutex::new(Throttle::new(Duration::from_secs(10)));

/// How long an entry that was settled or given up may come to light, at another node or when Redis is back.
const DOUBTED: Duration = Duration::from_mins(1);

/// A queue, and the name of one worker in its groups.
pub(super) struct WorkerQueue {
    connections: Arc<Connections>,
    name: QueueName,
    /// The keys of the streams, highest class first.
    streams: [String; Priority::ALL.len()],
    worker: String,
    workers: LastCount,
    transfers: Transfers,
    /// Entries that were settled where the node of a cluster did not have them, or given up, and when.
    doubtful: Mutex<Vec<(EntryId, Instant)>>,
}

impl WorkerQueue {
    /// Opens a queue, and creates it if it is missing.
    pub(super) async fn open(
        connections: Arc<Connections>,
        name: QueueName,
        worker: WorkerId,
    ) -> Result<Self, BrokerError> {
        let (streams, worker) = (connections.keys.queue(&name), worker.to_string());
        let (workers, transfers) = (LastCount::default(), Transfers::default());
        let doubtful = Mutex::default();
        let queue = Self { connections, name, streams, worker, workers, transfers, doubtful };
        match queue.create_groups().await {
            // A full Redis refuses to create groups, even existing ones. A worker may still join,
            // because it can drain the queue; if the groups are missing, its first claim creates
            // them.
            Err(BrokerError::Full) => {}
            created => created?,
        }
        Ok(queue)
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The names of keys and channels.
    pub(super) fn keys(&self) -> Keys {
        self.connections.keys
    }

    pub(super) fn name(&self) -> &QueueName {
        &self.name
    }

    pub(super) fn worker(&self) -> &str {
        &self.worker
    }

    /// The number of living workers, by the last roll.
    pub(super) fn workers(&self) -> &LastCount {
        &self.workers
    }

    /// What the transfers of jobs to this worker have shown.
    pub(super) fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    /// Notes a read of jobs that has failed.
    pub(super) fn note_failure(&self, error: &RedisError) {
        if error.is_timeout() && self.connections.link.failure().is_none() {
            self.transfers.took_too_long();
        }
    }

    /// The keys of the streams, highest class first.
    pub(super) fn streams(&self) -> &[String; Priority::ALL.len()] {
        &self.streams
    }

    /// The key of the stream of one class.
    pub(super) fn stream(&self, class: Priority) -> &str {
        &self.streams[class as usize]
    }

    /// The classes and the keys of their streams.
    pub(super) fn classes(&self) -> impl Iterator<Item = (Priority, &String)> {
        Priority::ALL.into_iter().zip(&self.streams)
    }

    /// Creates missing streams and groups, and adds this worker to the groups, so that other
    /// workers can count it. Groups begin at id 0, to include earlier jobs.
    pub(super) async fn create_groups(&self) -> Result<(), BrokerError> {
        let mut create = Pipeline::new();
        for stream in &self.streams {
            let group = create.cmd("XGROUP").arg("CREATE").arg(stream).arg(keys::GROUP);
            group.arg("0").arg("MKSTREAM").add_command(census::create(stream));
            let consumer = create.cmd("XGROUP").arg("CREATECONSUMER").arg(stream);
            consumer.arg(keys::GROUP).arg(&self.worker);
        }
        let mut connection = self.connections.link.connection().await?;
        let created: Vec<Result<Value, RedisError>> =
            create.ignore_errors().query_async(&mut connection).await.map_err(broker_error)?;
        let mut errors = created.into_iter().filter_map(Result::err);
        match errors.find(|error| server_code(error).as_deref() != Some("BUSYGROUP")) {
            Some(error) => Err(broker_error(error)),
            None => Ok(()),
        }
    }

    /// Adds the commands that remove entries, with the number of deleted entries as the answer. Each entry is deleted before it is acknowledged,
    /// because an acknowledged entry would otherwise stay in the stream forever.
    pub(super) fn remove(&self, commands: &mut Pipeline, entries: &[EntryId]) {
        for (class, stream) in self.classes() {
            let of_class = entries.iter().filter(|entry| entry.priority == class);
            let ids: Vec<_> = of_class.copied().map(id_text).collect();
            if !ids.is_empty() {
                commands.cmd("XDEL").arg(stream).arg(&ids);
                commands.cmd("XACK").arg(stream).arg(keys::GROUP).arg(&ids).ignore();
            }
        }
    }

    /// Notes settled entries of which Redis did not have all. Gateways withdraw entries; but a node of a
    /// cluster that has just handed over the stream may also have published the replies, and the next
    /// node still has the entries.
    pub(super) fn doubt_settled(&self, entries: &[EntryId]) {
        if self.connections.locator.is_of_cluster() {
            self.doubt(entries);
            self.connections.locator.suspect();
        }
    }

    /// Notes entries that this worker no longer holds, and that Redis may still have.
    pub(super) fn doubt(&self, entries: &[EntryId]) {
        let now = Instant::now();
        let mut doubtful = self.doubtful.lock();
        doubtful.retain(|(_, since)| now - *since < DOUBTED);
        doubtful.extend(entries.iter().map(|entry| (*entry, now)));
    }

    /// Removes the entries in doubt, which would otherwise look like jobs that never arrived.
    pub(super) async fn remove_doubtful(&self) -> Result<(), BrokerError> {
        let doubtful = self.doubtful.lock().clone();
        if doubtful.is_empty() {
            return Ok(());
        }
        let entries: Vec<EntryId> = doubtful.into_iter().map(|(entry, _)| entry).collect();
        let mut removal = Pipeline::new();
        self.remove(&mut removal, &entries);
        self.connections.run(&removal).await.map(drop)
    }

    /// Converts claimed entries to deliveries. `clock` is Redis's clock in milliseconds. Removes
    /// unreadable entries, which would otherwise be reclaimed forever.
    pub(super) async fn deliver(&self, entries: Vec<Entry>, clock: u64) -> Vec<Delivery> {
        let (now, queue) = (Instant::now(), &self.name);
        let mut deliveries = Vec::with_capacity(entries.len());
        let mut unreadable = Vec::new();
        for Entry { id, deliveries: count, job } in entries {
            match job.map(wire::decode_job) {
                Some(Ok(job)) => {
                    let waited = Duration::from_millis(clock.saturating_sub(id.milliseconds));
                    deliveries.push(Delivery {
                        entry: id,
                        deliveries: count,
                        waited,
                        claimed_at: now,
                        deadline: (now + job.ttl).checked_sub(waited).unwrap_or(now),
                        awaited: true,
                        job,
                    });
                }
                unusable => {
                    let error = unusable.and_then(Result::err).map(|error| error.to_string());
                    if let Some(omitted) = UNREADABLE.lock().admit() {
                        let error = error.unwrap_or_else(|| "no job in it".to_owned());
                        let text = "removed unreadable job";
                        tracing::error!(%queue, entry = %id, error, omitted, "{text}");
                    }
                    unreadable.push(id);
                }
            }
        }
        if !unreadable.is_empty() {
            let mut removal = Pipeline::new();
            self.remove(&mut removal, &unreadable);
            if let Err(error) = self.connections.run(&removal).await {
                tracing::warn!(%error, "failed to remove unreadable jobs");
            }
        }
        deliveries
    }
}
