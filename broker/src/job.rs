//! A request on its way through the queue, and its answer on the way back.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::{EntryId, GatewayId, Priority, Release, RequestId, Tensor, TraceContext, wire};

/// One accepted request as it stands in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The fleet's own id of the request.
    pub id: RequestId,
    /// The gateway boot that owns the request and wants the answer.
    pub gateway: GatewayId,
    /// How often the gateway has submitted it before: 0 the first time.
    pub attempt: u8,
    /// Its class, which decides the stream it stands in.
    pub priority: Priority,
    /// Time to live, counted by the broker's clock from the moment it is added. Millisecond
    /// precision on the wire.
    pub ttl: Duration,
    /// How many rows of the batch it takes: the first dimension of its inputs, or 1 for a model
    /// that does not batch.
    pub rows: u32,
    /// [`wire::digest`] of the inputs; the worker sends it back, so that the
    /// gateway can prove that an answer belongs to the very input it holds.
    pub digest: u64,
    /// Inputs, in the model's order.
    pub inputs: Vec<Tensor>,
    /// Names of the wanted outputs; empty means all of them.
    pub outputs: Vec<String>,
    /// The gateway's span of it, if it is traced.
    pub trace: Option<TraceContext>,
}

impl Job {
    /// About how many bytes it takes in the queue.
    pub fn size(&self) -> usize {
        wire::job_size_hint(self)
    }
}

/// A claimed job: held by one worker, which owes it a [`Settlement`](crate::Settlement).
///
/// Not `Clone`: what is owed exists once.
#[derive(Debug)]
pub struct Delivery {
    /// Its place in the queue, which settling removes.
    pub entry: EntryId,
    /// The request.
    pub job: Job,
    /// How often it was claimed, this time included: 1 unless a worker died over it, or held it for
    /// too long.
    pub deliveries: u32,
    /// How long it stood in the queue, by the broker's clock.
    pub waited: Duration,
    /// When it was claimed, by this process's clock.
    pub claimed_at: Instant,
    /// When it expires, by this process's clock: nothing may start after it.
    pub deadline: Instant,
    /// Whether its gateway listened when it was claimed, as far as is known. If not, the gateway is
    /// gone, or will ask again as soon as it listens: to run it would be in vain.
    pub awaited: bool,
}

impl Delivery {
    /// How long ago it was added to the queue.
    pub fn age(&self) -> Duration {
        self.waited + self.claimed_at.elapsed()
    }
}

/// Where a request's time went, and the batch it travelled in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From being added to the queue until a worker claimed it.
    pub queue: Duration,
    /// From being claimed until its batch began.
    pub batch_wait: Duration,
    /// Joining the batch's inputs.
    pub compute_input: Duration,
    /// The run of the model.
    pub compute_infer: Duration,
    /// Splitting the batch's outputs.
    pub compute_output: Duration,
    /// Rows of the batch it travelled in, padding not counted.
    pub batch_rows: u32,
    /// Rows added to the batch to reach a warmed size.
    pub padded_rows: u32,
    /// Why the batch left when it did; `None` if the request never ran.
    pub release: Option<Release>,
}

/// The answer to one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request it answers.
    pub id: RequestId,
    /// The attempt it answers.
    pub attempt: u8,
    /// The digest of the inputs it was computed from.
    pub digest: u64,
    /// Where the time went.
    pub timing: Timing,
    /// The outputs asked for, in the model's order, or why there are none.
    pub outcome: Result<Vec<Tensor>, ReplyError>,
}

/// Why a worker has no outputs for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyError {
    /// The kind of failure.
    pub failure: Failure,
    /// What the caller may read; no paths, no addresses.
    pub message: String,
}

/// The kinds of failure a worker reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Failure {
    /// The input does not fit the model; only the model could tell.
    BadInput = 1,
    /// The model failed on it.
    Model = 2,
    /// It was claimed after its deadline.
    Expired = 3,
    /// It killed its worker too often.
    Poison = 4,
    /// Nobody listened for its answer, so it did not run. A gateway that hears it sends it again.
    Unawaited = 5,
}

impl Failure {
    /// Every failure, in the order of its wire code.
    pub const ALL: [Self; 5] =
        [Self::BadInput, Self::Model, Self::Expired, Self::Poison, Self::Unawaited];

    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The failure with this wire code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|failure| failure.code() == code)
    }
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
