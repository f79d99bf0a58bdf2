//! Says every second that a worker lives and what it serves. It stops only after the worker has
//! drained: until then its jobs are in good hands.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{Announcement, Consumer};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::retry::Outage;

const EVERY: Duration = Duration::from_secs(1);

/// Renews `announcement` until `drained`, then takes leave. `announced` is told whenever that
/// goes well.
pub(crate) async fn announce(
    consumer: Arc<dyn Consumer>,
    announcement: Announcement,
    announced: Arc<Notify>,
    drained: CancellationToken,
) {
    let mut outage = Outage::new("announce this worker");
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = drained.cancelled() => break,
        }
        match consumer.renew(&announcement).await {
            Ok(()) => {
                outage.over();
                announced.notify_one();
            }
            Err(error) => outage.failed(&error),
        }
    }
    if let Err(error) = consumer.retire().await {
        warn!(%error, "cannot take leave: the announcement runs out by itself");
    }
}
