//! Retries calls to an unreachable broker: logs the outage once, and backs off.

use std::time::Duration;

use batchfleet_broker::BrokerError;
use tracing::{info, warn};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One kind of call to the broker, and whether it currently fails.
#[derive(Debug)]
pub(crate) struct Outage {
    action: &'static str,
    /// How long to pause next; `None` while calls succeed.
    pause: Option<Duration>,
}

impl Outage {
    /// For calls described by `action`, as in "failed to ...".
    pub(crate) fn new(action: &'static str) -> Self {
        Self { action, pause: None }
    }

    /// Records a failed call; logs the first failure in a row.
    pub(crate) fn failed(&mut self, error: &BrokerError) {
        if self.pause.is_none() {
            warn!(%error, "failed to {}: retrying", self.action);
        }
        self.pause = Some(self.pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE)));
    }

    /// Records a successful call; logs the recovery if the previous call failed.
    pub(crate) fn over(&mut self) {
        if self.pause.take().is_some() {
            info!("recovered: can {} again", self.action);
        }
    }

    /// Waits before the next attempt, with 20 % jitter so that workers do not retry simultaneously.
    pub(crate) async fn pause(&self) {
        let pause = self.pause.unwrap_or_default();
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
    }
}
