//! Fills a claim from the streams of all classes.
//!
//! Redis cannot split one read by weight: a count holds for each stream it reads. So a claim first
//! takes what waits, with one read per class, and only where nothing waits at all it blocks on all
//! streams together, with a count so small that no more than was asked for can come. While only one
//! class is in use there is nothing to split and nothing to look up: a claim is one read.
//!
//! Each read also asks which gateways listen: the jobs of one that does not need not run.

use std::{
    collections::{
        HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use deadpool_redis::Connection;
use redis::{Pipeline, RedisError, Value, aio::MultiplexedConnection};
use tokio::time::Instant;

use super::{
    connect::{broker_error, milliseconds},
    consumer::{RedisConsumer, lost_group},
    entries::{Entry, entries},
    keys,
};
use crate::{
    BrokerError, Claims, Consumer, Delivery, GatewayId, Priority,
    roles::{CLAIM_WAIT, LIVENESS},
    share::share,
};

/// How long a blocking read may take before its connection counts as dead. Giving up a read that
/// still runs makes strays of what Redis hands to it.
const READ_PATIENCE: Duration = Duration::from_secs(CLAIM_WAIT.as_secs() + 4);

/// How long a class counts as in use after a job was seen in it. The first job after that may miss
/// one full batch of another class.
const IN_USE: Duration = Duration::from_secs(10);

/// For how long strays are looked for before every claim once its connection was lost. Those
/// that come even later are noticed by the next reclaim.
const DOUBT: Duration = Duration::from_secs(2);

/// For how long it is asked whether a gateway listens after a job of it was claimed.
const ASKED: Duration = Duration::from_mins(1);

/// Something for each class, highest first.
type PerClass<T> = [T; Priority::ALL.len()];

/// What is kept from one claim to the next.
#[derive(Default)]
struct Reader {
    /// The connection of blocking reads: a read holds up everything behind it. `None` before the
    /// first read and after a failed one.
    connection: Option<MultiplexedConnection>,
    /// When it was opened.
    opened: Option<Instant>,
    /// When there last was none.
    lost: Option<Instant>,
    /// When jobs were last seen in each class.
    seen: PerClass<Option<Instant>>,
    /// Counts claims.
    turn: usize,
    /// Whose jobs were claimed of late: the channels on which they listen, and when it was.
    gateways: HashMap<GatewayId, (String, Instant)>,
}

impl Reader {
    /// Whether a read was given up a moment ago, so that there may be strays.
    fn doubts(&mut self) -> bool {
        if self.connection.is_none() {
            self.lost = Some(Instant::now());
        }
        self.lost.is_some_and(|lost| lost.elapsed() < DOUBT)
    }

    /// Notes that a job of this gateway was claimed.
    fn met(&mut self, gateway: GatewayId) {
        let now = Instant::now();
        match self.gateways.entry(gateway) {
            Occupied(mut known) => known.get_mut().1 = now,
            Vacant(_) => {
                self.gateways.retain(|_, (_, met)| now - *met < ASKED);
                self.gateways.insert(gateway, (keys::replies(gateway), now));
            }
        }
    }

    /// The gateways that do not listen, by an answer to `PUBSUB NUMSUB`; none if it is an error.
    fn deaf(&self, listeners: Value) -> Vec<GatewayId> {
        let listeners = listeners.extract_error().and_then(|value| {
            redis::from_redis_value::<Vec<(String, u64)>>(value).map_err(RedisError::from)
        });
        let unheard = listeners.unwrap_or_default().into_iter().filter(|(_, count)| *count == 0);
        let whose = |(unheard, _)| {
            let mut known = self.gateways.iter();
            known.find(|(_, (channel, _))| *channel == unheard).map(|(gateway, _)| *gateway)
        };
        unheard.filter_map(whose).collect()
    }

    /// The only class in use; `None` also before anything was seen.
    fn only_class(&self) -> Option<usize> {
        let in_use = |seen: &Option<Instant>| seen.is_some_and(|seen| seen.elapsed() < IN_USE);
        let mut classes = (0..self.seen.len()).filter(|&class| in_use(&self.seen[class]));
        classes.next().filter(|_| classes.next().is_none())
    }
}

/// What one claim has so far.
struct Claim {
    connection: MultiplexedConnection,
    entries: Vec<Entry>,
    /// Redis's clock after the last read, in milliseconds.
    clock: u64,
    /// Gateways that did not listen then.
    deaf: Vec<GatewayId>,
}

/// What to read in one round trip.
enum Ask {
    /// So many of each class, if they wait.
    Now(PerClass<usize>),
    /// At most so many of each class, once any waits.
    Wait(usize),
}

/// The claims of one worker.
pub(super) struct RedisClaims {
    consumer: Arc<RedisConsumer>,
    reader: Reader,
}

impl RedisClaims {
    pub(super) fn new(consumer: Arc<RedisConsumer>) -> Self {
        Self { consumer, reader: Reader::default() }
    }
}

#[async_trait]
impl Claims for RedisClaims {
    async fn claim(&mut self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        // To Redis, no limit at all.
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.consumer.claim_up_to(&mut self.reader, limit).await
    }
}

impl RedisConsumer {
    async fn claim_up_to(
        &self,
        reader: &mut Reader,
        limit: usize,
    ) -> Result<Vec<Delivery>, BrokerError> {
        if reader.opened.is_some_and(|opened| self.shared.place.is_elsewhere_since(opened)) {
            reader.connection = None;
        }
        if reader.doubts() || self.strays.load(Relaxed) {
            let strays = self.take_strays(limit).await?;
            if !strays.is_empty() {
                return Ok(strays);
            }
        }
        // Taken out: a claim that fails or is dropped takes its connection along.
        let connection = match reader.connection.take() {
            Some(connection) => connection,
            None => self.open_reader(reader).await?,
        };
        let mut claim = Claim { connection, entries: Vec::new(), clock: 0, deaf: Vec::new() };
        let filled = match self.fill(&mut claim, reader, limit).await {
            Err(error) if lost_group(&error) => {
                tracing::warn!(queue = %self.name, "the queue was gone and is made anew");
                reader.connection = Some(claim.connection);
                self.create_groups().await
            }
            Err(error) => Err(broker_error(error)),
            Ok(()) => {
                reader.connection = Some(claim.connection);
                Ok(())
            }
        };
        if let Err(error) = filled {
            if claim.entries.is_empty() {
                return Err(error);
            }
            // What is claimed is owed, whatever went wrong after it.
            tracing::warn!(queue = %self.name, %error, "a claim came to an early end");
        }
        // Several reads may have contributed to one class.
        claim.entries.sort_unstable_by_key(|entry| entry.id);
        let mut deliveries = self.deliver(claim.entries, claim.clock).await;
        // When the connections have just come back, gateways may still be about to listen again.
        let is_known = self.shared.link.up_for() >= LIVENESS;
        for Delivery { job, awaited, .. } in &mut deliveries {
            *awaited = !(is_known && claim.deaf.contains(&job.gateway));
            reader.met(job.gateway);
        }
        if deliveries.len() > limit {
            // Several classes filled up between the look that found nothing and the wait, and
            // `limit` is too small to be split: the queue is as good as empty, its end is its front.
            let excess = deliveries.split_off(limit);
            if let Err(error) = self.hand_back(excess).await {
                // Or they are back in the queue: it is not known.
                tracing::warn!(queue = %self.name, %error, "jobs must wait to be found as strays");
            }
        }
        self.held.lock().await.extend(deliveries.iter().map(|delivery| delivery.entry));
        Ok(deliveries)
    }

    /// A connection of its own, never given back to the pool.
    async fn open_reader(&self, reader: &mut Reader) -> Result<MultiplexedConnection, BrokerError> {
        let connection = self.shared.pool.get().await?;
        let mut connection = Connection::take(connection);
        connection.set_response_timeout(READ_PATIENCE);
        reader.opened = Some(Instant::now());
        Ok(connection)
    }

    /// Reads until the claim is full or nothing waits; waits if that leaves it empty.
    async fn fill(
        &self,
        claim: &mut Claim,
        reader: &mut Reader,
        limit: usize,
    ) -> Result<(), RedisError> {
        reader.turn = reader.turn.wrapping_add(1);
        // Upper bounds: what stands in a stream may have been claimed by others.
        let mut waiting = [0; Priority::ALL.len()];
        match reader.only_class() {
            Some(class) => waiting[class] = limit,
            None => waiting = self.read(claim, reader, Ask::Now(waiting)).await?.1,
        }
        let mut exhausted = [false; Priority::ALL.len()];
        while claim.entries.len() < limit {
            let asked = share(limit - claim.entries.len(), waiting, reader.turn);
            if asked.iter().sum::<usize>() == 0 {
                break;
            }
            let (got, standing) = self.read(claim, reader, Ask::Now(asked)).await?;
            for class in 0..waiting.len() {
                exhausted[class] |= got[class] < asked[class];
                waiting[class] = if exhausted[class] { 0 } else { standing[class] };
            }
        }
        if claim.entries.is_empty() {
            let each = (limit / waiting.len()).max(1);
            self.read(claim, reader, Ask::Wait(each)).await?;
        }
        Ok(())
    }

    /// One round trip: how many entries came of each class, and how many stand in it after that,
    /// claimed or not. An error of one class does not hide what came of another.
    async fn read(
        &self,
        claim: &mut Claim,
        reader: &mut Reader,
        ask: Ask,
    ) -> Result<(PerClass<usize>, PerClass<usize>), RedisError> {
        let mut commands = Pipeline::with_capacity(7);
        match ask {
            Ask::Now(counts) => {
                for (key, count) in self.streams.iter().zip(counts).filter(|(_, count)| *count > 0)
                {
                    self.read_command(&mut commands, count).arg("STREAMS").arg(key).arg(">");
                }
            }
            Ask::Wait(count) => {
                let wait = CLAIM_WAIT.as_secs() * 1000;
                let read = self.read_command(&mut commands, count).arg("BLOCK").arg(wait);
                read.arg("STREAMS").arg(&self.streams).arg(&[">"; Priority::ALL.len()]);
            }
        }
        for key in &self.streams {
            commands.cmd("XLEN").arg(key);
        }
        commands.cmd("TIME").ignore_errors();
        // Here it costs no round trip.
        let channels: Vec<&String> = reader.gateways.values().map(|(channel, _)| channel).collect();
        commands.cmd("PUBSUB").arg("NUMSUB").arg(channels);
        let mut answers: Vec<Value> = commands.query_async(&mut claim.connection).await?;
        claim.deaf = reader.deaf(answers.pop().unwrap_or(Value::Nil));
        let time = answers.pop().unwrap_or(Value::Nil).extract_error()?;
        claim.clock = milliseconds(redis::from_redis_value(time)?);
        let lengths = answers.split_off(answers.len().saturating_sub(self.streams.len()));

        let mut got = [0; Priority::ALL.len()];
        let mut failure = Ok(());
        for answer in answers {
            match answer.extract_error() {
                Ok(answer) => self.take(answer, claim, &mut got)?,
                Err(error) => failure = failure.and(Err(error)),
            }
        }
        failure?;
        let mut standing = [0; Priority::ALL.len()];
        for (class, length) in lengths.into_iter().enumerate() {
            standing[class] = redis::from_redis_value(length.extract_error()?)?;
            if standing[class] > 0 {
                reader.seen[class] = Some(Instant::now());
            }
        }
        Ok((got, standing))
    }

    fn read_command<'a>(&self, commands: &'a mut Pipeline, count: usize) -> &'a mut Pipeline {
        let read = commands.cmd("XREADGROUP").arg("GROUP").arg(keys::GROUP).arg(&self.worker);
        read.arg("COUNT").arg(count)
    }

    /// Takes the entries out of an answer to `XREADGROUP`.
    fn take(
        &self,
        answer: Value,
        claim: &mut Claim,
        got: &mut PerClass<usize>,
    ) -> Result<(), RedisError> {
        let nonsense = || {
            let kind = redis::ErrorKind::UnexpectedReturnType;
            RedisError::from((kind, "an answer to XREADGROUP that makes no sense"))
        };
        let streams = match answer {
            Value::Nil => return Ok(()),
            Value::Map(streams) => streams,
            _ => return Err(nonsense()),
        };
        for (name, answer) in streams {
            let known =
                |key: &String| matches!(&name, Value::BulkString(name) if *name == key.as_bytes());
            let class = self.streams.iter().position(known).ok_or_else(nonsense)?;
            let entries = entries(answer, Priority::ALL[class]).ok_or_else(nonsense)?;
            got[class] += entries.len();
            claim.entries.extend(entries);
        }
        Ok(())
    }
}
