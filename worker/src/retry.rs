//! What to do while the broker is away: say so once, and try again ever more slowly.

use std::time::Duration;

use batchfleet_broker::BrokerError;
use tracing::{info, warn};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One kind of call to the broker, and whether it fails just now.
#[derive(Debug)]
pub(crate) struct Outage {
    action: &'static str,
    /// How long to pause next; `None` while all is well.
    pause: Option<Duration>,
}

impl Outage {
    /// For calls that `action`, as in "cannot ...".
    pub(crate) fn new(action: &'static str) -> Self {
        Self { action, pause: None }
    }

    /// The call failed: logged if it is the first failure in a row.
    pub(crate) fn failed(&mut self, error: &BrokerError) {
        if self.pause.is_none() {
            warn!(%error, "cannot {}: trying again", self.action);
        }
        self.pause = Some(self.pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE)));
    }

    /// The call went well: logged if it had failed.
    pub(crate) fn over(&mut self) {
        if self.pause.take().is_some() {
            info!("can {} again", self.action);
        }
    }

    /// Waits before the next try: a little more or less, so that workers do not all come at once.
    pub(crate) async fn pause(&self) {
        let pause = self.pause.unwrap_or_default();
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
    }
}
