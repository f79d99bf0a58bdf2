//! How a worker publishes its liveness, and queries the liveness of other programs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Pipeline, Value, aio::ConnectionLike};
use tokio::time::Instant;

use super::{
    announcement::StoredAnnouncement,
    beats::Beat,
    clock::RedisClock,
    connections::Connections,
    denials,
    errors::broker_error,
    keys,
    values::{milliseconds, parse},
};
use crate::{Announcement, BrokerError, GatewayId, QueueName, roles::LIVENESS};

/// After this time gateways read an announcement again even if little has changed in it.
const OLD: Duration = Duration::from_secs(30);

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
    /// The revision of this announcement: another one if it differs from the last or the last is old.
    fn number(&mut self, announcement: &Announcement) -> u64 {
        let is_known = self
            .last
            .as_ref()
            .is_some_and(|(last, at)| at.elapsed() < OLD && last.says_the_same_as(announcement));
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

    /// Renews the announcement and the liveness key.
    pub(super) async fn renew(&self, announcement: &Announcement) -> Result<(), BrokerError> {
        let renewed = self.try_renew(announcement).await;
        if renewed.is_err() {
            self.grace.lock().begin();
            *self.written.lock() = None;
            self.clock.forget();
        }
        renewed
    }

    async fn try_renew(&self, announcement: &Announcement) -> Result<(), BrokerError> {
        let mut connection = self.connections.pool.get().await?;
        let seen = self.clock.read(&mut *connection).await?;
        let revision = self.revised.lock().number(announcement);
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
            let renewal = self.renewal(places, beat, queue, is_whole.then_some(announcement))?;
            match renewal.query_async::<Vec<Value>>(&mut *connection).await {
                Err(error) if denials::is_of_permission(&error) => {
                    self.place.store(place + 1, Relaxed);
                }
                Err(error) => break broker_error(error),
                Ok(answers) => {
                    let mut answers = answers.into_iter();
                    self.clock.set(milliseconds(parse(answers.next()).map_err(broker_error)?));
                    let is_first: Option<bool> = parse(answers.next()).map_err(broker_error)?;
                    is_new |= is_first == Some(true);
                    if places.beats {
                        *self.beat.lock() = Some((keys::beats(queue), beat));
                    }
                    if is_whole {
                        *self.written.lock() = Some((revision, Instant::now()));
                    } else if is_new {
                        // Redis has lost the beat, and with it the announcement.
                        *self.written.lock() = None;
                        continue;
                    }
                    return if is_new { count_change(&mut *connection).await } else { Ok(()) };
                }
            }
        };
        if !matches!(failure, BrokerError::Full) {
            return Err(failure);
        }
        // A full Redis stores nothing, but still extends the expiry of keys. This worker must not
        // look dead while the queue is full.
        let mut prolong = redis::cmd("PEXPIRE");
        prolong.arg(keys::live(&self.worker)).arg(LIFE);
        let prolonged = prolong.query_async(&mut *connection).await.map_err(broker_error)?;
        if prolonged { Ok(()) } else { Err(failure) }
    }

    /// Whether this revision of the announcement need not be written again yet.
    fn is_written(&self, revision: u64) -> bool {
        let written = *self.written.lock();
        written.is_some_and(|(written, at)| written == revision && at.elapsed() < REWRITTEN)
    }

    /// The commands of a renewal, with or without the announcement. Their answers are Redis's clock,
    /// and with a beat, whether it is the first.
    fn renewal(
        &self,
        places: Places,
        beat: Beat,
        queue: &QueueName,
        announcement: Option<&Announcement>,
    ) -> Result<Pipeline, BrokerError> {
        let mut renew = Pipeline::new();
        renew.atomic().cmd("TIME").pset_ex(keys::live(&self.worker), 1, LIFE).ignore();
        if let Some(announcement) = announcement {
            let stored = StoredAnnouncement::json(announcement, beat.seen)?;
            if places.own {
                renew.hset(keys::announcements(queue), &self.worker, &stored).ignore();
                renew.sadd(keys::QUEUES, queue.to_string()).ignore();
            }
            if places.shared {
                renew.hset(keys::WORKERS, &self.worker, &stored).ignore();
            }
        }
        if places.beats {
            renew.hset(keys::beats(queue), &self.worker, beat.text());
        }
        Ok(renew)
    }

    /// Deletes the liveness key, and tells gateways that this worker has left.
    pub(super) async fn retire(&self) -> Result<(), BrokerError> {
        let mut connection = self.connections.pool.get().await?;
        let mut retire = Pipeline::new();
        retire.del(keys::live(&self.worker)).ignore();
        let beat = self.beat.lock().take();
        if let Some((key, beat)) = &beat {
            retire.hset(key, &self.worker, Beat { has_left: true, ..*beat }.text()).ignore();
        }
        retire.exec_async(&mut *connection).await.map_err(broker_error)?;
        if beat.is_some() { count_change(&mut *connection).await } else { Ok(()) }
    }

    /// Returns for each liveness key whether its worker or gateway is alive. Returns `None` during
    /// the liveness grace period, in which a missing key proves nothing.
    pub(super) async fn alive(
        &self,
        connection: &mut impl ConnectionLike,
        mut keys: Vec<String>,
    ) -> Result<Option<Vec<bool>>, BrokerError> {
        keys.push(keys::EPOCH.to_owned());
        let mut values: Vec<Option<String>> =
            redis::cmd("MGET").arg(keys).query_async(connection).await.map_err(broker_error)?;
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
        let keys = gateways.iter().copied().map(keys::gateway);
        let alive = self.alive(&mut connection, keys.collect()).await?;
        Ok(alive.unwrap_or_else(|| vec![true; gateways.len()]))
    }
}

/// Makes gateways look at the beats at once.
async fn count_change(connection: &mut impl ConnectionLike) -> Result<(), BrokerError> {
    let mut count = redis::cmd("INCR");
    match count.arg(keys::CHANGES).exec_async(connection).await {
        Err(error) if denials::is_of_permission(&error) => Ok(()),
        counted => match counted.map_err(broker_error) {
            Err(BrokerError::Full) => Ok(()),
            counted => counted,
        },
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
