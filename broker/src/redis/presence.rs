//! How a worker publishes its liveness, and queries the liveness of other programs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Pipeline, RedisError, Value, aio::ConnectionLike};
use tokio::time::Instant;

use super::{
    announcement::StoredAnnouncement,
    beats::Beat,
    clock::RedisClock,
    connections::Connections,
    denials,
    errors::broker_error,
    glance::Glance,
    liveness::LEFT,
    queue::WorkerQueue,
    values::{milliseconds, parse},
};
use crate::{Announcement, BrokerError, GatewayId, QueueName, roles::LIVENESS};

/// After this time gateways read an announcement again even if little has changed in it.
const OLD: Duration = Duration::from_secs(30);

/// In large fleets this time grows by so much for each worker, so that a gateway reads at most a few
/// such announcements a second.
const OLD_PER_WORKER: Duration = Duration::from_millis(150);

/// After this time an announcement is written again even if only measurements have changed in it. In
/// between, a beat shows that the worker lives.
const REWRITTEN: Duration = Duration::from_secs(5);

/// How long the liveness key lives, in milliseconds.
const LIFE: u64 = LIVENESS.as_secs() * 1000;

/// The liveness of one worker, and its knowledge of the liveness of other programs.
pub(super) struct WorkerPresence {
    connections: Arc<Connections>,
    worker: String,
    grace: Mutex<GracePeriod>,
    /// The place in [`PLACES`].
    place: AtomicUsize,
    revised: Mutex<Revised>,
    /// The revision of the announcement that was last written, and when; `None` if Redis may have
    /// none.
    written: Mutex<Option<(u64, Instant)>>,
    clock: RedisClock,
    /// The last beat and the hash that holds it.
    beat: Mutex<Option<(String, Beat)>>,
}

/// Where a worker announces itself, which depends on its rights.
#[derive(Clone, Copy, Debug)]
struct Places {
    /// In the hash of its queue.
    own: bool,
    /// In the hash of all models, for gateways of earlier versions.
    shared: bool,
    /// With a beat.
    beats: bool,
}

/// What a worker tries in turn while Redis denies it: users of a single model may not write to the
/// hash of all models, and the rights of earlier versions include neither beats nor the hash of a
/// queue.
const PLACES: [Places; 5] = [
    Places { own: true, shared: true, beats: true },
    Places { own: true, shared: false, beats: true },
    Places { own: true, shared: true, beats: false },
    Places { own: true, shared: false, beats: false },
    Places { own: false, shared: true, beats: false },
];

/// The last announcement that got a revision of its own.
#[derive(Default)]
struct Revised {
    number: u64,
    last: Option<(Announcement, Instant)>,
}

impl Revised {
    /// The revision of this announcement: another one if it differs from the last or the last is old,
    /// which depends on the number of workers.
    fn number(&mut self, announcement: &Announcement, workers: usize) -> u64 {
        let old =
            OLD_PER_WORKER.saturating_mul(u32::try_from(workers).unwrap_or(u32::MAX)).max(OLD);
        let is_known = self
            .last
            .as_ref()
            .is_some_and(|(last, at)| at.elapsed() < old && last.says_the_same_as(announcement));
        if !is_known {
            self.number += 1;
            self.last = Some((announcement.clone(), Instant::now()));
        }
        self.number
    }
}

impl WorkerPresence {
    pub(super) fn new(connections: Arc<Connections>, worker: String) -> Self {
        Self {
            connections,
            worker,
            grace: Mutex::default(),
            place: AtomicUsize::default(),
            revised: Mutex::default(),
            written: Mutex::default(),
            clock: RedisClock::default(),
            beat: Mutex::default(),
        }
    }

    /// Renews the announcement and the liveness key. If `asks`, returns the answers to the questions of a
    /// [`Glance`], unless Redis is full.
    pub(super) async fn renew(
        &self,
        announcement: &Announcement,
        queue: &WorkerQueue,
        asks: bool,
    ) -> Result<Option<Vec<Value>>, BrokerError> {
        let renewed = self.try_renew(announcement, queue, asks).await;
        if renewed.is_err() {
            self.grace.lock().begin();
            *self.written.lock() = None;
            self.clock.forget();
        }
        renewed
    }

    async fn try_renew(
        &self,
        announcement: &Announcement,
        worker_queue: &WorkerQueue,
        asks: bool,
    ) -> Result<Option<Vec<Value>>, BrokerError> {
        let mut connection = self.connections.pool.get().await?;
        let seen = self.clock.read(&mut *connection).await?;
        let workers = worker_queue.workers().get().unwrap_or_default();
        let revision = self.revised.lock().number(announcement, workers);
        let queue = &announcement.model.queue;
        let mut is_new = false;
        let failure = loop {
            let place = self.place.load(Relaxed);
            let Some(&places) = PLACES.get(place) else {
                // Begins anew at the next renewal, because rights may have changed.
                self.place.store(0, Relaxed);
                return Err(BrokerError::denied("Redis lets this worker announce itself nowhere"));
            };
            let beat = Beat { seen, revision, is_shared: places.shared, has_left: false };
            let is_whole = !places.beats || !self.is_written(revision);
            let mut renewal =
                self.renewal(places, beat, queue, is_whole.then_some(announcement))?;
            let own = renewal.cmd_iter().count();
            if asks {
                Glance::ask(&mut renewal, worker_queue);
            }
            let asked = renewal.ignore_errors().query_async::<Vec<Value>>(&mut *connection).await;
            let renewed = asked.and_then(|mut answers| {
                let glance = answers.split_off(own.min(answers.len()));
                let own: Result<Vec<Value>, RedisError> =
                    answers.into_iter().map(Value::extract_error).collect();
                Ok((own?, glance))
            });
            match renewed {
                Err(error) if denials::is_of_permission(&error) => {
                    self.place.store(place + 1, Relaxed);
                }
                Err(error) => break broker_error(error),
                Ok((own, glance)) => {
                    let mut own = own.into_iter();
                    self.clock.set(milliseconds(parse(own.next()).map_err(broker_error)?));
                    if places.beats {
                        let added: u64 = parse(own.next_back()).map_err(broker_error)?;
                        is_new |= added > 0;
                        *self.beat.lock() = Some((self.connections.keys.beats(queue), beat));
                    }
                    if is_whole {
                        *self.written.lock() = Some((revision, Instant::now()));
                    } else if is_new {
                        // Redis has lost the beat, and with it the announcement.
                        *self.written.lock() = None;
                        continue;
                    }
                    if is_new {
                        self.count_change(&mut *connection).await?;
                    }
                    return Ok(asks.then_some(glance));
                }
            }
        };
        if matches!(failure, BrokerError::Full) && self.prolong(&mut *connection).await? {
            return Ok(None);
        }
        Err(failure)
    }

    /// Extends the expiry of the liveness key, which a full Redis still does: it stores nothing, and
    /// this worker must not look dead meanwhile. Returns whether there is such a key.
    async fn prolong(&self, connection: &mut impl ConnectionLike) -> Result<bool, BrokerError> {
        let mut prolong = redis::cmd("PEXPIRE");
        prolong.arg(self.connections.keys.live(&self.worker)).arg(LIFE);
        prolong.query_async(connection).await.map_err(broker_error)
    }

    /// Whether this revision of the announcement need not be written again yet.
    fn is_written(&self, revision: u64) -> bool {
        let written = *self.written.lock();
        written.is_some_and(|(written, at)| written == revision && at.elapsed() < REWRITTEN)
    }

    /// The commands of a renewal, with or without the announcement. The first answer is Redis's clock,
    /// and with a beat, the last one is 1 if it is the first beat. Not atomic, because each command
    /// helps on its own; the beat follows the announcement whose revision it names.
    fn renewal(
        &self,
        places: Places,
        beat: Beat,
        queue: &QueueName,
        announcement: Option<&Announcement>,
    ) -> Result<Pipeline, BrokerError> {
        let keys = self.connections.keys;
        let mut renew = Pipeline::new();
        renew.cmd("TIME").pset_ex(keys.live(&self.worker), 1, LIFE);
        if let Some(announcement) = announcement {
            let stored = StoredAnnouncement::json(announcement, beat.seen)?;
            if places.own {
                renew.hset(keys.announcements(queue), &self.worker, &stored);
                renew.sadd(keys.queues(), queue.to_string());
            }
            if places.shared {
                renew.hset(keys.workers(), &self.worker, &stored);
            }
        }
        if places.beats {
            renew.hset(keys.beats(queue), &self.worker, beat.text());
        }
        Ok(renew)
    }

    /// Renews the liveness key for the jobs that this worker holds, and tells gateways that it has left.
    pub(super) async fn leave(&self) -> Result<(), BrokerError> {
        let mut renewal = Pipeline::new();
        renewal.pset_ex(self.connections.keys.live(&self.worker), LEFT, LIFE).ignore();
        self.withdraw(renewal).await
    }

    /// Deletes the liveness key, and tells gateways that this worker has left.
    pub(super) async fn retire(&self) -> Result<(), BrokerError> {
        let mut removal = Pipeline::new();
        removal.del(self.connections.keys.live(&self.worker)).ignore();
        self.withdraw(removal).await
    }

    /// Runs commands, and tells gateways once that this worker has left.
    async fn withdraw(&self, mut commands: Pipeline) -> Result<(), BrokerError> {
        let mut connection = self.connections.pool.get().await?;
        let beat = self.beat.lock().take();
        if let Some((key, beat)) = &beat {
            commands.hset(key, &self.worker, Beat { has_left: true, ..*beat }.text()).ignore();
        }
        commands.exec_async(&mut *connection).await.map_err(broker_error)?;
        if beat.is_some() { self.count_change(&mut *connection).await } else { Ok(()) }
    }

    /// Returns for each liveness key whether its worker or gateway is alive. Returns `None` during
    /// the liveness grace period, in which a missing key proves nothing.
    pub(super) async fn alive(
        &self,
        connection: &mut impl ConnectionLike,
        mut names: Vec<String>,
    ) -> Result<Option<Vec<bool>>, BrokerError> {
        names.push(self.connections.keys.epoch());
        let mut values: Vec<Option<String>> =
            redis::cmd("MGET").arg(names).query_async(connection).await.map_err(broker_error)?;
        let epoch = values.pop().flatten();
        Ok(self.trusts(epoch).then(|| values.iter().map(Option::is_some).collect()))
    }

    /// Whether a missing liveness key proves that a program is dead: not during the liveness grace
    /// period. `epoch` is the present epoch.
    pub(super) fn trusts(&self, epoch: Option<String>) -> bool {
        let over = self.grace.lock().is_over(epoch);
        over && self.connections.link.up_for() >= LIVENESS
    }

    /// Returns for each gateway whether it is alive; `true` for all during the liveness grace
    /// period.
    pub(super) async fn gateways_alive(
        &self,
        gateways: &[GatewayId],
    ) -> Result<Vec<bool>, BrokerError> {
        let mut connection = self.connections.link.connection().await?;
        let keys = self.connections.keys;
        let names = gateways.iter().map(|gateway| keys.gateway(*gateway)).collect();
        let alive = self.alive(&mut connection, names).await?;
        Ok(alive.unwrap_or_else(|| vec![true; gateways.len()]))
    }

    /// Makes gateways look at the beats at once.
    async fn count_change(&self, connection: &mut impl ConnectionLike) -> Result<(), BrokerError> {
        let mut count = redis::cmd("INCR");
        match count.arg(self.connections.keys.changes()).exec_async(connection).await {
            Err(error) if denials::is_of_permission(&error) => Ok(()),
            counted => match counted.map_err(broker_error) {
                Err(BrokerError::Full) => Ok(()),
                counted => counted,
            },
        }
    }
}

/// The liveness grace period: [`LIVENESS`] after Redis lost its data or refused renewals, in which
/// live programs renew their keys.
#[derive(Default)]
struct GracePeriod {
    /// The last epoch that was read.
    epoch: Option<String>,
    begun: Option<Instant>,
}

impl GracePeriod {
    /// Begins after a failed renewal of this worker, because other renewals may have failed too.
    fn begin(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// Compares the epoch with the last epoch. Returns whether no grace period is running. The
    /// first epoch begins no grace period, because the age of the connection is checked instead.
    fn is_over(&mut self, epoch: Option<String>) -> bool {
        if self.epoch.is_some() && self.epoch != epoch {
            self.begin();
        }
        self.epoch = epoch;
        self.begun.is_none_or(|begun| begun.elapsed() >= LIVENESS)
    }
}
