//! A connection to the port for workers of a gateway.

use std::{io, net::SocketAddr, time::Duration};

use batchfleet_broker::{
    Job, Pushed,
    offer::{GONE, Item, TAKES, encode_fetch, encode_push, fill_in, read_data},
    wire,
};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{error::Elapsed, timeout},
};

use super::FetchFailure;
use crate::{metrics::ModelMetrics, settle::JobReply};

/// How long to wait for a gateway, besides the time of the transfer at [`LOWEST_BANDWIDTH`].
const PATIENCE: Duration = Duration::from_secs(1);
/// The lowest bandwidth at which inputs arrive in time, in bytes per second.
const LOWEST_BANDWIDTH: u64 = 10_000_000;
/// The most bytes of the inputs of one job.
const MOST_BYTES: u64 = 2 << 30;

/// Why a request ended before all answers had arrived.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The gateway did not answer a moment ago.
    #[error("the gateway did not answer a moment ago")]
    Shunned,
    /// No connection, or it broke.
    #[error("{error}")]
    Broken {
        #[source]
        error: io::Error,
        /// Whether nothing had arrived.
        before_answer: bool,
    },
    /// The answer did not arrive in time.
    #[error("the gateway did not answer in time")]
    Timeout,
    /// The gateway sent other lengths than those that it has offered, or has offered too much.
    #[error("the lengths of the inputs are not as offered")]
    Invalid,
}

impl Fault {
    /// The kind of failure of the jobs whose inputs are missing.
    pub(super) fn failure(&self) -> FetchFailure {
        match self {
            Self::Shunned | Self::Broken { .. } => FetchFailure::Unreachable,
            Self::Timeout => FetchFailure::Timeout,
            Self::Invalid => FetchFailure::Invalid,
        }
    }

    /// Whether a kept connection may have been closed before the request.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self, Self::Broken { before_answer: true, .. })
    }
}

impl From<Elapsed> for Fault {
    fn from(_: Elapsed) -> Self {
        Self::Timeout
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Broken { error, before_answer: false }
    }
}

pub(super) struct Connection(TcpStream);

impl Connection {
    pub(super) async fn open(gateway: SocketAddr) -> Result<Self, Fault> {
        let stream = timeout(PATIENCE, TcpStream::connect(gateway)).await??;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Sends one request for the inputs of all jobs, and fills them in as they arrive. Inputs that the
    /// gateway does not have, or that have another digest, are left out and counted. Counts down the
    /// jobs that are `left` without an answer.
    pub(super) async fn fetch(
        &mut self,
        jobs: &mut [&mut Job],
        left: &mut usize,
        metrics: &ModelMetrics,
    ) -> Result<(), Fault> {
        let items = jobs.iter().filter_map(|job| {
            let key = job.offer.as_ref()?.key;
            Some(Item { id: job.id, key })
        });
        self.send(&encode_fetch(items)).await?;
        for (index, job) in jobs.iter_mut().enumerate() {
            let length = timeout(PATIENCE, self.0.read_u64_le()).await?;
            let length =
                length.map_err(|error| Fault::Broken { error, before_answer: index == 0 })?;
            if length == GONE {
                *left -= 1;
                metrics.fetch_failures(FetchFailure::Gone).inc();
                continue;
            }
            let offer = job.offer.as_ref().ok_or(Fault::Invalid)?;
            if offer.bytes() != Some(length) || length > MOST_BYTES {
                return Err(Fault::Invalid);
            }
            let size = usize::try_from(length).map_err(|_| Fault::Invalid)?;
            let data = timeout(patience(length), read_data(&mut self.0, size)).await??;
            *left -= 1;
            metrics.fetched_bytes.inc_by(length);
            if !fill_in_job(job, data) {
                metrics.fetch_failures(FetchFailure::Digest).inc();
            }
        }
        Ok(())
    }

    /// Sends one request with the outputs of all replies. Marks the replies whose outputs the gateway has
    /// taken.
    pub(super) async fn push(
        &mut self,
        replies: &mut [&mut JobReply],
        metrics: &ModelMetrics,
    ) -> Result<(), Fault> {
        let items = replies.iter().filter_map(|reply| {
            let item = Item { id: reply.id(), key: reply.offer()?.key };
            Some((item, reply.output_bytes() as u64))
        });
        self.send(&encode_push(items)).await?;
        let mut answers = vec![0; replies.len()];
        timeout(PATIENCE, self.0.read_exact(&mut answers))
            .await?
            .map_err(|error| Fault::Broken { error, before_answer: true })?;
        let mut pushed = Vec::with_capacity(replies.len());
        for (reply, _) in replies.iter_mut().zip(answers).filter(|(_, answer)| *answer == TAKES) {
            let (outputs, bytes) = (reply.tensors(), reply.output_bytes() as u64);
            let sent = async {
                for output in outputs {
                    self.0.write_all(&output.data).await?;
                }
                Ok::<_, Fault>(())
            };
            timeout(patience(bytes), sent).await??;
            metrics.pushed_bytes.inc_by(bytes);
            pushed.push((Pushed::of(outputs), reply));
        }
        if timeout(PATIENCE, self.0.read_u8()).await?? != TAKES {
            return Err(Fault::Invalid);
        }
        for (pushed, reply) in pushed {
            reply.set_pushed(pushed);
        }
        Ok(())
    }

    async fn send(&mut self, request: &[u8]) -> Result<(), Fault> {
        let sent = timeout(PATIENCE, self.0.write_all(request)).await?;
        sent.map_err(|error| Fault::Broken { error, before_answer: true })
    }
}

/// How long to wait for the transfer of so many bytes.
fn patience(bytes: u64) -> Duration {
    PATIENCE + Duration::from_millis(bytes / (LOWEST_BANDWIDTH / 1000))
}

/// Gives the inputs of a job their data. Leaves them without, and returns `false`, if they are not the
/// inputs from which the gateway computed the digest.
fn fill_in_job(job: &mut Job, data: Bytes) -> bool {
    let filled = job.offer.as_ref().and_then(|offer| fill_in(&job.inputs, &offer.lengths, data));
    match filled.filter(|inputs| wire::digest(inputs) == job.digest) {
        Some(inputs) => {
            job.inputs = inputs;
            true
        }
        None => false,
    }
}
