//! A worker's side of one queue.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use redis::{Cmd, Pipeline, RedisError, RedisWrite, Value};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::Instant};

use super::{
    Shared,
    connect::{broker_error, milliseconds, server_code},
    entries::id_text,
    keys,
    parcel::{LARGE, Parcel},
    reclaim::Doubt,
};
use crate::{
    Announcement, BrokerError, Consumer, Delivery, EntryId, Failure, GatewayId, Priority,
    QueueName, Reply, Settlement, WorkerId, roles::LIVENESS, wire,
};

/// About how many dead letters are kept.
const DEAD_LETTERS: usize = 1000;

pub(super) struct RedisConsumer {
    pub(super) shared: Arc<Shared>,
    pub(super) name: QueueName,
    /// The keys of the queue's streams, highest class first.
    pub(super) streams: [String; Priority::ALL.len()],
    pub(super) worker: String,
    pub(super) lease: Duration,
    pub(super) doubt: std::sync::Mutex<Doubt>,
    /// What was handed out, and neither settled nor handed back. Locked while entries are taken
    /// over, so that none of these can look like a stray.
    pub(super) held: Mutex<HashSet<EntryId>>,
    /// Whether there may be strays.
    pub(super) strays: AtomicBool,
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
        name: QueueName,
        worker: WorkerId,
        lease: Duration,
    ) -> Result<Self, BrokerError> {
        let consumer = Self {
            shared,
            streams: keys::queue(&name),
            name,
            worker: worker.to_string(),
            lease,
            doubt: std::sync::Mutex::default(),
            held: Mutex::default(),
            strays: AtomicBool::default(),
        };
        match consumer.create_groups().await {
            // It refuses even what exists already. Who comes to drain a full queue is welcome; if
            // the groups are really missing, the first claim makes them.
            Err(BrokerError::Full) => {}
            created => created?,
        }
        Ok(consumer)
    }

    /// Creates the queue and its groups where they are missing, and this worker's place in it, by
    /// which others count it. From id 0: jobs that came before the group are for it too.
    pub(super) async fn create_groups(&self) -> Result<(), BrokerError> {
        let mut create = Pipeline::new();
        for stream in &self.streams {
            let group = create.cmd("XGROUP").arg("CREATE").arg(stream).arg(keys::GROUP);
            group.arg("0").arg("MKSTREAM").add_command(create_census(stream));
            let place = create.cmd("XGROUP").arg("CREATECONSUMER").arg(stream);
            place.arg(keys::GROUP).arg(&self.worker);
        }
        let mut connection = self.shared.link.connection().await?;
        let created: Vec<Result<Value, RedisError>> =
            create.ignore_errors().query_async(&mut connection).await.map_err(broker_error)?;
        let mut errors = created.into_iter().filter_map(Result::err);
        match errors.find(|error| server_code(error).as_deref() != Some("BUSYGROUP")) {
            Some(error) => Err(broker_error(error)),
            None => Ok(()),
        }
    }

    /// Adds the removal of entries. Deleted first: what only was acknowledged would stay for ever.
    pub(super) fn remove(&self, commands: &mut Pipeline, entries: &[EntryId]) {
        for (class, stream) in Priority::ALL.into_iter().zip(&self.streams) {
            let of_class = || entries.iter().filter(|entry| entry.priority == class);
            if of_class().next().is_some() {
                let ids: Vec<_> = of_class().copied().map(id_text).collect();
                commands.cmd("XDEL").arg(stream).arg(&ids).ignore();
                commands.cmd("XACK").arg(stream).arg(keys::GROUP).arg(&ids).ignore();
            }
        }
    }

    /// Notes that these are held no longer.
    async fn let_go(&self, entries: &[EntryId]) {
        let mut held = self.held.lock().await;
        for entry in entries {
            held.remove(entry);
        }
    }

    /// Announces this worker anew, and that it lives.
    async fn show_life(&self, announcement: &Announcement) -> Result<(), BrokerError> {
        let mut connection = self.shared.pool.get().await?;
        let time = redis::cmd("TIME").query_async(&mut *connection).await.map_err(broker_error)?;
        let renewal = Renewal { announcement: announcement.clone(), seen: milliseconds(time) };
        let renewal = serde_json::to_string(&renewal).map_err(BrokerError::refused)?;
        let (live, life) = (keys::live(&self.worker), LIVENESS.as_secs() * 1000);
        let renewed = Pipeline::new()
            .atomic()
            .hset(keys::WORKERS, &self.worker, renewal)
            .pset_ex(&live, 1, life)
            .exec_async(&mut *connection)
            .await
            .map_err(broker_error);
        if !matches!(renewed, Err(BrokerError::Full)) {
            return renewed;
        }
        // A full Redis stores nothing, but lets what it has live on: this worker must not seem dead
        // just when the queue is full.
        let mut prolong = redis::cmd("PEXPIRE");
        prolong.arg(live).arg(life);
        let prolonged = prolong.query_async(&mut *connection).await.map_err(broker_error)?;
        if prolonged { Ok(()) } else { renewed }
    }

    /// Publishes replies, which are sorted by gateway. Unless Redis has `no_room`, large ones are
    /// left for their gateway to fetch, and the poison is recorded.
    fn publish(&self, settlements: &[Settlement], no_room: bool) -> Pipeline {
        let mut commands = Pipeline::new();
        for message in messages(settlements) {
            let replies = message.iter().map(|settlement| &settlement.reply);
            let size = wire::replies_size_hint(replies.clone());
            let channel = keys::replies(message[0].gateway);
            if size > LARGE && !no_room {
                let parcel = Parcel::new(&self.name, size);
                commands.add_command(parcel.leave(replies)).ignore();
                commands.publish(channel, parcel.note());
                continue;
            }
            let mut publish = Cmd::with_capacity(3, size + 64);
            publish.arg("PUBLISH").arg(channel);
            wire::write_replies(&mut publish.bufmut_for_next_arg(size), replies);
            commands.add_command(publish);
        }
        for Settlement { entry, gateway, reply } in settlements.iter().filter(|_| !no_room) {
            if let Some(message) = poison(reply) {
                let add = commands.cmd("XADD").arg(keys::dead(&self.name));
                add.arg("MAXLEN").arg("~").arg(DEAD_LETTERS).arg("*");
                add.arg("request").arg(reply.id.to_string());
                add.arg("gateway").arg(gateway.to_string());
                add.arg("attempt").arg(reply.attempt);
                add.arg("digest").arg(format!("{:016x}", reply.digest));
                add.arg("entry").arg(entry.to_string());
                add.arg("message").arg(message).ignore();
            }
        }
        commands
    }
}

/// The replies of a batch, message by message: to one gateway each, and no more than are a message,
/// or one alone that is larger.
fn messages(settlements: &[Settlement]) -> impl Iterator<Item = &[Settlement]> {
    let size = |settlement: &Settlement| wire::replies_size_hint([&settlement.reply].into_iter());
    let mut before = 0;
    settlements.chunk_by(move |one, next| {
        before += size(one);
        let together = one.gateway == next.gateway && before + size(next) <= LARGE;
        before = if together { before } else { 0 };
        together
    })
}

/// What a reply says about a job that killed its workers.
fn poison(reply: &Reply) -> Option<&str> {
    let error = reply.outcome.as_ref().err()?;
    (error.failure == Failure::Poison).then_some(&error.message)
}

/// Makes the group of [`keys::CENSUS`], behind whatever will ever be added.
pub(super) fn create_census(stream: &str) -> Cmd {
    let mut create = redis::cmd("XGROUP");
    create.arg("CREATE").arg(stream).arg(keys::CENSUS);
    create.arg(format!("{0}-{0}", u64::MAX)).arg("ENTRIESREAD").arg(0);
    create
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn reclaim(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        if limit == 0 { Ok(Vec::new()) } else { self.reclaim_up_to(limit).await }
    }

    async fn gateways_alive(&self, gateways: &[GatewayId]) -> Result<Vec<bool>, BrokerError> {
        let mut connection = self.shared.link.connection().await?;
        let keys = gateways.iter().copied().map(keys::gateway);
        let alive = self.alive(&mut connection, keys.collect()).await?;
        Ok(alive.unwrap_or_else(|| vec![true; gateways.len()]))
    }

    async fn settle(&self, mut settlements: Vec<Settlement>) -> Result<usize, BrokerError> {
        if settlements.is_empty() {
            return Ok(0);
        }
        settlements.sort_by_key(|settlement| settlement.gateway);
        let entries: Vec<_> = settlements.iter().map(|settlement| settlement.entry).collect();
        let mut commands = self.publish(&settlements, false);
        self.remove(&mut commands, &entries);
        let answers = match self.shared.run(commands.atomic()).await {
            Err(BrokerError::Full) => {
                // A full Redis refuses whatever comes in a `MULTI`, even what makes room. Replies go
                // first then, so that in the worst case one is sent twice, and nothing is stored.
                let mut commands = self.publish(&settlements, true);
                self.remove(&mut commands, &entries);
                self.shared.run(&commands).await?
            }
            answers => answers?,
        };
        self.let_go(&entries).await;
        let unheard = |(message, listeners): (&[Settlement], _)| match listeners {
            Value::Int(0) => message.len(),
            _ => 0,
        };
        Ok(messages(&settlements).zip(answers).map(unheard).sum())
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
            let add = commands.cmd("XADD").arg(&self.streams[entry.priority as usize]).arg("*");
            add.arg(keys::JOB).arg(&wire::encode_job(&job)[..]);
            entries.push(entry);
        }
        self.remove(&mut commands, &entries);
        self.shared.run(commands.atomic()).await?;
        self.let_go(&entries).await;
        Ok(())
    }

    async fn renew(&self, announcement: &Announcement) -> Result<(), BrokerError> {
        let renewed = self.show_life(announcement).await;
        if renewed.is_err() {
            self.doubt().raise();
        }
        renewed
    }

    async fn retire(&self) -> Result<(), BrokerError> {
        let mut connection = self.shared.pool.get().await?;
        redis::cmd("DEL")
            .arg(keys::live(&self.worker))
            .exec_async(&mut *connection)
            .await
            .map_err(broker_error)
    }
}

/// Whether Redis has forgotten the queue: restarted empty, flushed, or the key was deleted, before
/// or during the read.
pub(super) fn lost_group(error: &RedisError) -> bool {
    let Some(errors) = error.clone().into_server_errors() else { return false };
    errors.first().is_some_and(|(_, error)| match error.code() {
        "NOGROUP" => true,
        // The same code also announces that this node is no longer the primary.
        "UNBLOCKED" => error.details().is_some_and(|text| text.contains("no longer exists")),
        _ => false,
    })
}
