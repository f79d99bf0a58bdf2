//! What a worker asks every second: whether it looks for dead workers, what another worker has found,
//! and what it holds by Redis's account.
//!
//! The questions travel with the renewal of the worker, which saves Redis a round trip of each worker
//! in each second.

use std::time::Duration;

use parking_lot::Mutex;
use redis::{Pipeline, Value, aio::ConnectionLike};
use tokio::time::Instant;

use super::{
    entries::parse_id,
    errors::{broker_error, lost_queue},
    keys,
    pending::millis,
    queue::WorkerQueue,
    roll::{self, Roll},
    values::{milliseconds, parse},
};
use crate::{BrokerError, EntryId, Priority, roles::RECLAIM_AFTER};

/// How long the answers that came with a renewal are used. Workers renew every second.
const USED_FOR: Duration = Duration::from_millis(1500);

/// The answers.
pub(super) struct Glance {
    /// Whether this worker looks for all.
    pub(super) is_turn: bool,
    /// What another worker found.
    pub(super) roll: Option<Roll>,
    /// Redis's clock in milliseconds.
    pub(super) clock: u64,
    pub(super) epoch: Option<String>,
    /// The oldest entry that this worker holds in each class, by Redis's account.
    pub(super) oldest: Vec<EntryId>,
}

/// The answers that came with the last renewal, for one use.
#[derive(Default)]
pub(super) struct LastGlance {
    answers: Mutex<Option<(Glance, Instant)>>,
    wanted: Mutex<Option<Instant>>,
}

impl LastGlance {
    /// Whether the next renewal reads the answers as well. A worker reads them only while it uses them,
    /// because a worker that reads them also takes the turn to look for dead workers.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.lock().is_some_and(|wanted| wanted.elapsed() < USED_FOR)
    }

    pub(super) fn set(&self, glance: Option<Glance>) {
        *self.answers.lock() = glance.map(|glance| (glance, Instant::now()));
    }

    /// Takes the answers, if they are recent.
    pub(super) fn take(&self) -> Option<Glance> {
        *self.wanted.lock() = Some(Instant::now());
        let (glance, at) = self.answers.lock().take()?;
        (at.elapsed() < USED_FOR).then_some(glance)
    }
}

impl Glance {
    /// Adds the questions.
    pub(super) fn ask(commands: &mut Pipeline, queue: &WorkerQueue) {
        let keys = queue.keys();
        roll::take_turn(keys, commands, queue.name(), queue.worker());
        commands.get(keys.roll(queue.name())).cmd("TIME").get(keys.epoch());
        for stream in queue.streams() {
            // An entry that Redis has just given to a claim is not known here yet.
            let pending = commands.cmd("XPENDING").arg(stream).arg(keys::GROUP);
            let pending = pending.arg("IDLE").arg(millis(RECLAIM_AFTER));
            pending.arg("-").arg("+").arg(1).arg(queue.worker());
        }
    }

    /// Reads the answers to [`ask`](Self::ask).
    pub(super) fn read(
        mut answers: impl Iterator<Item = Value>,
        queue: &WorkerQueue,
    ) -> Result<Self, BrokerError> {
        let is_turn = roll::is_turn_of(queue.worker(), answers.next(), answers.next());
        let roll = roll::read(answers.next());
        let clock = milliseconds(parse(answers.next()).map_err(broker_error)?);
        let epoch = parse(answers.next()).map_err(broker_error)?;
        let mut oldest = Vec::new();
        for (class, answer) in Priority::ALL.into_iter().zip(answers) {
            match parse::<Vec<(String, String, u64, u32)>>(Some(answer)) {
                Err(error) if lost_queue(&error) => {}
                rows => {
                    let rows = rows.map_err(broker_error)?;
                    oldest.extend(rows.into_iter().filter_map(|(id, ..)| parse_id(&id, class)));
                }
            }
        }
        Ok(Self { is_turn, roll, clock, epoch, oldest })
    }

    /// Asks in a round trip of its own.
    pub(super) async fn look(
        queue: &WorkerQueue,
        connection: &mut impl ConnectionLike,
    ) -> Result<Self, BrokerError> {
        let mut commands = Pipeline::new();
        Self::ask(&mut commands, queue);
        let answers: Vec<Value> =
            commands.ignore_errors().query_async(connection).await.map_err(broker_error)?;
        Self::read(answers.into_iter(), queue)
    }
}
