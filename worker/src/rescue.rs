//! Takes over the jobs of dead workers.
//!
//! Each such job is quarantined, because it may have killed its worker. The broker counts the claims of
//! each job, and each claim counts towards the poison limit. So quarantined jobs are reclaimed one at
//! a time, right before each runs alone: if the worker dies of it, no other job is counted.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{Consumer, Delivery};
use tokio::time::Instant;

use crate::retry::Outage;

/// How often to look while nothing is found.
const EVERY: Duration = Duration::from_secs(1);
/// How soon to look again after the last job found: two workers may reach for the same job, and the
/// one that misses it finds others.
const SOON: Duration = Duration::from_millis(100);

/// Looks for jobs of dead workers.
pub(crate) struct Rescue {
    consumer: Arc<dyn Consumer>,
    look_at: Instant,
    /// How long to pause if nothing is found.
    pause: Duration,
    outage: Outage,
}

impl Rescue {
    /// Looks first after about a second.
    pub(crate) fn new(consumer: Arc<dyn Consumer>) -> Self {
        let outage = Outage::new("reclaim jobs");
        Self { consumer, look_at: after(EVERY), pause: EVERY, outage }
    }

    /// Whether it is time to look.
    pub(crate) fn is_due(&self) -> bool {
        self.look_at <= Instant::now()
    }

    /// How long until it is time to look.
    pub(crate) fn wait(&self) -> Duration {
        self.look_at.saturating_duration_since(Instant::now())
    }

    /// Takes over one job, if there is one. After a find, the next look is due at once.
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

/// 20 % more or less, so that workers do not all look at once.
fn after(pause: Duration) -> Instant {
    Instant::now() + pause.mul_f64(rand::random_range(0.8..1.2))
}
