//! The roll of a queue: what one worker finds out about all workers, for all of them.
//!
//! To find out which workers live costs Redis time in proportion to their number. If each worker did
//! so every second, the cost would grow with the square of their number. So one worker takes the turn
//! for a second, looks, and leaves the result under a key. Workers of earlier versions look for
//! themselves.

use std::time::Duration;

use parking_lot::Mutex;
use redis::{Pipeline, Value, aio::ConnectionLike};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{errors::broker_error, findings, keys::Keys, values::parse};
use crate::{BrokerError, QueueName};

/// How long a worker keeps the turn, in milliseconds.
const TURN: u64 = 1000;
/// How long a roll is true, in milliseconds.
const TRUE_FOR: u64 = 3000;

/// How long a number of workers that one role of a worker has read is used by another role.
const USED_FOR: Duration = Duration::from_secs(2);

/// What the last look found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roll {
    /// The number of living workers of the queue.
    pub(super) workers: usize,
    /// The names of dead workers that hold entries.
    #[serde(default)]
    pub(super) dead: Vec<String>,
    /// Whether an entry has been held for longer than the lease.
    #[serde(default)]
    pub(super) overdue: bool,
}

/// The number of workers in the roll that this worker last read, which saves its other roles a read.
#[derive(Default)]
pub(super) struct LastCount(Mutex<Option<(usize, Instant)>>);

impl LastCount {
    /// Keeps the number of a roll that was just read; forgets it if there is no roll.
    pub(super) fn set(&self, roll: Option<&Roll>) {
        *self.0.lock() = roll.map(|roll| (roll.workers, Instant::now()));
    }

    /// The number, if it was read lately.
    pub(super) fn get(&self) -> Option<usize> {
        let (workers, read) = (*self.0.lock())?;
        (read.elapsed() < USED_FOR).then_some(workers)
    }
}

/// Adds the commands that take the turn, if it is free, and tell whose it is.
pub(super) fn take_turn(keys: Keys, commands: &mut Pipeline, queue: &QueueName, worker: &str) {
    let turn = keys.turn(queue);
    commands.cmd("SET").arg(&turn).arg(worker).arg("NX").arg("PX").arg(TURN);
    commands.get(turn);
}

/// Whether it is this worker's turn, by the answers to [`take_turn`]. A worker without the right to
/// take turns looks for itself.
pub(super) fn is_turn_of(worker: &str, taken: Option<Value>, owner: Option<Value>) -> bool {
    match (parse::<Value>(taken), parse::<Option<String>>(owner)) {
        (Ok(_), Ok(owner)) => owner.is_none_or(|owner| owner == worker),
        _ => true,
    }
}

/// The roll in an answer to `GET`; `None` if there is none that this worker can read.
pub(super) fn read(answer: Option<Value>) -> Option<Roll> {
    findings::read(answer)
}

/// The number of living workers in the roll of a queue; 0 without a roll, which workers leave every
/// second.
pub(super) async fn living(
    keys: Keys,
    connection: &mut impl ConnectionLike,
    queue: &QueueName,
) -> Result<usize, BrokerError> {
    let mut get = redis::cmd("GET");
    let roll: Value =
        get.arg(keys.roll(queue)).query_async(connection).await.map_err(broker_error)?;
    Ok(read(Some(roll)).map_or(0, |roll| roll.workers))
}

/// Leaves a roll for the other workers.
pub(super) async fn write(
    keys: Keys,
    connection: &mut impl ConnectionLike,
    queue: &QueueName,
    roll: &Roll,
) -> Result<(), BrokerError> {
    findings::leave(connection, &keys.roll(queue), roll, TRUE_FOR).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_that_of_its_owner_or_of_all_who_may_not_take_turns() {
        let owner = |name: &str| Some(Value::BulkString(name.as_bytes().to_vec()));
        assert!(is_turn_of("me", Some(Value::Okay), owner("me")));
        assert!(is_turn_of("me", Some(Value::Nil), owner("me")));
        assert!(!is_turn_of("me", Some(Value::Nil), owner("other")));
        assert!(is_turn_of("me", Some(Value::Nil), Some(Value::Nil)), "it has just ended");
        assert!(is_turn_of("me", None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_workers_is_used_for_two_seconds() {
        let last = LastCount::default();
        assert_eq!(last.get(), None);
        last.set(Some(&Roll { workers: 3, ..Roll::default() }));
        tokio::time::advance(Duration::from_millis(1999)).await;
        assert_eq!(last.get(), Some(3));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(last.get(), None);
        last.set(Some(&Roll::default()));
        last.set(None);
        assert_eq!(last.get(), None);
    }

    #[test]
    fn a_roll_is_read_as_it_was_written_and_junk_is_none() {
        let roll = Roll { workers: 3, dead: vec!["w".to_owned()], overdue: true };
        let text = serde_json::to_string(&roll).unwrap();
        assert_eq!(read(Some(Value::BulkString(text.into_bytes()))), Some(roll));
        assert_eq!(read(Some(Value::BulkString(b"{".to_vec()))), None);
        assert_eq!(read(Some(Value::Nil)), None);
    }
}
