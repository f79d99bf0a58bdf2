//! Says every second that a worker lives, what it serves and how fast. It stops only after the
//! worker has drained: until then its jobs are in good hands.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{Announcement, Consumer};
use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{drain::Drain, retry::Outage, watchdog::Pulse};

const EVERY: Duration = Duration::from_secs(1);

/// How fast a model is just now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pace {
    /// Rows per second in full batches.
    pub(crate) capacity: f64,
    /// N.
    pub(crate) batch_limit: u32,
}

/// What is announced, and what tells whether it is true.
pub(crate) struct Announcer {
    /// Where.
    pub(crate) consumer: Arc<dyn Consumer>,
    /// What is served.
    pub(crate) announcement: Announcement,
    /// How fast.
    pub(crate) pace: watch::Receiver<Pace>,
    /// Proves that the model computes.
    pub(crate) pulse: Pulse,
    /// A run that takes longer is no sign of life.
    pub(crate) max_batch_time: Duration,
}

impl Announcer {
    /// Renews the announcement until `drained`, then takes leave. `announced` is told whenever that
    /// goes well. Once `drain` begins, nobody shall count on this worker: its capacity is 0.
    pub(crate) async fn run(
        self,
        announced: Arc<Notify>,
        drain: Drain,
        drained: CancellationToken,
    ) {
        let mut outage = Outage::new("announce this worker");
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leaving = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = drain.begun(), if !leaving => leaving = true,
                () = drained.cancelled() => break,
            }
            if self.pulse.busy_for() > self.max_batch_time {
                continue;
            }
            match self.consumer.renew(&self.word(leaving)).await {
                Ok(()) => {
                    outage.over();
                    announced.notify_one();
                }
                Err(error) => outage.failed(&error),
            }
        }
        if let Err(error) = self.consumer.retire().await {
            warn!(%error, "cannot take leave: the announcement runs out by itself");
        }
    }

    fn word(&self, leaving: bool) -> Announcement {
        let Pace { capacity, batch_limit } = *self.pace.borrow();
        let capacity = if leaving { 0.0 } else { capacity };
        Announcement { capacity, batch_limit, ..self.announcement.clone() }
    }
}
