//! Clients that speak HTTP by hand, because they do what no library does: crawl, or send what is
//! too much all at once.

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
    time::{Instant, sleep, timeout},
};

use crate::fleet::Fleet;

/// No client waits longer than this for anything.
const PATIENCE: Duration = Duration::from_mins(1);
/// Connections being opened at one moment; servers queue only so many.
const CONNECTING: usize = 256;
/// Bytes a client's system holds for it: its own pace is what the server shall meet.
const BUFFER: u32 = 8 * 1024;
/// How long a probe rests between two questions.
const PROBE_PAUSE: Duration = Duration::from_millis(10);

/// An inference request of one row of so many bytes, head and all.
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

/// Who comes, and over which time, at random.
#[derive(Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) clients: usize,
    pub(crate) spread: Duration,
}

impl Crowd {
    /// So many clients at once.
    pub(crate) fn at_once(clients: usize) -> Self {
        Self { clients, spread: Duration::ZERO }
    }
}

/// Runs one task per client, clients spread over the gateways; their results in any order.
async fn each<T, F>(fleet: &Fleet, crowd: Crowd, client: impl Fn(TcpStream) -> F) -> Result<Vec<T>>
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

/// So many clients send this at once; the status each was told, 0 for none.
pub(crate) async fn at_once(
    fleet: &Fleet,
    clients: usize,
    request: &Arc<[u8]>,
) -> Result<Vec<u16>> {
    each(fleet, Crowd::at_once(clients), |stream| {
        let request = Arc::clone(request);
        async move { timeout(PATIENCE, ask(stream, &request)).await.unwrap_or(0) }
    })
    .await
}

/// Sends a request while listening: the answer may come, and end it, before all is sent.
async fn ask(stream: TcpStream, request: &[u8]) -> u16 {
    let (mut from, mut to) = stream.into_split();
    let sending = async {
        // A server that has refused reads no more.
        drop(to.write_all(request).await);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        status = told(&mut from) => status,
        () = sending => 0,
    }
}

/// The status of an answer; 0 if there is none.
async fn told(from: &mut (impl AsyncReadExt + Unpin)) -> u16 {
    let mut head = [0; 12];
    match from.read_exact(&mut head).await {
        Ok(_) => String::from_utf8_lossy(&head[9..]).parse().unwrap_or(0),
        Err(_) => 0,
    }
}

/// Each asks once for so many bytes, and takes 1 KiB a second until `until`; the status each was
/// told.
pub(crate) async fn slow_readers(
    fleet: &Fleet,
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
            let status = timeout(PATIENCE, told(&mut stream)).await.unwrap_or(0);
            let mut taken = [0; 1024];
            while Instant::now() < until && matches!(stream.read(&mut taken).await, Ok(1..)) {
                sleep(Duration::from_secs(1)).await;
            }
            status
        }
    })
    .await
}

/// So many clients send this request from byte `from` on one byte a second; how long each was
/// suffered.
pub(crate) async fn slow_senders(
    fleet: &Fleet,
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
            // Whatever it is told, the end of the connection is what counts.
            let ended = async { drop(incoming.read_to_end(&mut Vec::new()).await) };
            let suffered = async {
                tokio::select! { () = sending => {}, () = ended => {} }
            };
            drop(timeout(PATIENCE, suffered).await);
            began.elapsed()
        }
    })
    .await
}

/// Asks a program whether it lives, over and over.
///
/// On a thread of its own: the clients here keep the runtime busy, and how long a probe waited for
/// its turn among them says nothing about the program that it asked.
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<Duration>>,
}

impl Probe {
    /// Starts to ask for this path at this address.
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

    /// Stops; how long it took to be told, each time.
    pub(crate) fn stop(self) -> Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("a probe panicked"))
    }
}

/// Whether the answer is 200.
fn ask_health(address: &str, path: &str) -> io::Result<bool> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}
