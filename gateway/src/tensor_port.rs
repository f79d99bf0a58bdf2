//! The port for workers, where they fetch the inputs of jobs that this gateway has offered, and push
//! large outputs ([`batchfleet_broker::offer`] defines the bytes).
//!
//! Each offer has a key of its own, which only the job contains. A connection without a valid key gets
//! nothing, and does not learn whether a request exists. Until it has named a valid key, a connection
//! is a stranger: there may be few of them, and only for a short time.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use batchfleet_broker::{
    Job,
    offer::{
        GONE, HEAD, ITEM, Item, PUSHED_ITEM, REFUSES, RequestKind, TAKES, decode_head, decode_item,
        decode_pushed_item, read_data,
    },
};
use bytes::{Buf, Bytes};
use prometheus::IntCounter;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::debug;

/// The most connections. Each worker keeps one for inputs and one for outputs of each of its models.
const MOST_CONNECTIONS: usize = 4096;
/// The most connections that have not yet named a valid key; all workers of a large fleet may connect at
/// the same time.
const MOST_STRANGERS: usize = 1024;
/// How long a stranger may wait before its request, and how long any request may take to arrive.
const REQUEST_PATIENCE: Duration = Duration::from_secs(2);
/// How long a connection is kept between two requests; longer than workers keep it.
const IDLE: Duration = Duration::from_mins(2);
/// How long a worker may take to read the inputs of one job or to send its outputs, besides the time
/// at [`LOWEST_BANDWIDTH`].
const PATIENCE: Duration = Duration::from_secs(2);
/// The lowest bandwidth at which tensors pass in time, in bytes per second.
const LOWEST_BANDWIDTH: u64 = 10_000_000;
/// Pause after a connection could not be accepted, for example because too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

batchfleet_service::metrics! {
    /// Metrics of inputs that workers fetch.
    #[derive(Clone, Debug)]
    pub(crate) struct TensorMetrics {
        /// Jobs sent to the queue without their inputs, which the worker fetches from this gateway.
        #[metric("batchfleet_gateway_tensors_offered_total", unit = "jobs")]
        pub(crate) offered: IntCounter,
        /// Bytes of inputs that workers have fetched from this gateway.
        #[metric("batchfleet_gateway_tensors_sent_bytes_total", unit = "bytes")]
        pub(crate) sent_bytes: IntCounter,
        /// Bytes of outputs that workers have pushed to this gateway.
        #[metric("batchfleet_gateway_tensors_received_bytes_total", unit = "bytes")]
        pub(crate) received_bytes: IntCounter,
        /// Inputs or outputs with an unknown id or a wrong key, or outputs without room: the request had
        /// ended, or the connection was not that of a worker.
        #[metric("batchfleet_gateway_tensors_gone_total", unit = "jobs")]
        pub(crate) gone: IntCounter,
        /// Jobs whose inputs a worker could not fetch, or whose pushed outputs are missing. They were sent
        /// again through Redis.
        #[metric("batchfleet_gateway_tensors_unfetched_total", unit = "jobs")]
        pub(crate) unfetched: IntCounter,
        /// Connections that the port for workers closed, because there were too many.
        #[metric("batchfleet_gateway_tensors_refused_total", unit = "connections")]
        pub(crate) refused: IntCounter,
    }
}

/// The requests of which workers fetch inputs and push outputs.
pub(crate) trait OpenRequests: Clone + Send + Sync + 'static {
    /// The job of a request that waits and was offered under this key.
    fn find(&self, item: Item) -> Option<Arc<Job>>;

    /// Memory for outputs of a request that waits for them and was offered under this key.
    fn room(&self, item: Item, bytes: u64) -> Option<OwnedSemaphorePermit>;

    /// Keeps the outputs of a request until its reply.
    fn put(&self, item: Item, data: Bytes, room: OwnedSemaphorePermit);
}

/// The bound port for workers.
pub(crate) struct TensorPort {
    listener: TcpListener,
    /// The bound address.
    pub(crate) address: SocketAddr,
    /// The most connections that have not yet named a valid key.
    strangers: usize,
}

impl TensorPort {
    /// Binds the port.
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, strangers: MOST_STRANGERS })
    }

    /// Task: answers workers.
    pub(crate) async fn serve(self, requests: impl OpenRequests, metrics: TensorMetrics) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let strangers = Arc::new(Semaphore::new(self.strangers));
        let mut connections = JoinSet::new();
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "failed to accept the connection of a worker");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            let place = Arc::clone(&places).try_acquire_owned();
            let (Ok(place), Ok(stranger)) = (place, Arc::clone(&strangers).try_acquire_owned())
            else {
                metrics.refused.inc();
                continue;
            };
            let (requests, metrics) = (requests.clone(), metrics.clone());
            connections.spawn(async move {
                let ended = match stream.set_nodelay(true) {
                    Ok(()) => {
                        let conversation = Conversation { stream, requests, metrics };
                        conversation.hold(Some(stranger)).await
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = ended {
                    debug!(%error, "connection of a worker ended");
                }
                drop(place);
            });
        }
    }
}

/// A connection of a worker.
struct Conversation<S, R> {
    stream: S,
    requests: R,
    metrics: TensorMetrics,
}

impl<S: AsyncRead + AsyncWrite + Unpin, R: OpenRequests> Conversation<S, R> {
    /// Answers requests until the other side closes the connection, or breaks the rules. Holds
    /// `stranger` until the first valid key, which the first request must have.
    async fn hold(mut self, mut stranger: Option<OwnedSemaphorePermit>) -> io::Result<()> {
        loop {
            let mut head = [0; HEAD];
            let wait = if stranger.is_some() { REQUEST_PATIENCE } else { IDLE };
            timeout(wait, self.stream.read_exact(&mut head)).await??;
            let (kind, count) = decode_head(head).ok_or(io::ErrorKind::InvalidData)?;
            match kind {
                RequestKind::Fetch => self.send_inputs(count, &mut stranger).await?,
                RequestKind::Push => self.take_outputs(count, &mut stranger).await?,
            }
            if stranger.is_some() {
                return Ok(());
            }
        }
    }

    async fn items<const SIZE: usize>(&mut self, count: usize) -> io::Result<Vec<[u8; SIZE]>> {
        let mut items = vec![[0; SIZE]; count];
        timeout(REQUEST_PATIENCE, self.stream.read_exact(items.as_flattened_mut())).await??;
        Ok(items)
    }

    async fn send_inputs(
        &mut self,
        count: usize,
        stranger: &mut Option<OwnedSemaphorePermit>,
    ) -> io::Result<()> {
        for item in self.items::<ITEM>(count).await? {
            // Looked up just before it is sent, so that a slow worker holds the body of one job only.
            let Some(job) = self.requests.find(decode_item(item)) else {
                self.metrics.gone.inc();
                timeout(PATIENCE, self.stream.write_u64_le(GONE)).await??;
                continue;
            };
            drop(stranger.take());
            let bytes = job.inputs.iter().map(|input| input.data.len() as u64).sum();
            timeout(PATIENCE + transfer_time(bytes), self.send(&job, bytes)).await??;
            self.metrics.sent_bytes.inc_by(bytes);
        }
        Ok(())
    }

    async fn send(&mut self, job: &Job, bytes: u64) -> io::Result<()> {
        let length = bytes.to_le_bytes();
        let mut head = &length[..];
        for input in &job.inputs {
            self.stream.write_all_buf(&mut Buf::chain(head, &input.data[..])).await?;
            head = &[];
        }
        self.stream.write_all(head).await
    }

    async fn take_outputs(
        &mut self,
        count: usize,
        stranger: &mut Option<OwnedSemaphorePermit>,
    ) -> io::Result<()> {
        let mut answers = Vec::with_capacity(count);
        let mut taken = Vec::new();
        for item in self.items::<PUSHED_ITEM>(count).await? {
            let (item, length) = decode_pushed_item(item);
            let room = self.requests.room(item, length);
            answers.push(if room.is_some() { TAKES } else { REFUSES });
            match room {
                Some(room) => taken.push((item, length, room)),
                None => self.metrics.gone.inc(),
            }
        }
        timeout(PATIENCE, self.stream.write_all(&answers)).await??;
        for (item, length, room) in taken {
            drop(stranger.take());
            let size = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidData)?;
            let patience = PATIENCE + transfer_time(length);
            let data = timeout(patience, read_data(&mut self.stream, size)).await??;
            self.metrics.received_bytes.inc_by(length);
            self.requests.put(item, data, room);
        }
        timeout(PATIENCE, self.stream.write_u8(TAKES)).await??;
        Ok(())
    }
}

fn transfer_time(bytes: u64) -> Duration {
    Duration::from_millis(bytes / (LOWEST_BANDWIDTH / 1000))
}

#[cfg(test)]
mod tests;
