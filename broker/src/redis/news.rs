//! What is new in the fleet, for gateways, which look several times a second.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::Duration,
};

use redis::{Pipeline, Value, aio::ConnectionLike};
use tokio::time::Instant;

use super::{
    announcements::{MOST_DEAD, MOST_QUEUES, accept},
    beats::{self, Beat, QueueBeats},
    denials,
    errors::{broker_error, unreadable},
    keys::Keys,
    liveness,
    look::Look,
    promise, summary,
    values::parse,
};
use crate::{
    Announcement, BrokerError, FleetSnapshot, ObservedWorker, QueueName, roles::REMEMBERED,
};

/// How long beats that were read are current. A bit less than a second, so that a program that looks
/// five times a second does not read at every sixth look.
const CURRENT: Duration = Duration::from_millis(950);
/// One of so many reads is left to [`Observer::fleet`](crate::Observer::fleet), which also removes
/// what nothing needs any longer.
const CLEANED: u32 = 300;

/// What one observer has read so far.
#[derive(Default)]
pub(super) struct Known {
    keys: Keys,
    /// By worker: revision and announcement.
    announcements: HashMap<String, (u64, Announcement)>,
    /// The look before the last read, and when it was; `None` if there was no read.
    last: Option<(Look, Instant)>,
    /// When the first living worker counts as dead without another beat.
    until: u128,
    reads: u32,
}

/// What a look has found besides the state of the fleet, if a read was due anyway.
pub(super) struct Due {
    found: summary::Found,
    promises: HashMap<String, String>,
}

impl Known {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, ..Self::default() }
    }

    /// Adds the questions of a look. Returns whether a read is due, for which there are more questions.
    pub(super) fn ask(&self, commands: &mut Pipeline) -> bool {
        Look::ask(self.keys, commands);
        let is_due = self.last.as_ref().is_none_or(|(last, read)| {
            let elapsed = read.elapsed();
            let now = u128::from(last.at) + elapsed.as_millis();
            elapsed >= CURRENT || now >= self.until
        });
        if is_due {
            Due::ask(self.keys, commands);
        }
        is_due
    }

    /// Reads the answers to [`ask`](Self::ask). `None` if the last read is still current.
    pub(super) fn answered(
        &self,
        answers: &mut impl Iterator<Item = Value>,
        is_due: bool,
    ) -> Result<Option<(Look, Option<Due>)>, BrokerError> {
        let look = Look::read(answers)?;
        if is_due {
            let due = Due::read(answers)?;
            return Ok(Some((look, Some(due))));
        }
        let is_current = self.last.as_ref().is_some_and(|(last, _)| {
            last.at <= look.at
                && u128::from(look.at) < self.until
                && look.is_of(last.epoch.as_ref(), last.changes.as_ref())
        });
        Ok((!is_current).then_some((look, None)))
    }

    /// Reads all beats, or a summary of them, and the announcements that are new. `None` if this does
    /// not tell everything: workers of earlier versions have no beats, and the rights of earlier
    /// versions do not include them.
    pub(super) async fn read(
        &mut self,
        connection: &mut impl ConnectionLike,
        look: &Look,
        due: Option<Due>,
    ) -> Result<Option<FleetSnapshot>, BrokerError> {
        self.until = u128::MAX;
        self.reads = self.reads.wrapping_add(1);
        if self.reads.is_multiple_of(CLEANED) {
            return Ok(None);
        }
        let Due { found, promises } = match due {
            Some(due) => due,
            None => Due::look(self.keys, connection).await?,
        };
        let promises = promise::read(&promises, look.at);
        let is_turn = found.is_turn;
        if let Some(all) = found.beats(look) {
            let workers = self.workers(connection, all, &HashSet::new(), look).await?;
            return Ok(Some(FleetSnapshot { workers, promises }));
        }
        let Some(all) = read_beats(self.keys, connection).await? else {
            if is_turn {
                summary::write(self.keys, connection, None, look).await?;
            }
            return Ok(None);
        };
        let silent_but_live = silent_but_live(self.keys, connection, &all, look).await?;
        if is_turn {
            let told = Some(all.as_slice()).filter(|_| silent_but_live.is_empty());
            summary::write(self.keys, connection, told, look).await?;
        }
        let workers = self.workers(connection, all, &silent_but_live, look).await?;
        Ok(Some(FleetSnapshot { workers, promises }))
    }

    /// Records that the fleet was read after this look.
    pub(super) fn has_read(&mut self, look: Look) {
        self.last = Some((look, Instant::now()));
    }

    /// The living workers, and the latest of those that are gone.
    async fn workers(
        &mut self,
        connection: &mut impl ConnectionLike,
        all: Vec<QueueBeats>,
        silent_but_live: &HashSet<String>,
        look: &Look,
    ) -> Result<Vec<ObservedWorker>, BrokerError> {
        let living = |beat: &Beat| beat.is_live(look.at);
        let ends = all.iter().flat_map(|beats| beats.of.values()).filter(|beat| living(beat));
        self.until = ends.map(|beat| beat.ends()).min().unwrap_or(u128::MAX);
        let dead = latest_dead(&all, look.at).into_iter();
        let dead: HashSet<String> = dead.map(|(worker, _)| worker.clone()).collect();
        let mut observed = Vec::new();
        let mut announcements = HashMap::new();
        for QueueBeats { queue, of } in all {
            let (mut found, mut missing) = (Vec::new(), Vec::new());
            for (worker, beat) in of {
                if !living(&beat) && !dead.contains(&worker) {
                    continue;
                }
                match self.announcements.remove(&worker) {
                    Some((revision, known)) if revision == beat.revision => {
                        found.push((worker, beat, known));
                    }
                    _ => missing.push((worker, beat)),
                }
            }
            found.extend(read_announcements(self.keys, connection, &queue, missing).await?);
            for (worker, beat, announcement) in found {
                let live = living(&beat) || silent_but_live.contains(&worker);
                observed.push(ObservedWorker { announcement: announcement.clone(), live });
                announcements.insert(worker, (beat.revision, announcement));
            }
        }
        self.announcements = announcements;
        Ok(observed)
    }
}

impl Due {
    /// Adds the questions.
    fn ask(keys: Keys, commands: &mut Pipeline) {
        summary::ask(keys, commands);
        commands.hgetall(keys.promises());
    }

    /// Reads the answers to [`ask`](Self::ask).
    fn read(answers: &mut impl Iterator<Item = Value>) -> Result<Self, BrokerError> {
        let found = summary::Found::read(answers);
        let promises = parse(answers.next()).map_err(broker_error)?;
        Ok(Self { found, promises })
    }

    /// Asks, in a round trip of its own.
    async fn look(keys: Keys, connection: &mut impl ConnectionLike) -> Result<Self, BrokerError> {
        let mut commands = Pipeline::new();
        Self::ask(keys, &mut commands);
        let answers: Vec<Value> =
            commands.ignore_errors().query_async(connection).await.map_err(broker_error)?;
        Self::read(&mut answers.into_iter())
    }
}

/// The workers whose beats are old and that live nevertheless: a full Redis stores no beats, but
/// liveness keys live on.
async fn silent_but_live(
    keys: Keys,
    connection: &mut impl ConnectionLike,
    all: &[QueueBeats],
    look: &Look,
) -> Result<HashSet<String>, BrokerError> {
    let silent: Vec<String> = latest_dead(all, look.at)
        .into_iter()
        .filter(|(_, beat)| !beat.has_left)
        .map(|(worker, _)| worker.clone())
        .collect();
    let live = liveness::of_workers(keys, connection, &silent, look.epoch.as_ref()).await?;
    Ok(silent.into_iter().zip(live).filter(|(_, live)| *live).map(|(worker, _)| worker).collect())
}

/// Reads the beats of all queues. `None` if a worker without a beat is announced, or if this program
/// may not read them.
async fn read_beats(
    keys: Keys,
    connection: &mut impl ConnectionLike,
) -> Result<Option<Vec<QueueBeats>>, BrokerError> {
    let mut names = Pipeline::new();
    let read = names.smembers(keys.queues()).hlen(keys.workers()).query_async(connection).await;
    let (queues, shared): (Vec<String>, usize) = match read {
        Err(error) if denials::is_of_permission(&error) => return Ok(None),
        read => read.map_err(broker_error)?,
    };
    let queues: Vec<QueueName> =
        queues.iter().filter_map(|queue| QueueName::parse(queue)).take(MOST_QUEUES).collect();
    let mut questions = Pipeline::new();
    for queue in &queues {
        questions.hgetall(keys.beats(queue)).hlen(keys.announcements(queue));
    }
    if questions.is_empty() {
        return Ok((shared == 0).then(Vec::new));
    }
    let answers: Vec<Value> =
        questions.ignore_errors().query_async(connection).await.map_err(broker_error)?;
    let mut answers = answers.into_iter();
    let mut all = Vec::with_capacity(queues.len());
    for queue in queues {
        let beats = parse::<HashMap<String, String>>(answers.next());
        let announced = parse::<usize>(answers.next());
        let (Ok(beats), Ok(announced)) = (beats, announced) else { return Ok(None) };
        let of = beats::parse(beats);
        if of.len() < announced {
            return Ok(None);
        }
        all.push(QueueBeats { queue, of });
    }
    let is_shared = |beat: &&Beat| beat.is_shared;
    let known = all.iter().flat_map(|beats| beats.of.values()).filter(is_shared).count();
    Ok((known >= shared).then_some(all))
}

/// Of the workers that are gone since less than an hour the latest: they cost memory, and nothing
/// removes them for an hour.
fn latest_dead(all: &[QueueBeats], now: u64) -> Vec<(&String, Beat)> {
    let is_known = |beat: &Beat| Duration::from_millis(now.saturating_sub(beat.seen)) < REMEMBERED;
    let all = all.iter().flat_map(|beats| &beats.of).map(|(worker, beat)| (worker, *beat));
    let mut dead: Vec<_> = all.filter(|(_, beat)| !beat.is_live(now) && is_known(beat)).collect();
    dead.sort_unstable_by_key(|(_, beat)| Reverse(beat.seen));
    dead.truncate(MOST_DEAD);
    dead
}

/// Reads the announcements of these workers. Leaves out junk.
async fn read_announcements(
    keys: Keys,
    connection: &mut impl ConnectionLike,
    queue: &QueueName,
    workers: Vec<(String, Beat)>,
) -> Result<Vec<(String, Beat, Announcement)>, BrokerError> {
    if workers.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&String> = workers.iter().map(|(worker, _)| worker).collect();
    let mut get = redis::cmd("HMGET");
    get.arg(keys.announcements(queue)).arg(names);
    let stored: Vec<Option<String>> = get.query_async(connection).await.map_err(broker_error)?;
    if stored.len() != workers.len() {
        return Err(unreadable("HMGET"));
    }
    let read = workers.into_iter().zip(stored).filter_map(|((worker, beat), stored)| {
        let announcement = accept(&worker, Some(queue), &stored?).ok()?;
        Some((worker, beat, announcement))
    });
    Ok(read.collect())
}
