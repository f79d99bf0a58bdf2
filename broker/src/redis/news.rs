//! What is new in the fleet, for gateways, which look several times a second.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::Duration,
};

use redis::{Pipeline, Value, aio::ConnectionLike};

use super::{
    announcements::{MOST_DEAD, MOST_QUEUES, accept},
    beats::{self, Beat},
    denials,
    errors::{broker_error, unreadable},
    keys, liveness, promise,
    values::{milliseconds, parse},
};
use crate::{
    Announcement, BrokerError, FleetSnapshot, ObservedWorker, QueueName, roles::REMEMBERED,
};

/// How long beats that were read are current, in milliseconds.
const CURRENT: u64 = 1000;
/// One of so many reads is left to [`Observer::fleet`](crate::Observer::fleet), which also removes
/// what nothing needs any longer.
const CLEANED: u32 = 300;

/// What one observer has read so far.
#[derive(Default)]
pub(super) struct Known {
    /// By worker: revision and announcement.
    announcements: HashMap<String, (u64, Announcement)>,
    /// The look before the last read; `None` if there was no read.
    last: Option<Look>,
    /// When the first living worker counts as dead without another beat.
    until: u128,
    reads: u32,
}

/// What changes with the fleet.
pub(super) struct Look {
    /// Redis's clock in milliseconds.
    at: u64,
    epoch: Option<String>,
    changes: Option<String>,
}

/// The beats of one queue.
struct Beats {
    queue: QueueName,
    of: HashMap<String, Beat>,
}

impl Known {
    /// Looks whether the last read is still current; `None` if it is.
    pub(super) async fn look(
        &self,
        connection: &mut impl ConnectionLike,
    ) -> Result<Option<Look>, BrokerError> {
        let answers: Vec<Value> = Pipeline::new()
            .cmd("TIME")
            .get(keys::EPOCH)
            .get(keys::CHANGES)
            .ignore_errors()
            .query_async(connection)
            .await
            .map_err(broker_error)?;
        let mut answers = answers.into_iter();
        let at = milliseconds(parse(answers.next()).map_err(broker_error)?);
        let epoch = parse(answers.next()).map_err(broker_error)?;
        // The rights of an earlier version do not include the counter.
        let Ok(changes) = parse(answers.next()) else {
            return Ok(Some(Look { at, epoch, changes: None }));
        };
        let look = Look { at, epoch, changes };
        let is_current = self.last.as_ref().is_some_and(|last| {
            (last.at..last.at.saturating_add(CURRENT)).contains(&at)
                && u128::from(at) < self.until
                && (&last.epoch, &last.changes) == (&look.epoch, &look.changes)
        });
        Ok((!is_current).then_some(look))
    }

    /// Reads all beats, and the announcements that are new. `None` if this does not tell everything:
    /// workers of earlier versions have no beats, and the rights of earlier versions do not include
    /// them.
    pub(super) async fn read(
        &mut self,
        connection: &mut impl ConnectionLike,
        look: &Look,
    ) -> Result<Option<FleetSnapshot>, BrokerError> {
        self.until = u128::MAX;
        self.reads = self.reads.wrapping_add(1);
        if self.reads.is_multiple_of(CLEANED) {
            return Ok(None);
        }
        let read = Pipeline::new()
            .smembers(keys::QUEUES)
            .hgetall(keys::PROMISES)
            .hlen(keys::WORKERS)
            .query_async(connection)
            .await;
        let (queues, promises, shared): (Vec<String>, HashMap<String, String>, usize) = match read {
            Err(error) if denials::is_of_permission(&error) => return Ok(None),
            read => read.map_err(broker_error)?,
        };
        let Some(all) = read_beats(connection, &queues, shared).await? else { return Ok(None) };
        let workers = self.workers(connection, all, look).await?;
        Ok(Some(FleetSnapshot { workers, promises: promise::read(&promises, look.at) }))
    }

    /// Records that the fleet was read after this look.
    pub(super) fn has_read(&mut self, look: Look) {
        self.last = Some(look);
    }

    /// The living workers, and the latest of those that are gone.
    async fn workers(
        &mut self,
        connection: &mut impl ConnectionLike,
        all: Vec<Beats>,
        look: &Look,
    ) -> Result<Vec<ObservedWorker>, BrokerError> {
        let now = look.at;
        let living = |beat: &Beat| beat.is_live(now);
        let ends = all.iter().flat_map(|beats| beats.of.values()).filter(|beat| living(beat));
        self.until = ends.map(|beat| beat.ends()).min().unwrap_or(u128::MAX);
        let dead = latest_dead(&all, now);
        // A full Redis stores no beats, but liveness keys live on.
        let silent: Vec<String> = dead
            .iter()
            .filter(|(_, beat)| !beat.has_left)
            .map(|(worker, _)| (*worker).clone())
            .collect();
        let live = liveness::of_workers(connection, &silent, look.epoch.as_ref()).await?;
        let silent_but_live: HashSet<String> = silent
            .into_iter()
            .zip(live)
            .filter(|(_, live)| *live)
            .map(|(worker, _)| worker)
            .collect();
        let dead: HashSet<String> = dead.into_iter().map(|(worker, _)| worker.clone()).collect();
        let mut observed = Vec::new();
        let mut announcements = HashMap::new();
        for Beats { queue, of } in all {
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
            found.extend(read_announcements(connection, &queue, missing).await?);
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

/// Reads the beats of all queues. `None` if a worker without a beat is announced.
async fn read_beats(
    connection: &mut impl ConnectionLike,
    queues: &[String],
    shared: usize,
) -> Result<Option<Vec<Beats>>, BrokerError> {
    let queues: Vec<QueueName> =
        queues.iter().filter_map(|queue| QueueName::parse(queue)).take(MOST_QUEUES).collect();
    let mut questions = Pipeline::new();
    for queue in &queues {
        questions.hgetall(keys::beats(queue)).hlen(keys::announcements(queue));
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
        all.push(Beats { queue, of });
    }
    let is_shared = |beat: &&Beat| beat.is_shared;
    let known = all.iter().flat_map(|beats| beats.of.values()).filter(is_shared).count();
    Ok((known >= shared).then_some(all))
}

/// Of the workers that are gone since less than an hour the latest: they cost memory, and nothing
/// removes them for an hour.
fn latest_dead(all: &[Beats], now: u64) -> Vec<(&String, Beat)> {
    let is_known = |beat: &Beat| Duration::from_millis(now.saturating_sub(beat.seen)) < REMEMBERED;
    let all = all.iter().flat_map(|beats| &beats.of).map(|(worker, beat)| (worker, *beat));
    let mut dead: Vec<_> = all.filter(|(_, beat)| !beat.is_live(now) && is_known(beat)).collect();
    dead.sort_unstable_by_key(|(_, beat)| Reverse(beat.seen));
    dead.truncate(MOST_DEAD);
    dead
}

/// Reads the announcements of these workers. Leaves out junk.
async fn read_announcements(
    connection: &mut impl ConnectionLike,
    queue: &QueueName,
    workers: Vec<(String, Beat)>,
) -> Result<Vec<(String, Beat, Announcement)>, BrokerError> {
    if workers.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&String> = workers.iter().map(|(worker, _)| worker).collect();
    let mut get = redis::cmd("HMGET");
    get.arg(keys::announcements(queue)).arg(names);
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
