//! Limits the connections of each address and of the process, and their memory.

use std::{
    cell::{Cell, OnceCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_server::GracefulShutdownSignal;
use batchfleet_service::LogThrottle;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::warn;

use crate::{
    clients::{Clients, network_of},
    memory::{MemoryBudget, MemoryShare},
    metrics::ConnectionMetrics,
};

/// The limits that all connections of the process share.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    memory: Arc<MemoryBudget>,
    clients: Arc<Clients>,
    /// The most connections of an address that is no trusted proxy.
    per_address: usize,
    addresses: Mutex<HashMap<IpAddr, usize>>,
    metrics: ConnectionMetrics,
    refusals: LogThrottle,
}

impl ConnectionLimits {
    /// Limits of the `memory` of all connections, and of `per_address` connections of each address; 0 for no
    /// limit.
    pub(crate) fn new(
        memory: Arc<MemoryBudget>,
        per_address: usize,
        clients: Arc<Clients>,
        metrics: ConnectionMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            memory,
            clients,
            per_address: if per_address == 0 { usize::MAX } else { per_address },
            addresses: Mutex::default(),
            metrics,
            refusals: LogThrottle::default(),
        })
    }

    /// Counts a connection of `address`, unless the address has the most connections already.
    fn enter(&self, address: IpAddr) -> bool {
        let mut addresses = self.addresses.lock();
        let open = addresses.entry(address).or_insert(0);
        let enters = *open < self.per_address || self.clients.is_proxy(address);
        *open += usize::from(enters);
        enters
    }

    fn leave(&self, address: IpAddr) {
        let mut addresses = self.addresses.lock();
        if let Some(open) = addresses.get_mut(&address) {
            *open -= 1;
            if *open == 0 {
                addresses.remove(&address);
            }
        }
    }
}

/// The times that a connection may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long a connection may wait for its next request.
    pub(crate) keep_alive: Duration,
    /// How long a client may read nothing of its answer.
    pub(crate) stall: Duration,
}

/// Why a connection has to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// A new connection takes the place of this one, which has waited longest for a request.
    Crowded,
    /// The server drains.
    Draining,
}

impl Closing {
    /// The reason in the metric of closed connections, if the gateway has cut the client off.
    pub(crate) const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Crowded => Some("crowded"),
            Self::Draining => None,
        }
    }
}

/// Makes the doors of the threads. All protocols of a thread have one door.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    pub(crate) limits: Arc<ConnectionLimits>,
    /// The most connections of a thread.
    pub(crate) most: usize,
    pub(crate) patience: Patience,
    pub(crate) draining: GracefulShutdownSignal,
}

thread_local! {
    static DOOR: OnceCell<Rc<Door>> = const { OnceCell::new() };
}

impl Doors {
    /// The door of this thread, which must be one of the server that these doors belong to.
    pub(crate) fn of_this_thread(&self) -> Rc<Door> {
        let new = || {
            let Self { limits, most, patience, draining } = self.clone();
            Rc::new(Door::new(limits, most, patience, draining))
        };
        DOOR.with(|door| door.get_or_init(new).clone())
    }
}

/// The connections of one thread.
#[derive(Debug)]
pub(crate) struct Door {
    limits: Arc<ConnectionLimits>,
    open: Cell<usize>,
    /// The number of connections from which on each new one replaces one that waits for a request.
    comfortable: usize,
    crowded: Notify,
    patience: Patience,
    draining: GracefulShutdownSignal,
}

impl Door {
    /// The door of a thread that accepts at most `most` connections, until the server drains.
    pub(crate) fn new(
        limits: Arc<ConnectionLimits>,
        most: usize,
        patience: Patience,
        draining: GracefulShutdownSignal,
    ) -> Self {
        let comfortable = most.saturating_sub(most.div_ceil(8)).max(1);
        let crowded = Notify::new();
        Self { limits, open: Cell::new(0), comfortable, crowded, patience, draining }
    }

    /// The times that a connection may take.
    pub(crate) fn patience(&self) -> Patience {
        self.patience
    }

    /// Admits a connection of `peer`; `None` if it has to be closed.
    pub(crate) fn enter(&self, peer: Option<SocketAddr>) -> Option<Place<'_>> {
        let address =
            network_of(peer.map_or(IpAddr::from([0; 4]), |peer| peer.ip().to_canonical()));
        if !self.limits.enter(address) {
            self.limits.metrics.closed("address_limit");
            if let Some(refused) = self.limits.refusals.count() {
                let most = self.limits.per_address;
                warn!(%address, most, refused, "too many connections of one address: closing new ones");
            }
            return None;
        }
        self.open.update(|open| open + 1);
        self.limits.metrics.open.inc();
        if self.is_crowded() {
            self.crowded.notify_one();
        }
        Some(Place { door: self, address })
    }

    /// Waits until a connection without a request has to close: when the thread needs the place of
    /// the connection that has waited longest, or when the server drains.
    pub(crate) async fn closes(&self) -> Closing {
        loop {
            tokio::select! {
                // The crowd may be gone: a notification is kept until a connection waits.
                () = self.crowded.notified() => if self.is_crowded() { return Closing::Crowded },
                () = self.drains() => return Closing::Draining,
            }
        }
    }

    /// Waits until the server drains.
    pub(crate) async fn drains(&self) {
        self.draining.notified().await;
    }

    fn is_crowded(&self) -> bool {
        self.open.get() > self.comfortable
    }
}

/// The place of an open connection.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    door: &'a Door,
    address: IpAddr,
}

impl Place<'_> {
    /// The share of the memory budget for the connection.
    pub(crate) fn share(&self) -> MemoryShare {
        self.door.limits.memory.share()
    }

    /// Counts why the gateway closes the connection.
    pub(crate) fn closed(&self, reason: &'static str) {
        self.door.limits.metrics.closed(reason);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.door.open.update(|open| open - 1);
        self.door.limits.metrics.open.dec();
        self.door.limits.leave(self.address);
    }
}
