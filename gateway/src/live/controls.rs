//! The live controls: callers that put load on a model, and a temporary latency target for the
//! model.
//!
//! An open live page renews the controls every 2 s. Without a renewal for 6 s, the gateway resets
//! the controls.

use std::time::Duration;

use batchfleet_broker::QueueName;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{
    sync::watch::{Receiver, Sender, channel},
    time::Instant,
};

/// Maximum number of callers that a page may set.
pub(super) const MOST_CALLERS: usize = 256;
/// Lifetime of the controls without a renewal.
const LIFETIME: Duration = Duration::from_secs(6);

/// The settings that live pages control. The default controls no model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveControls {
    /// The model version under control; `None` for no control.
    pub queue: Option<QueueName>,
    /// The number of callers, each with one request at a time.
    pub callers: usize,
    /// The latency target of the model version; `None` for the worker's own target.
    pub slo: Option<Duration>,
}

/// The controls as shown by a page.
#[derive(Debug, Serialize)]
pub(super) struct Offer {
    most_callers: usize,
    callers: usize,
    slo_ms: Option<f64>,
}

/// The current controls.
#[derive(Debug)]
pub(super) struct ControlPanel {
    controls: Sender<LiveControls>,
    /// When a page last set or renewed the controls.
    renewed: Mutex<Option<Instant>>,
}

impl Default for ControlPanel {
    fn default() -> Self {
        Self { controls: channel(LiveControls::default()).0, renewed: Mutex::default() }
    }
}

impl ControlPanel {
    /// Subscribes to changes of the controls.
    pub(super) fn follow(&self) -> Receiver<LiveControls> {
        self.controls.subscribe()
    }

    /// The controls that a page may set; `None` if the controls have no subscriber.
    pub(super) fn offer(&self) -> Option<Offer> {
        if self.controls.is_closed() {
            return None;
        }
        let LiveControls { callers, slo, .. } = *self.controls.borrow();
        let slo_ms = slo.map(|slo| slo.as_secs_f64() * 1e3);
        Some(Offer { most_callers: MOST_CALLERS, callers, slo_ms })
    }

    /// Sets or renews the controls.
    pub(super) fn set(&self, new: LiveControls) {
        *self.renewed.lock() = Some(Instant::now());
        self.controls.send_if_modified(|controls| {
            let is_changed = *controls != new;
            *controls = new;
            is_changed
        });
    }

    /// Resets controls that no page has renewed for [`LIFETIME`].
    pub(super) fn tick(&self) {
        let mut renewed = self.renewed.lock();
        if renewed.is_some_and(|renewed| renewed.elapsed() > LIFETIME) {
            *renewed = None;
            self.controls.send_replace(LiveControls::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn controls_last_as_long_as_a_page_renews_them() {
        let panel = ControlPanel::default();
        let followed = panel.follow();
        let set = LiveControls { queue: Some(QueueName::new("m", 1)), callers: 3, slo: None };
        for _ in 0..5 {
            panel.set(set.clone());
            tokio::time::advance(LIFETIME / 2).await;
            panel.tick();
            assert_eq!(*followed.borrow(), set);
        }
        tokio::time::advance(LIFETIME).await;
        panel.tick();
        assert_eq!(*followed.borrow(), LiveControls::default());
    }
}
