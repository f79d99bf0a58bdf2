//! Misbehaving clients, which no HTTP library provides: slow readers, slow senders, and a crowd
//! that sends large bodies at the same time.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use crate::fleet::ChaosFleet;

/// Timeout of every wait of a client.
const PATIENCE: Duration = Duration::from_mins(1);
/// Connections opened at the same time. More would overflow the gateways' accept queues.
const CONNECTING: usize = 256;
/// Bytes of a client's socket buffers: small, so that the kernel does not hide a slow client from
/// the server.
const BUFFER: u32 = 8 * 1024;
/// The pause between two requests of a probe.
const PROBE_PAUSE: Duration = Duration::from_millis(10);

/// The bytes of an inference request with one row of `bytes` bytes, head included.
pub(crate) fn request(bytes: usize) -> Vec<u8> {
    let json = format!(
        "{{\"inputs\":[{{\"name\":\"INPUT0\",\"datatype\":\"UINT8\",\"shape\":[1,{bytes}],\
         \"parameters\":{{\"binary_data_size\":{bytes}}}}}],\
         \"parameters\":{{\"binary_data_output\":true}}}}"
    );
    let mut request = format!(
        "POST /v2/models/echo/infer HTTP/1.1\r\nhost: echo\r\n\
         content-type: application/octet-stream\r\ninference-header-content-length: {}\r\n\
         content-length: {}\r\n\r\n{json}",
        json.len(),
        json.len() + bytes
    )
    .into_bytes();
    request.resize(request.len() + bytes, b'.');
    request
}

/// A number of clients, which connect at random times within `spread`.
#[derive(Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) clients: usize,
    pub(crate) spread: Duration,
}

impl Crowd {
    /// Clients that connect at the same time.
    pub(crate) fn at_once(clients: usize) -> Self {
        Self { clients, spread: Duration::ZERO }
    }
}

/// Connects all clients, spread over the gateways, and runs `client` on each connection. Returns
/// the results in any order.
async fn each<T, F>(
    fleet: &ChaosFleet,
    crowd: Crowd,
    client: impl Fn(TcpStream) -> F,
) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let mut opening = JoinSet::new();
    let running = fleet.gateways.iter().filter(|gateway| gateway.is_started());
    for gateway in running.cycle().take(crowd.clients) {
        let (address, connecting) = (gateway.address.parse()?, Arc::clone(&connecting));
        opening.spawn(async move {
            sleep(crowd.spread.mul_f64(rand::random())).await;
            let _turn = connecting.acquire().await.map_err(io::Error::other)?;
            let socket = TcpSocket::new_v4()?;
            socket.set_send_buffer_size(BUFFER)?;
            socket.set_recv_buffer_size(BUFFER)?;
            socket.connect(address).await
        });
    }
    let mut clients = JoinSet::new();
    while let Some(opened) = opening.join_next().await {
        clients.spawn(client(opened??));
    }
    Ok(clients.join_all().await)
}

/// Sends `request` from all clients at once. Returns each client's HTTP status, 0 without an
/// answer.
pub(crate) async fn at_once(
    fleet: &ChaosFleet,
    clients: usize,
    request: &Arc<[u8]>,
) -> Result<Vec<u16>> {
    each(fleet, Crowd::at_once(clients), |stream| {
        let request = Arc::clone(request);
        async move { timeout(PATIENCE, ask(stream, &request)).await.unwrap_or(0) }
    })
    .await
}

/// Sends a request while reading the answer: the server may refuse before all bytes are sent.
async fn ask(stream: TcpStream, request: &[u8]) -> u16 {
    let (mut from, mut to) = stream.into_split();
    let sending = async {
        // Fails when the server has refused the request and stopped reading.
        drop(to.write_all(request).await);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        status = read_status(&mut from) => status,
        () = sending => 0,
    }
}

/// Reads the status of an answer; 0 if there is none.
async fn read_status(from: &mut (impl AsyncReadExt + Unpin)) -> u16 {
    let mut head = [0; 12];
    match from.read_exact(&mut head).await {
        Ok(_) => String::from_utf8_lossy(&head[9..]).parse().unwrap_or(0),
        Err(_) => 0,
    }
}

/// Each client sends a row of `bytes` bytes and reads the equally long answer at 1 KiB/s until
/// `until`. Returns each client's HTTP status, 0 without an answer.
pub(crate) async fn slow_readers(
    fleet: &ChaosFleet,
    crowd: Crowd,
    bytes: usize,
    until: Instant,
) -> Result<Vec<u16>> {
    let request: Arc<[u8]> = request(bytes).into();
    each(fleet, crowd, |mut stream| {
        let request = Arc::clone(&request);
        async move {
            if stream.write_all(&request).await.is_err() {
                return 0;
            }
            let status = timeout(PATIENCE, read_status(&mut stream)).await.unwrap_or(0);
            let mut piece = [0; 1024];
            while Instant::now() < until && matches!(stream.read(&mut piece).await, Ok(1..)) {
                sleep(Duration::from_secs(1)).await;
            }
            status
        }
    })
    .await
}

/// Each client sends `bytes`, as far as the server takes them, and reads nothing until `until`.
pub(crate) async fn hold(
    fleet: &ChaosFleet,
    crowd: Crowd,
    bytes: &Arc<[u8]>,
    until: Instant,
) -> Result<()> {
    each(fleet, crowd, |mut stream| {
        let bytes = Arc::clone(bytes);
        async move {
            // Fails when the server has closed the connection.
            drop(timeout_at(until, stream.write_all(&bytes)).await);
            sleep_until(until).await;
        }
    })
    .await?;
    Ok(())
}

/// Each client sends the first `from` bytes of `request` at once and the rest at one byte per
/// second. Returns how long the server kept each connection open.
pub(crate) async fn slow_senders(
    fleet: &ChaosFleet,
    clients: usize,
    request: &Arc<[u8]>,
    from: usize,
) -> Result<Vec<Duration>> {
    each(fleet, Crowd::at_once(clients), |stream| {
        let request = Arc::clone(request);
        async move {
            let began = Instant::now();
            let (mut incoming, mut to) = stream.into_split();
            let sending = async {
                drop(to.write_all(&request[..from]).await);
                for byte in request[from..].chunks(1) {
                    sleep(Duration::from_secs(1)).await;
                    drop(to.write_all(byte).await);
                }
            };
            // The answer is discarded: only the end of the connection matters.
            let ended = async { drop(incoming.read_to_end(&mut Vec::new()).await) };
            let open = async {
                tokio::select! { () = sending => {}, () = ended => {} }
            };
            drop(timeout(PATIENCE, open).await);
            began.elapsed()
        }
    })
    .await
}

/// Polls a health endpoint and measures the latency of the answers.
///
/// Runs on its own thread. The clients keep the runtime busy, and latencies measured there would
/// include scheduling delays.
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<Duration>>,
}

impl Probe {
    /// Starts to poll `path` at `address`.
    pub(crate) fn start(address: &str, path: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (address, stopped) = (address.to_owned(), Arc::clone(&stop));
        let probe = move || {
            let mut waits = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let is_alive = ask_health(&address, path).is_ok_and(|is_alive| is_alive);
                waits.push(if is_alive { asked.elapsed() } else { PATIENCE });
                thread::sleep(PROBE_PAUSE);
            }
            waits
        };
        Self { stop, thread: thread::spawn(probe) }
    }

    /// Stops the probe. Returns the latency of each request; a failed request counts as one minute.
    pub(crate) fn stop(self) -> Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("a probe panicked"))
    }
}

/// Requests `path`, and returns whether the answer is 200.
fn ask_health(address: &str, path: &str) -> io::Result<bool> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}
