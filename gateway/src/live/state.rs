//! The state that a gateway keeps for the live page: the controls, and the port for clients.

use std::sync::OnceLock;

use batchfleet_broker::GatewayId;
use tokio::sync::watch::Receiver;

use super::controls::{ControlPanel, LiveControls};
use crate::settings::LivePage;

/// The port on which a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// The admin port.
    Admin,
    /// The port for clients.
    Clients,
}

/// The state that a gateway keeps for the live page.
#[derive(Debug)]
pub(crate) struct Live {
    place: LivePage,
    /// Lets pages notice that the gateway has restarted.
    pub(super) boot: GatewayId,
    pub(super) controls: ControlPanel,
    /// The number of the port for clients, once the port is open.
    clients_port: OnceLock<u16>,
    /// Whether the port for clients speaks HTTPS.
    secure: bool,
}

impl Live {
    /// Serves the page in `place`.
    pub(crate) fn new(place: LivePage, boot: GatewayId, secure: bool) -> Self {
        let (controls, clients_port) = (ControlPanel::default(), OnceLock::new());
        Self { place, boot, controls, clients_port, secure }
    }

    /// Subscribes to changes of the live controls.
    pub(crate) fn controls(&self) -> Receiver<LiveControls> {
        self.controls.follow()
    }

    /// Records that the port for clients is open.
    pub(crate) fn opened(&self, port: u16) {
        self.clients_port.get_or_init(|| port);
    }

    /// The number of the port for clients, if it is open and serves the page.
    pub(super) fn clients_port(&self) -> Option<u16> {
        self.clients_port.get().copied().filter(|_| self.is_at(Port::Clients))
    }

    /// The scheme of URLs on the port for clients.
    pub(super) fn clients_scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Resets the controls of a closed page. Must be called a few times per second.
    pub(crate) fn tick(&self) {
        self.controls.tick();
    }

    /// Whether `port` serves the page.
    pub(super) fn is_at(&self, port: Port) -> bool {
        match self.place {
            LivePage::Off => false,
            LivePage::Admin => port == Port::Admin,
            LivePage::Everywhere => true,
        }
    }
}
