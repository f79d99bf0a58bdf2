//! The connection for the blocking reads of a worker, and one round trip on it.

use std::time::Duration;

use redis::{ErrorKind, Pipeline, RedisError, Value};
use tokio::time::Instant;

use super::{
    classes::PerClass,
    connections::Connections,
    entries::{Entry, entries},
    keys,
    listeners::Listeners,
    pool::Connection,
    queue::WorkerQueue,
    routed::RoutedConnection,
    values::milliseconds,
};
use crate::{BrokerError, GatewayId, Priority, roles::CLAIM_WAIT};

/// How long a blocking read of small jobs may take before its connection counts as dead. Entries that
/// Redis gives to an abandoned read become strays.
const READ_PATIENCE: Duration = Duration::from_secs(CLAIM_WAIT.as_secs() + 4);

/// How long after the loss of a connection every claim searches for strays first. The next reclaim
/// detects strays that appear later.
const SEARCH_STRAYS: Duration = Duration::from_secs(2);

/// The connection for blocking reads. It is not shared, because a blocking read delays all commands
/// behind it.
#[derive(Default)]
pub(super) struct Reader {
    /// `None` before the first read and after a failed read.
    connection: Option<RoutedConnection>,
    opened: Option<Instant>,
    /// When the connection was last missing.
    lost: Option<Instant>,
}

impl Reader {
    /// Drops a connection to a server that is no longer the master. Returns whether a read may have
    /// been abandoned recently, so that strays may exist.
    pub(super) fn check(&mut self, connections: &Connections) -> bool {
        if self.opened.is_some_and(|opened| connections.locator.has_moved_since(opened)) {
            self.connection = None;
        }
        if self.connection.is_none() {
            self.lost = Some(Instant::now());
        }
        self.lost.is_some_and(|lost| lost.elapsed() < SEARCH_STRAYS)
    }

    /// Takes the connection out, or opens one. A claim that fails or is dropped does not put it
    /// back.
    pub(super) async fn take(
        &mut self,
        connections: &Connections,
    ) -> Result<RoutedConnection, BrokerError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        // Never returned to the pool.
        let connection = Connection::take(connections.pool.get().await?).into_inner();
        self.opened = Some(Instant::now());
        Ok(connection)
    }

    /// Puts the connection back.
    pub(super) fn put_back(&mut self, connection: RoutedConnection) {
        self.connection = Some(connection);
    }
}

/// The results of a claim so far.
pub(super) struct OpenClaim {
    pub(super) connection: RoutedConnection,
    pub(super) entries: Vec<Entry>,
    /// Redis's clock after the last read, in milliseconds.
    pub(super) clock: u64,
    /// The gateways that were unsubscribed at the last read.
    pub(super) unsubscribed: Vec<GatewayId>,
}

/// What to read in one round trip.
#[derive(Clone, Copy)]
pub(super) enum ReadCounts {
    /// At most this many entries of each class, without waiting.
    Now(PerClass<usize>),
    /// At most this many entries of each class, after waiting for the first entry for up to this
    /// time.
    Wait(usize, Duration),
}

impl ReadCounts {
    /// The most entries that the read may return.
    fn most(self) -> usize {
        match self {
            Self::Now(counts) => counts.iter().sum(),
            Self::Wait(each, _) => each.saturating_mul(Priority::ALL.len()),
        }
    }
}

/// The result of one round trip.
#[derive(Default)]
pub(super) struct ReadResult {
    /// Entries read, by class.
    pub(super) read: PerClass<usize>,
    /// Entries left in the stream of each class, claimed or not.
    pub(super) left: PerClass<usize>,
}

impl OpenClaim {
    pub(super) fn new(connection: RoutedConnection) -> Self {
        Self { connection, entries: Vec::new(), clock: 0, unsubscribed: Vec::new() }
    }

    /// Makes one round trip. An error of one class does not hide the entries of other classes.
    pub(super) async fn read(
        &mut self,
        queue: &WorkerQueue,
        listeners: &Listeners,
        counts: ReadCounts,
    ) -> Result<ReadResult, RedisError> {
        let commands = commands(queue, listeners, counts);
        let patience = queue.transfers().patience(READ_PATIENCE, counts.most());
        self.connection.set_response_timeout(patience);
        let answers = tokio::select! {
            answers = commands.query_async(&mut self.connection) => answers,
            () = queue.connections().link.lost_after(READ_PATIENCE) => Err(lost()),
        };
        let mut answers: Vec<Value> = answers.inspect_err(|error| queue.note_failure(error))?;
        self.unsubscribed = listeners.unsubscribed(answers.pop().unwrap_or(Value::Nil));
        let time = answers.pop().unwrap_or(Value::Nil).extract_error()?;
        self.clock = milliseconds(redis::from_redis_value(time)?);
        let lengths = answers.split_off(answers.len().saturating_sub(queue.streams().len()));

        let mut found = ReadResult::default();
        let mut failure = Ok(());
        for answer in answers {
            match answer.extract_error() {
                Ok(answer) => self.take(queue, answer, &mut found.read)?,
                Err(error) => failure = failure.and(Err(error)),
            }
        }
        failure?;
        for (left, length) in found.left.iter_mut().zip(lengths) {
            *left = redis::from_redis_value(length.extract_error()?)?;
        }
        Ok(found)
    }

    /// Extracts the entries from an answer to `XREADGROUP`.
    fn take(
        &mut self,
        queue: &WorkerQueue,
        answer: Value,
        read: &mut PerClass<usize>,
    ) -> Result<(), RedisError> {
        let unreadable = || {
            let kind = ErrorKind::UnexpectedReturnType;
            RedisError::from((kind, "an unreadable answer to XREADGROUP"))
        };
        let streams = match answer {
            Value::Nil => return Ok(()),
            Value::Map(streams) => streams,
            _ => return Err(unreadable()),
        };
        for (name, answer) in streams {
            let known =
                |key: &String| matches!(&name, Value::BulkString(name) if *name == key.as_bytes());
            let class = queue.streams().iter().position(known).ok_or_else(unreadable)?;
            let entries = entries(answer, Priority::ALL[class]).ok_or_else(unreadable)?;
            read[class] += entries.len();
            queue.transfers().arrived(entries.iter().map(Entry::size));
            self.entries.extend(entries);
        }
        Ok(())
    }
}

fn lost() -> RedisError {
    RedisError::from((ErrorKind::Io, "the connection to Redis was lost"))
}

fn commands(queue: &WorkerQueue, listeners: &Listeners, counts: ReadCounts) -> Pipeline {
    let mut commands = Pipeline::with_capacity(7);
    match counts {
        ReadCounts::Now(counts) => {
            for (key, count) in queue.streams().iter().zip(counts).filter(|(_, count)| *count > 0) {
                read_group(&mut commands, queue, count).arg("STREAMS").arg(key).arg(">");
            }
        }
        ReadCounts::Wait(count, wait) => {
            let wait = block_millis(wait);
            let read = read_group(&mut commands, queue, count).arg("BLOCK").arg(wait);
            read.arg("STREAMS").arg(queue.streams()).arg(&[">"; Priority::ALL.len()]);
        }
    }
    for key in queue.streams() {
        commands.cmd("XLEN").arg(key);
    }
    commands.cmd("TIME").ignore_errors();
    // As part of this pipeline, the query costs no round trip.
    listeners.ask(&mut commands, queue.connections().locator.channels());
    commands
}

/// The time for `BLOCK`, in milliseconds. Redis would wait for ever at 0.
fn block_millis(wait: Duration) -> u64 {
    let micros = u64::try_from(wait.min(CLAIM_WAIT).as_micros()).unwrap_or(u64::MAX);
    micros.div_ceil(1000).max(1)
}

fn read_group<'a>(
    commands: &'a mut Pipeline,
    queue: &WorkerQueue,
    count: usize,
) -> &'a mut Pipeline {
    let read = commands.cmd("XREADGROUP").arg("GROUP").arg(keys::GROUP).arg(queue.worker());
    read.arg("COUNT").arg(count)
}
