//! How a worker shows that it lives, and finds out which others do.

use std::sync::Arc;

use parking_lot::Mutex;
use redis::{Pipeline, aio::ConnectionLike};
use tokio::time::Instant;

use super::{
    announcement::StoredAnnouncement, connections::Connections, errors::broker_error, keys,
    values::milliseconds,
};
use crate::{Announcement, BrokerError, GatewayId, roles::LIVENESS};

/// The liveness of one worker, and what it knows of the liveness of others.
pub(super) struct WorkerPresence {
    connections: Arc<Connections>,
    worker: String,
    grace: Mutex<GracePeriod>,
}

impl WorkerPresence {
    pub(super) fn new(connections: Arc<Connections>, worker: String) -> Self {
        Self { connections, worker, grace: Mutex::default() }
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
        let renewed = Pipeline::new()
            .atomic()
            .hset(keys::WORKERS, &self.worker, stored)
            .pset_ex(&live, 1, life)
            .exec_async(&mut *connection)
            .await
            .map_err(broker_error);
        if !matches!(renewed, Err(BrokerError::Full)) {
            return renewed;
        }
        // A full Redis stores nothing, but still prolongs keys: this worker must not look dead just
        // when the queue is full.
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

    /// Which of these workers or gateways, by their liveness keys, live; `None` during the liveness
    /// grace period, in which a missing key proves nothing.
    pub(super) async fn alive(
        &self,
        connection: &mut impl ConnectionLike,
        mut keys: Vec<String>,
    ) -> Result<Option<Vec<bool>>, BrokerError> {
        keys.push(keys::EPOCH.to_owned());
        let mut values: Vec<Option<String>> =
            redis::cmd("MGET").arg(keys).query_async(connection).await.map_err(broker_error)?;
        let epoch = values.pop().flatten();
        let over = self.grace.lock().is_over(epoch);
        let connected = self.connections.link.up_for() >= LIVENESS;
        Ok((over && connected).then(|| values.iter().map(Option::is_some).collect()))
    }

    /// Which of these gateways live; during the liveness grace period all of them.
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

/// The liveness grace period: [`LIVENESS`] after Redis lost its data or took no renewals, in which
/// living programs renew their keys again.
#[derive(Default)]
struct GracePeriod {
    /// The epoch that was read last.
    epoch: Option<String>,
    begun: Option<Instant>,
}

impl GracePeriod {
    /// Begins when a renewal of this worker failed: those of others may have failed as well.
    fn begin(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// Compares the epoch with the last one; whether no grace period runs. The first epoch starts
    /// none: the age of the connection stands for it.
    fn is_over(&mut self, epoch: Option<String>) -> bool {
        if self.epoch.is_some() && self.epoch != epoch {
            self.begin();
        }
        self.epoch = epoch;
        self.begun.is_none_or(|begun| begun.elapsed() >= LIVENESS)
    }
}
