//! Reclaims the jobs of dead workers.
//!
//! Each reclaimed job is quarantined, because it may have killed its worker. The broker counts
//! every claim of a job towards the poison limit. Quarantined jobs are therefore reclaimed one at a
//! time, right before they run alone: if the job kills the worker, no other job is charged with the
//! death.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{Consumer, Delivery};
use parking_lot::Mutex;
use tokio::time::Instant;

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
pub(crate) struct Rescue {
    consumer: Arc<dyn Consumer>,
    renewal: LastRenewal,
    look_at: Instant,
    /// Delay of the next search if no job is found.
    pause: Duration,
    outage: Outage,
}

impl Rescue {
    /// Schedules the first search after about a second.
    pub(crate) fn new(consumer: Arc<dyn Consumer>, renewal: LastRenewal) -> Self {
        let outage = Outage::new("reclaim jobs");
        Self { consumer, renewal, look_at: after(EVERY), pause: EVERY, outage }
    }

    /// Whether a search is due.
    pub(crate) fn is_due(&self) -> bool {
        self.look_at <= Instant::now()
    }

    /// Time until the next search is due.
    pub(crate) fn wait(&self) -> Duration {
        self.look_at.saturating_duration_since(Instant::now())
    }

    /// Reclaims one job, if any. After a job is found, the next search is due immediately.
    pub(crate) async fn next(&mut self) -> Option<Delivery> {
        let found = match self.consumer.reclaim(1).await {
            Ok(found) => {
                self.outage.over();
                found.into_iter().next()
            }
            Err(error) => {
                self.outage.failed(&error);
                None
            }
        };
        if found.is_some() {
            self.pause = SOON;
        } else {
            self.look_at = self.next_look();
            self.pause = (self.pause * 2).min(EVERY);
        }
        found
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
            assert_eq!(rescue.wait(), Duration::from_millis(1050 - elapsed));
        }
        advance(EVERY).await;
        assert!(rescue.next().await.is_none());
        let regular = Duration::from_millis(800)..Duration::from_millis(1200);
        assert!(regular.contains(&rescue.wait()), "{:?}", rescue.wait());
    }
}
