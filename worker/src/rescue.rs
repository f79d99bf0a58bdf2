//! Reclaims the jobs of dead workers.
//!
//! Each reclaimed job is quarantined, because it may have killed its worker. The broker counts
//! every claim of a job towards the poison limit. Quarantined jobs are therefore reclaimed one at a
//! time, right before they run alone: if the job kills the worker, no other job is charged with the
//! death.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{Consumer, Delivery};
use tokio::time::Instant;

use crate::retry::Outage;

/// Interval between searches while no job is found.
const EVERY: Duration = Duration::from_secs(1);
/// Delay of the first search after no more jobs are found; doubles up to [`EVERY`]. A search also
/// finds nothing if another worker reclaims the same job first, although more jobs may remain.
const SOON: Duration = Duration::from_millis(100);

/// Looks for jobs of dead workers.
pub(crate) struct Rescue {
    consumer: Arc<dyn Consumer>,
    look_at: Instant,
    /// Delay of the next search if no job is found.
    pause: Duration,
    outage: Outage,
}

impl Rescue {
    /// Schedules the first search after about a second.
    pub(crate) fn new(consumer: Arc<dyn Consumer>) -> Self {
        let outage = Outage::new("reclaim jobs");
        Self { consumer, look_at: after(EVERY), pause: EVERY, outage }
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
            self.look_at = after(self.pause);
            self.pause = (self.pause * 2).min(EVERY);
        }
        found
    }
}

/// The time after `pause`, with 20 % jitter so that workers do not search simultaneously.
fn after(pause: Duration) -> Instant {
    Instant::now() + pause.mul_f64(rand::random_range(0.8..1.2))
}
