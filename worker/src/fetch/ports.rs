//! The connections to the ports for workers of all gateways.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    FetchFailure,
    connection::{Connection, Fault},
};

/// How long a gateway that did not answer is not asked again. Each attempt may hold up a batch for a
/// second.
const SHUNNED: Duration = Duration::from_secs(5);
/// How long a connection is kept for the next request; shorter than gateways keep it.
const KEPT: Duration = Duration::from_mins(1);
/// The most gateways remembered.
const MOST: usize = 256;

/// The connections. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Ports(Arc<Mutex<HashMap<SocketAddr, Known>>>);

/// What is known of the port of a gateway, and since when.
enum Known {
    /// The connection is free.
    Free(Connection, Instant),
    /// The gateway did not answer.
    Failed(Instant),
}

impl Known {
    fn is_old(&self) -> bool {
        match self {
            Self::Free(_, since) => since.elapsed() >= KEPT,
            Self::Failed(at) => at.elapsed() >= SHUNNED,
        }
    }
}

impl Ports {
    /// A connection to a gateway, and whether it was kept from an earlier request.
    ///
    /// # Errors
    ///
    /// The gateway does not answer, or did not a moment ago.
    pub(super) async fn connect(&self, gateway: SocketAddr) -> Result<(Connection, bool), Fault> {
        if let Some(kept) = self.take(gateway)? {
            return Ok((kept, true));
        }
        Ok((self.open(gateway).await?, false))
    }

    /// A new connection to a gateway.
    pub(super) async fn open(&self, gateway: SocketAddr) -> Result<Connection, Fault> {
        let opened = Connection::open(gateway).await;
        opened.inspect_err(|_| self.note(gateway, Known::Failed(Instant::now())))
    }

    /// Keeps a connection after a request, unless the request failed.
    pub(super) fn used(&self, gateway: SocketAddr, connection: Connection, fault: Option<&Fault>) {
        match fault {
            None => self.note(gateway, Known::Free(connection, Instant::now())),
            Some(fault) if fault.failure() == FetchFailure::Timeout => {
                self.note(gateway, Known::Failed(Instant::now()));
            }
            Some(_) => {}
        }
    }

    fn take(&self, gateway: SocketAddr) -> Result<Option<Connection>, Fault> {
        let mut ports = self.0.lock();
        match ports.remove(&gateway).filter(|known| !known.is_old()) {
            Some(Known::Free(connection, _)) => Ok(Some(connection)),
            Some(Known::Failed(at)) => {
                ports.insert(gateway, Known::Failed(at));
                Err(Fault::Shunned)
            }
            None => Ok(None),
        }
    }

    fn note(&self, gateway: SocketAddr, known: Known) {
        let mut ports = self.0.lock();
        ports.retain(|_, known| !known.is_old());
        if ports.len() >= MOST {
            ports.clear();
        }
        ports.insert(gateway, known);
    }
}
