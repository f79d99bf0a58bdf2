//! Snapshots of all workers and all traffic in Redis, shared by all fleets.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{BrokerError, FleetSnapshot, Observer, TrafficReport};
use tokio::{sync::Mutex, time::Instant};

/// Time for which a snapshot is shared. The turns of all fleets start together at each tick, so one
/// snapshot serves all turns of a tick.
const SHARED: Duration = Duration::from_millis(500);

/// Workers, promises and traffic of all models.
#[derive(Clone, Debug)]
pub(crate) struct RedisSnapshot {
    /// Time at which the read began.
    pub(crate) at: Instant,
    /// Workers and promises.
    pub(crate) fleet: FleetSnapshot,
    /// The last traffic report of each gateway.
    pub(crate) traffic: Arc<[TrafficReport]>,
}

/// The result of the last read, and the time at which the read ended.
type LastRead = Option<(Instant, Result<Arc<RedisSnapshot>, BrokerError>)>;

/// Reads snapshots, at most one per [`SHARED`].
pub(crate) struct Snapshots {
    observer: Arc<dyn Observer>,
    last: Mutex<LastRead>,
}

impl Snapshots {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self { observer, last: Mutex::default() }
    }

    /// Returns the last snapshot while it is fresh, else reads a new one. Concurrent callers share
    /// one read and its error.
    pub(crate) async fn latest(&self) -> Result<Arc<RedisSnapshot>, BrokerError> {
        let mut last = self.last.lock().await;
        if let Some((ended, snapshot)) = last.as_ref()
            && ended.elapsed() < SHARED
        {
            return snapshot.clone();
        }
        let snapshot = self.read().await.map(Arc::new);
        *last = Some((Instant::now(), snapshot.clone()));
        snapshot
    }

    async fn read(&self) -> Result<RedisSnapshot, BrokerError> {
        let at = Instant::now();
        let fleet = self.observer.fleet().await?;
        let traffic = self.observer.traffic().await?.into();
        Ok(RedisSnapshot { at, fleet, traffic })
    }
}
