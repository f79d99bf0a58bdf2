//! A TCP proxy that simulates network faults.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rand::RngExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

/// Largest number of bytes forwarded as one piece.
const PIECE: usize = 64 * 1024;
/// Largest piece in bad weather, in bytes.
const SMALL_PIECE: usize = 4 * 1024;
/// Largest number of pieces delayed at the same time, per direction of a connection.
const UNDER_WAY: usize = 256;

/// Forwards connections from its own port to one address. Stops on drop.
pub struct CuttingProxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    connections: Arc<Mutex<JoinSet<()>>>,
    listener: JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct State {
    upstream: SocketAddr,
    mode: Mode,
    weather: Option<Weather>,
    /// The time that each piece takes, besides the delays of the weather.
    delay: Duration,
    most: Option<usize>,
    /// In bytes per second, in each direction of each connection.
    bandwidth: Option<u32>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Passing,
    Refusing,
    Stalling,
}

/// The faults of a bad network. Bytes pass in pieces of at most 4 KiB.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Upper bound of a piece's random delay.
    pub delay: Duration,
    /// The share of pieces that get the additional delay [`Weather::stall`].
    pub stalled: f64,
    /// The additional delay of a stalled piece.
    pub stall: Duration,
    /// The probability, per second, that a connection is cut.
    pub cuts_per_second: f64,
}

impl CuttingProxy {
    /// Starts a proxy to `upstream`.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn start(upstream: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (mode, delay) = (Mode::Passing, Duration::ZERO);
        let calm = State { upstream, mode, weather: None, delay, most: None, bandwidth: None };
        let (state, watching) = watch::channel(calm);
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let listener = tokio::spawn(accept(listener, watching, Arc::clone(&connections)));
        Ok(Self { address, state, connections, listener })
    }

    /// The address of the proxy.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection; new ones are forwarded as before.
    pub fn cut(&self) {
        let mut connections = self.connections.lock();
        connections.abort_all();
    }

    /// Closes every connection, and each new connection as soon as it is accepted.
    pub fn refuse(&self) {
        self.state.send_modify(|state| state.mode = Mode::Refusing);
        self.cut();
    }

    /// Forwards nothing, but keeps every connection open, like a network that silently drops
    /// packets.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.mode = Mode::Stalling);
    }

    /// Ends a [`CuttingProxy::stall`], and forwards the bytes held back.
    pub fn resume(&self) {
        self.state.send_modify(|state| state.mode = Mode::Passing);
    }

    /// Closes every connection, and forwards new ones to another address.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.state.send_modify(|state| state.upstream = upstream);
        self.cut();
    }

    /// Sets the time that bytes take from one side to the other, as in a network of long ways.
    pub fn set_delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// From now on, forwards at most this many bytes in each direction of a connection, and holds
    /// further bytes back until the limit is lifted with `None`, like a network of low bandwidth.
    pub fn hold_after(&self, most: Option<usize>) {
        self.state.send_modify(|state| state.most = most);
    }

    /// Forwards at most this many bytes per second in each direction of each connection; `None` for no
    /// limit.
    pub fn set_bandwidth(&self, bytes_per_second: Option<u32>) {
        self.state.send_modify(|state| state.bandwidth = bytes_per_second);
    }

    /// Sets the faults of the network; `None` for none.
    pub fn set_weather(&self, weather: Option<Weather>) {
        self.state.send_modify(|state| state.weather = weather);
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
    state: watch::Receiver<State>,
    connections: Arc<Mutex<JoinSet<()>>>,
) {
    while let Ok((client, _)) = listener.accept().await {
        if state.borrow().mode == Mode::Refusing {
            continue;
        }
        let mut connections = connections.lock();
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(client, state.clone()));
    }
}

/// Forwards a connection. Closes both sides as soon as one side is closed.
async fn serve(client: TcpStream, state: watch::Receiver<State>) {
    let upstream = state.borrow().upstream;
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    // Without TCP_NODELAY small writes wait for acknowledgements on both hops. Errors are harmless.
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, state.clone()) => {}
        () = pass(from_server, to_client, state.clone()) => {}
        () = cut_at_random(state) => {}
    }
}

/// Returns when the weather cuts the connection.
async fn cut_at_random(state: watch::Receiver<State>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        let weather = state.borrow().weather;
        if weather.is_some_and(|weather| rand::rng().random_bool(weather.cuts_per_second)) {
            return;
        }
    }
}

/// Forwards one direction of a connection until the connection is closed. Each piece has its own
/// delay, and further pieces are read meanwhile; the order is kept.
async fn pass(from: OwnedReadHalf, to: OwnedWriteHalf, state: watch::Receiver<State>) {
    let (pieces, under_way) = mpsc::channel(UNDER_WAY);
    tokio::join!(take(from, pieces, state.clone()), deliver(under_way, to, state));
}

async fn take(
    mut from: OwnedReadHalf,
    pieces: mpsc::Sender<(Instant, Vec<u8>)>,
    state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let State { weather, delay, .. } = *state.borrow();
        let most = weather.map_or(PIECE, |_| SMALL_PIECE);
        let length = tokio::select! {
            length = from.read(&mut buffer[..most]) => length,
            () = pieces.closed() => return,
        };
        let Ok(length @ 1..) = length else { return };
        let due = Instant::now() + delay + weather.map_or(Duration::ZERO, Weather::random_delay);
        if pieces.send((due, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn deliver(
    mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut forwarded = 0;
    while let Some((due, piece)) = pieces.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        forwarded = if state.borrow().most.is_some() { forwarded + piece.len() } else { 0 };
        let passes = |state: &State| {
            state.mode != Mode::Stalling && state.most.is_none_or(|most| forwarded <= most)
        };
        if state.wait_for(passes).await.is_err() || to.write_all(&piece).await.is_err() {
            return;
        }
        let bandwidth = state.borrow().bandwidth;
        if let Some(bandwidth) = bandwidth {
            sleep(Duration::from_micros(piece.len() as u64 * 1_000_000 / u64::from(bandwidth)))
                .await;
        }
    }
}

impl Weather {
    /// The random delay of one piece.
    fn random_delay(self) -> Duration {
        let mut random = rand::rng();
        let stall = if random.random_bool(self.stalled) { self.stall } else { Duration::ZERO };
        self.delay.mul_f64(random.random()) + stall
    }
}
