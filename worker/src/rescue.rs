//! Reclaims the jobs of dead workers.
//!
//! Each reclaimed job is quarantined, because it may have killed its worker. The broker counts
//! every claim of a job towards the poison limit. Quarantined jobs are therefore reclaimed one at a
//! time, right before they run alone: if the job kills the worker, no other job is charged with the
//! death.

use std::{panic, sync::Arc, time::Duration};

use batchfleet_broker::{BrokerError, Consumer, Delivery};
use parking_lot::Mutex;
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use crate::retry::Outage;

/// Interval between searches while no job is found.
const EVERY: Duration = Duration::from_secs(1);
/// Delay of the first search after no more jobs are found; doubles up to [`EVERY`]. A search also
/// finds nothing if another worker reclaims the same job first, although more jobs may remain.
const SOON: Duration = Duration::from_millis(100);
/// How long after a renewal of the announcement a search is due.
const AFTER_RENEWAL: Duration = Duration::from_millis(50);

/// When the worker last renewed its announcement.
#[derive(Clone, Default)]
pub(crate) struct LastRenewal(Arc<Mutex<Option<Instant>>>);

impl LastRenewal {
    /// The worker has just renewed its announcement.
    pub(crate) fn set(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// The time shortly after the next renewal, if `interval` passes between renewals.
    fn after_next(&self, interval: Duration) -> Option<Instant> {
        let next = (*self.0.lock())? + interval + AFTER_RENEWAL;
        (next > Instant::now()).then_some(next)
    }
}

/// Looks for jobs of dead workers.
///
/// A search takes several round trips to the broker. It runs in the background, so that the engine
/// does not wait for it.
pub(crate) struct Rescue {
    consumer: Arc<dyn Consumer>,
    renewal: LastRenewal,
    look_at: Instant,
    /// Delay of the next search if no job is found.
    pause: Duration,
    /// The search that runs.
    search: JoinSet<Result<bool, BrokerError>>,
    /// Whether a search has found a job that is not reclaimed yet.
    has_found: bool,
    outage: Outage,
}

impl Rescue {
    /// Schedules the first search after about a second.
    pub(crate) fn new(consumer: Arc<dyn Consumer>, renewal: LastRenewal) -> Self {
        Self {
            consumer,
            renewal,
            look_at: after(EVERY),
            pause: EVERY,
            search: JoinSet::new(),
            has_found: false,
            outage: Outage::new("reclaim jobs"),
        }
    }

    /// Whether a job can be reclaimed, by a search that has ended. Starts a search if one is due.
    pub(crate) fn has_found(&mut self) -> bool {
        if let Some(ended) = self.search.try_join_next() {
            self.ended(ended);
        }
        if !self.has_found && self.search.is_empty() && self.look_at <= Instant::now() {
            self.start();
        }
        self.has_found
    }

    /// Waits until a job can be reclaimed; cancel-safe.
    pub(crate) async fn found(&mut self) {
        while !self.has_found {
            if self.search.is_empty() {
                sleep_until(self.look_at).await;
                self.start();
            }
            if let Some(ended) = self.search.join_next().await {
                self.ended(ended);
            }
        }
    }

    /// Reclaims one job, if any is left. After a job is found, another may be reclaimed immediately.
    pub(crate) async fn next(&mut self) -> Option<Delivery> {
        match self.consumer.reclaim(1).await {
            Ok(found) => {
                self.outage.over();
                self.searched(!found.is_empty());
                found.into_iter().next()
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    fn start(&mut self) {
        let consumer = Arc::clone(&self.consumer);
        self.search.spawn(async move { consumer.can_reclaim().await });
    }

    /// Notes the result of a search.
    fn ended(&mut self, search: Result<Result<bool, BrokerError>, JoinError>) {
        match search {
            Ok(Ok(found)) => {
                self.outage.over();
                self.searched(found);
            }
            Ok(Err(error)) => self.failed(&error),
            Err(ended) => {
                if let Ok(panic) = ended.try_into_panic() {
                    panic::resume_unwind(panic);
                }
            }
        }
    }

    fn failed(&mut self, error: &BrokerError) {
        self.outage.failed(error);
        self.searched(false);
    }

    /// Schedules the next search.
    fn searched(&mut self, found: bool) {
        self.has_found = found;
        if found {
            self.pause = SOON;
        } else {
            self.look_at = self.next_look();
            self.pause = (self.pause * 2).min(EVERY);
        }
    }

    /// When to search again after a search without a job. The regular search follows the next renewal,
    /// because the broker answers a renewal with what the search needs to know, and dead workers are
    /// found the later, the older these answers are.
    fn next_look(&self) -> Instant {
        let renewal = self.renewal.after_next(EVERY).filter(|_| self.pause == EVERY);
        renewal.unwrap_or_else(|| after(self.pause))
    }
}

/// The time after `pause`, with 20 % jitter so that workers do not search simultaneously.
fn after(pause: Duration) -> Instant {
    Instant::now() + pause.mul_f64(rand::random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{Broker, QueueName, WorkerId, memory::MemoryBroker};
    use tokio::time::advance;

    use super::*;

    /// Time until the next search is due.
    fn wait(rescue: &Rescue) -> Duration {
        rescue.look_at.saturating_duration_since(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn searches_follow_the_renewals_and_go_on_without_them() {
        let broker = MemoryBroker::new(1);
        let roles = broker.worker(QueueName::new("m", 1), WorkerId::random()).await.unwrap();
        let renewal = LastRenewal::default();
        let mut rescue = Rescue::new(roles.consumer, renewal.clone());
        for elapsed in [0, 300, 900] {
            renewal.set();
            advance(Duration::from_millis(elapsed)).await;
            assert!(rescue.next().await.is_none());
            assert_eq!(wait(&rescue), Duration::from_millis(1050 - elapsed));
        }
        advance(EVERY).await;
        assert!(rescue.next().await.is_none());
        let regular = Duration::from_millis(800)..Duration::from_millis(1200);
        assert!(regular.contains(&wait(&rescue)), "{:?}", wait(&rescue));
    }
}
