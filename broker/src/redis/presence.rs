//! How a worker publishes its liveness, and queries the liveness of other programs.

use std::sync::Arc;

use parking_lot::Mutex;
use redis::{Pipeline, aio::ConnectionLike};
use tokio::time::Instant;

use super::{
    announcement::StoredAnnouncement, connections::Connections, denials, errors::broker_error,
    keys, values::milliseconds,
};
use crate::{Announcement, BrokerError, GatewayId, roles::LIVENESS};

/// The liveness of one worker, and its knowledge of the liveness of other programs.
pub(super) struct WorkerPresence {
    connections: Arc<Connections>,
    worker: String,
    grace: Mutex<GracePeriod>,
    places: Mutex<Places>,
}

/// Where a worker announces itself, which depends on its rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Places {
    /// In the hash of its queue, and in that of all models for gateways of earlier versions.
    #[default]
    Both,
    /// In the hash of its queue: this user is one of a single model.
    Own,
    /// In the hash of all models: these rights are those of an earlier version.
    Shared,
}

impl Places {
    /// What to try if Redis denies this.
    const fn next(self) -> Option<Self> {
        match self {
            Self::Both => Some(Self::Own),
            Self::Own => Some(Self::Shared),
            Self::Shared => None,
        }
    }
}

impl WorkerPresence {
    pub(super) fn new(connections: Arc<Connections>, worker: String) -> Self {
        Self { connections, worker, grace: Mutex::default(), places: Mutex::default() }
    }

    /// Renews the announcement and the liveness key.
    pub(super) async fn renew(&self, announcement: &Announcement) -> Result<(), BrokerError> {
        let renewed = self.try_renew(announcement).await;
        if renewed.is_err() {
            self.grace.lock().begin();
        }
        renewed
    }

    async fn try_renew(&self, announcement: &Announcement) -> Result<(), BrokerError> {
        let mut connection = self.connections.pool.get().await?;
        let time = redis::cmd("TIME").query_async(&mut *connection).await.map_err(broker_error)?;
        let stored = StoredAnnouncement::json(announcement, milliseconds(time))?;
        let (live, life) = (keys::live(&self.worker), LIVENESS.as_secs() * 1000);
        let queue = &announcement.model.queue;
        let renewed = loop {
            let places = *self.places.lock();
            let mut renew = Pipeline::new();
            renew.atomic().pset_ex(&live, 1, life);
            if places != Places::Shared {
                renew.hset(keys::announcements(queue), &self.worker, &stored);
                renew.sadd(keys::QUEUES, queue.to_string());
            }
            if places != Places::Own {
                renew.hset(keys::WORKERS, &self.worker, &stored);
            }
            let renewed = renew.exec_async(&mut *connection).await;
            match (&renewed, places.next()) {
                (Err(error), Some(next)) if denials::is_of_permission(error) => {
                    *self.places.lock() = next;
                }
                _ => break renewed.map_err(broker_error),
            }
        };
        if !matches!(renewed, Err(BrokerError::Full)) {
            return renewed;
        }
        // A full Redis stores nothing, but still extends the expiry of keys. This worker must not
        // look dead while the queue is full.
        let mut prolong = redis::cmd("PEXPIRE");
        prolong.arg(live).arg(life);
        let prolonged = prolong.query_async(&mut *connection).await.map_err(broker_error)?;
        if prolonged { Ok(()) } else { renewed }
    }

    /// Deletes the liveness key.
    pub(super) async fn retire(&self) -> Result<(), BrokerError> {
        let mut connection = self.connections.pool.get().await?;
        redis::cmd("DEL")
            .arg(keys::live(&self.worker))
            .exec_async(&mut *connection)
            .await
            .map_err(broker_error)
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
