//! The observer's role: reads queues, workers and traffic.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{
    Pipeline, RedisError, Value,
    aio::ConnectionLike,
    streams::{StreamInfoGroup, StreamInfoGroupsReply},
};
use tokio::sync::Mutex;

use super::{
    announcements::{self, Source},
    connect::{Info, info},
    connections::Connections,
    consumers, denials,
    entries::parse_id,
    errors::{broker_error, no_such_key, unreadable},
    keys, liveness,
    news::Known,
    pool::Connection,
    promise, traffic,
    values::{milliseconds, parse},
};
use crate::{
    Backlog, BrokerError, BrokerHealth, FleetSnapshot, Look, Observer, Priority, QueueName,
    ShardId, ShardMemory, TrafficReport,
};

/// The most streams of which the count is kept.
const MOST_COUNTED: usize = 10_000;

/// The most queues read in one round trip. Limited, because Redis runs no other command meanwhile.
const MOST_AT_ONCE: usize = 100;

/// A hash in Redis.
type Fields = HashMap<String, String>;

/// The role of a program that only reads.
pub(super) struct RedisObserver {
    connections: Arc<Connections>,
    known: Mutex<Known>,
    /// By stream: the last entry that was claimed, and the number of entries ever added.
    counted: parking_lot::Mutex<HashMap<String, (String, u64)>>,
}

impl RedisObserver {
    pub(super) fn new(connections: Arc<Connections>) -> Self {
        let known = Mutex::new(Known::new(connections.keys));
        Self { connections, known, counted: parking_lot::Mutex::default() }
    }

    async fn connection(&self) -> Result<Connection, BrokerError> {
        self.connections.pool.get().await
    }

    /// The streams of these queues.
    fn streams(&self, queues: &[QueueName]) -> Vec<String> {
        queues.iter().flat_map(|queue| self.connections.keys.queue(queue)).collect()
    }

    /// Adds to the states of empty streams how many entries were ever added, where nothing has been
    /// claimed since that was read: most queues are idle, and Redis would have to be asked again.
    fn recall(&self, streams: &[String], states: &mut [StreamState]) {
        let counted = self.counted.lock();
        for (stream, state) in streams.iter().zip(states) {
            let known = counted.get(stream).filter(|(claimed, _)| {
                state.length == 0 && *claimed == state.workers.last_delivered_id
            });
            state.added = state.added.or(known.map(|(_, added)| *added));
        }
    }

    /// Sums up the states of streams to the backlogs of their queues, with what else is needed.
    async fn complete(
        &self,
        connection: &mut impl ConnectionLike,
        streams: &[String],
        (mut states, now): (Vec<StreamState>, u64),
    ) -> Result<Vec<Backlog>, BrokerError> {
        self.recall(streams, &mut states);
        let details = read_details(connection, streams, &states).await.map_err(broker_error)?;
        self.remember(streams, &states, &details);
        let classes = Priority::ALL.len();
        let of_each = states.chunks(classes).zip(details.chunks(classes));
        Ok(of_each.map(|(states, details)| backlog(states, details, now)).collect())
    }

    /// Keeps what [`recall`](Self::recall) needs.
    fn remember(&self, streams: &[String], states: &[StreamState], details: &[Details]) {
        let mut counted = self.counted.lock();
        if counted.len() > MOST_COUNTED {
            counted.clear();
        }
        for ((stream, state), (_, added)) in streams.iter().zip(states).zip(details) {
            counted.insert(stream.clone(), (state.workers.last_delivered_id.clone(), *added));
        }
    }
}

#[async_trait]
impl Observer for RedisObserver {
    async fn fleet(&self) -> Result<FleetSnapshot, BrokerError> {
        let keys = self.connections.keys;
        let mut connection = self.connection().await?;
        let answers: Vec<Value> = Pipeline::new()
            .hgetall(keys.workers())
            .hgetall(keys.promises())
            .cmd("TIME")
            .get(keys.epoch())
            .smembers(keys.queues())
            .ignore_errors()
            .query_async(&mut *connection)
            .await
            .map_err(broker_error)?;
        let [workers, promises, time, epoch, queues] =
            answers.try_into().map_err(|_| unreadable("HGETALL"))?;
        let workers: Fields = parse(Some(workers)).map_err(broker_error)?;
        let promises: Fields = parse(Some(promises)).map_err(broker_error)?;
        let epoch: Option<String> = parse(Some(epoch)).map_err(broker_error)?;
        let now = milliseconds(parse(Some(time)).map_err(broker_error)?);
        // Rights of an earlier version of this program do not include this set.
        let queues: Vec<String> = parse(Some(queues)).unwrap_or_default();
        let promises = promise::read(&promises, now);
        let own = announcements::read(keys, &mut *connection, &queues, &workers).await;
        let own = own.map_err(broker_error)?;
        let mut sources = vec![Source::shared(keys, workers)];
        sources.extend(own);
        let mut sorted = announcements::sort(sources, &queues, now);
        let names = sorted.workers();
        let live = liveness::of_workers(keys, &mut *connection, &names, epoch.as_ref()).await?;
        let workers = sorted.observe(names.into_iter().zip(live).collect());
        sorted.clean(keys, &mut *connection).await.map_err(broker_error)?;
        Ok(FleetSnapshot { workers, promises })
    }

    async fn news(&self) -> Result<Option<FleetSnapshot>, BrokerError> {
        self.look(&[], false).await.map(|look| look.news)
    }

    async fn backlog(&self, queue: &QueueName) -> Result<Backlog, BrokerError> {
        let backlogs = self.backlogs(std::slice::from_ref(queue)).await?;
        backlogs.into_iter().next().ok_or_else(|| unreadable("XINFO"))
    }

    async fn backlogs(&self, queues: &[QueueName]) -> Result<Vec<Backlog>, BrokerError> {
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.connection().await?;
        let mut backlogs = Vec::with_capacity(queues.len());
        for queues in queues.chunks(MOST_AT_ONCE) {
            let streams = self.streams(queues);
            let mut commands = Pipeline::new();
            ask_states(&mut commands, &streams);
            let answers = ask(&mut *connection, &commands).await?;
            let states = read_states(&mut answers.into_iter(), &streams).map_err(broker_error)?;
            backlogs.extend(self.complete(&mut *connection, &streams, states).await?);
        }
        Ok(backlogs)
    }

    async fn look(&self, queues: &[QueueName], memory: bool) -> Result<Look, BrokerError> {
        let mut known = self.known.lock().await;
        let mut connection = self.connection().await?;
        let (first, others) = queues.split_at(queues.len().min(MOST_AT_ONCE));
        let streams = self.streams(first);
        let mut commands = Pipeline::new();
        let is_due = known.ask(&mut commands);
        if memory {
            commands.cmd("INFO").arg("memory");
        }
        if !streams.is_empty() {
            ask_states(&mut commands, &streams);
        }
        let answers = &mut ask(&mut *connection, &commands).await?.into_iter();
        let seen = known.answered(answers, is_due)?;
        let memory = if memory { Some(memory_in(Info::of(parse(answers.next()))?)) } else { None };
        let mut backlogs = Vec::new();
        if !streams.is_empty() {
            let states = read_states(answers, &streams).map_err(broker_error)?;
            backlogs = self.complete(&mut *connection, &streams, states).await?;
        }
        let mut news = None;
        if let Some((look, due)) = seen {
            news = known.read(&mut *connection, &look, due).await?;
            drop(connection);
            if news.is_none() {
                news = Some(self.fleet().await?);
            }
            known.has_read(look);
        } else {
            drop(connection);
        }
        backlogs.extend(self.backlogs(others).await?);
        Ok(Look { news, backlogs, memory })
    }

    async fn held(&self, queue: &QueueName) -> Result<HashMap<String, u64>, BrokerError> {
        let mut connection = self.connection().await?;
        let classes =
            consumers::read(&mut *connection, &self.connections.keys.queue(queue)).await?;
        let mut held = HashMap::new();
        for consumer in classes.into_iter().flatten() {
            *held.entry(consumer.name).or_default() += consumer.pending as u64;
        }
        Ok(held)
    }

    async fn traffic(&self) -> Result<Vec<TrafficReport>, BrokerError> {
        traffic::read(self.connections.keys, &mut *self.connection().await?).await
    }

    async fn gateways(&self) -> Result<Vec<SocketAddr>, BrokerError> {
        let mut connection = self.connection().await?;
        let keys = self.connections.keys;
        let reporting: Result<Vec<String>, RedisError> =
            redis::cmd("HKEYS").arg(keys.traffic()).query_async(&mut *connection).await;
        let gateways = match reporting {
            // Rights of an earlier version of this program are no denial of what requests need.
            Err(error) if denials::is_of_permission(&error) => {
                return Err(BrokerError::denied(error));
            }
            gateways => gateways.map_err(broker_error)?,
        };
        if gateways.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<String> =
            gateways.iter().map(|gateway| keys.gateway_named(gateway)).collect();
        let addresses: Vec<Option<String>> = redis::cmd("MGET")
            .arg(names)
            .query_async(&mut *connection)
            .await
            .map_err(broker_error)?;
        // Gateways of earlier versions publish no address.
        Ok(addresses.into_iter().flatten().filter_map(|address| address.parse().ok()).collect())
    }

    async fn memory(&self) -> Result<Vec<ShardMemory>, BrokerError> {
        info(&mut *self.connection().await?, &["memory"]).await.map(memory_in)
    }

    fn health(&self) -> BrokerHealth {
        self.connections.health()
    }
}

/// The memory usage in an answer to `INFO`, if memory is limited.
fn memory_in(info: Option<Info>) -> Vec<ShardMemory> {
    let Some(info) = info else { return Vec::new() };
    let field = |name| info.field(name)?.parse::<f64>().ok();
    let limited = field("used_memory").zip(field("maxmemory")).filter(|(_, most)| *most > 0.0);
    let shard = |(used, most)| ShardMemory { shard: ShardId::default(), used: used / most };
    limited.map(shard).into_iter().collect()
}

/// The answers to these commands, each of which can fail on its own.
async fn ask(
    connection: &mut impl ConnectionLike,
    commands: &Pipeline,
) -> Result<Vec<Value>, BrokerError> {
    let mut commands = commands.clone();
    commands.ignore_errors().query_async(connection).await.map_err(broker_error)
}

/// The state of the stream of one class; empty if the stream does not exist.
#[derive(Default)]
struct StreamState {
    length: u64,
    workers: StreamInfoGroup,
    /// Entries ever added; `None` if the census does not count them.
    added: Option<u64>,
}

impl StreamState {
    fn new(length: u64, groups: &[StreamInfoGroup]) -> Self {
        let group = |name| groups.iter().find(|group| group.name == name).cloned();
        // Since version 8, Redis answers 0 for every empty stream.
        let added = group(keys::CENSUS).and_then(|group| group.lag).filter(|added| *added > 0);
        let workers = group(keys::GROUP).unwrap_or_default();
        Self { length, workers, added: added.map(|added| added as u64) }
    }

    /// Not the `lag` of the group, which is unknown once a waiting entry was deleted.
    fn waiting(&self) -> u64 {
        self.length.saturating_sub(self.workers.pending as u64)
    }
}

/// When the oldest waiting entry of a stream was added, in milliseconds, and the number of entries
/// ever added.
type Details = (Option<u64>, u64);

/// Sums up the classes of a queue. `now` is Redis's clock in milliseconds.
fn backlog(states: &[StreamState], details: &[Details], now: u64) -> Backlog {
    let mut backlog = Backlog::default();
    for (class, (state, (oldest, added))) in states.iter().zip(details).enumerate() {
        backlog.waiting[class] = state.waiting();
        backlog.in_flight += state.workers.pending as u64;
        let age = oldest.map_or(0, |oldest: u64| now.saturating_sub(oldest));
        backlog.oldest_age = backlog.oldest_age.max(Duration::from_millis(age));
        backlog.added += added;
    }
    backlog
}

/// Adds the questions for the state of each stream and for Redis's clock.
fn ask_states(commands: &mut Pipeline, streams: &[String]) {
    for stream in streams {
        commands.cmd("XLEN").arg(stream).cmd("XINFO").arg("GROUPS").arg(stream);
    }
    commands.cmd("TIME");
}

/// Reads the answers to [`ask_states`]: the state of each stream, and Redis's clock in milliseconds.
fn read_states(
    answers: &mut impl Iterator<Item = Value>,
    streams: &[String],
) -> Result<(Vec<StreamState>, u64), RedisError> {
    let mut states = Vec::with_capacity(streams.len());
    for _ in streams {
        let length = parse(answers.next())?;
        states.push(match parse::<StreamInfoGroupsReply>(answers.next()) {
            Err(error) if no_such_key(&error) => StreamState::default(),
            groups => StreamState::new(length, &groups?.groups),
        });
    }
    Ok((states, milliseconds(parse(answers.next())?)))
}

/// Reads the last entry of each stream that a worker has claimed; `None` if there is none. All
/// later entries wait.
pub(super) async fn last_claimed(
    connection: &mut impl ConnectionLike,
    streams: &[String; Priority::ALL.len()],
) -> Result<[Option<(u64, u64)>; Priority::ALL.len()], RedisError> {
    let mut commands = Pipeline::new();
    ask_states(&mut commands, streams);
    let answers: Vec<Value> = commands.ignore_errors().query_async(connection).await?;
    let (states, _) = read_states(&mut answers.into_iter(), streams)?;
    let mut last = [None; Priority::ALL.len()];
    for (last, state) in last.iter_mut().zip(states) {
        let id = parse_id(&state.workers.last_delivered_id, Priority::Default);
        *last = id.map(|id| (id.milliseconds, id.sequence));
    }
    Ok(last)
}

/// Reads the details of each stream.
async fn read_details(
    connection: &mut impl ConnectionLike,
    streams: &[String],
    states: &[StreamState],
) -> Result<Vec<Details>, RedisError> {
    let mut commands = Pipeline::new();
    for (stream, state) in streams.iter().zip(states) {
        if state.waiting() > 0 {
            let last = &state.workers.last_delivered_id;
            let after = if last.is_empty() { "0-0" } else { last };
            let range = commands.cmd("XRANGE").arg(stream).arg(format!("({after}"));
            range.arg("+").arg("COUNT").arg(1);
        }
        if state.added.is_none() {
            // Queried only if necessary, because the answer includes two entries.
            commands.cmd("XINFO").arg("STREAM").arg(stream);
        }
    }
    let answers: Vec<Value> = if commands.is_empty() {
        Vec::new()
    } else {
        commands.ignore_errors().query_async(connection).await?
    };
    let mut answers = answers.into_iter();
    let mut details = Vec::with_capacity(states.len());
    for state in states {
        let mut oldest = None;
        if state.waiting() > 0 {
            let entries: Vec<(String, Value)> = parse(answers.next())?;
            oldest = entries.first().and_then(|(id, _)| parse_id(id, Priority::Default));
        }
        let added = match state.added {
            Some(added) => added,
            None => match parse::<HashMap<String, Value>>(answers.next()) {
                Err(error) if no_such_key(&error) => 0,
                info => info?.remove("entries-added").map_or(Ok(0), |added| parse(Some(added)))?,
            },
        };
        details.push((oldest.map(|id| id.milliseconds), added));
    }
    Ok(details)
}
