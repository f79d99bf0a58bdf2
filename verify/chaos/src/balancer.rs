//! A TCP load balancer in place of a Kubernetes service: assigns new connections to the listed
//! gateways round-robin.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use anyhow::Result;
use parking_lot::Mutex;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// A running load balancer; closes all connections on drop.
pub(crate) struct Balancer {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    listed: Mutex<Vec<String>>,
    turn: AtomicUsize,
    refused: AtomicU64,
}

impl Balancer {
    /// Starts a balancer over these addresses.
    pub(crate) async fn start(listed: Vec<String>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { listed: Mutex::new(listed), ..Shared::default() });
        let listener = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, listener })
    }

    /// The address at which clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds an address to the list.
    pub(crate) fn list(&self, address: &str) {
        self.shared.listed.lock().push(address.to_owned());
    }

    /// Removes an address from the list; connections already open stay open.
    pub(crate) fn unlist(&self, address: &str) {
        self.shared.listed.lock().retain(|listed| listed != address);
    }

    /// The number of connections that a listed gateway refused.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.refused.load(Relaxed)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Shared {
    fn next(&self) -> Option<String> {
        let listed = self.listed.lock();
        let turn = self.turn.fetch_add(1, Relaxed);
        listed.get(turn % listed.len().max(1)).cloned()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let Some(gateway) = shared.next() else { return };
            let Ok(mut gateway) = TcpStream::connect(&gateway).await else {
                shared.refused.fetch_add(1, Relaxed);
                return;
            };
            drop((client.set_nodelay(true), gateway.set_nodelay(true)));
            // Dropping the streams closes both sides.
            drop(copy_bidirectional(&mut client, &mut gateway).await);
        });
    }
}
