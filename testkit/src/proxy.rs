//! A TCP proxy that can fail like a network.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Passes bytes between its own port and one address, until told otherwise. Stops on drop.
pub struct CuttingProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    connections: Arc<Mutex<JoinSet<()>>>,
    listener: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Passing,
    Refusing,
    Stalling,
}

impl CuttingProxy {
    /// Starts a proxy to `upstream`.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(upstream: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (mode, watching) = watch::channel(Mode::Passing);
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let listener = tokio::spawn(accept(listener, upstream, watching, Arc::clone(&connections)));
        Ok(Self { address, mode, connections, listener })
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection; new ones are served as before.
    pub fn cut(&self) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.abort_all();
    }

    /// Closes every connection, and every new one at once.
    pub fn refuse(&self) {
        self.mode.send_replace(Mode::Refusing);
        self.cut();
    }

    /// Passes nothing on but keeps every connection open, as a network does when it lost the other
    /// side without a word.
    pub fn stall(&self) {
        self.mode.send_replace(Mode::Stalling);
    }

    /// Works again. What was held back while stalling is passed on.
    pub fn resume(&self) {
        self.mode.send_replace(Mode::Passing);
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    mode: watch::Receiver<Mode>,
    connections: Arc<Mutex<JoinSet<()>>>,
) {
    while let Ok((client, _)) = listener.accept().await {
        if *mode.borrow() == Mode::Refusing {
            continue;
        }
        let mut connections = connections.lock().unwrap_or_else(PoisonError::into_inner);
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(client, upstream, mode.clone()));
    }
}

/// One connection; ends, and closes both sides, as soon as one side is closed.
async fn serve(client: TcpStream, upstream: SocketAddr, mode: watch::Receiver<Mode>) {
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, mode.clone()) => {}
        () = pass(from_server, to_client, mode) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        if mode.wait_for(|mode| *mode != Mode::Stalling).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
