//! Jobs in the queue, and replies to them.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::{
    EntryId, GatewayId, Offer, Priority, Pushed, Release, RequestId, Tensor, TraceContext,
};

/// An accepted request in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The id of the request within the fleet.
    pub id: RequestId,
    /// The gateway boot that owns the request and receives the reply.
    pub gateway: GatewayId,
    /// How often the gateway has submitted the request before; 0 for the first attempt.
    pub attempt: u8,
    /// The class, which selects the stream.
    pub priority: Priority,
    /// Time to live by the broker's clock, from the moment the job is added. Milliseconds on the
    /// wire.
    pub ttl: Duration,
    /// Rows of the request: the size of the dimension of the inputs that counts rows, or 1 if the
    /// model does not batch.
    pub rows: u32,
    /// [`wire::digest`](crate::wire::digest) of the inputs. The worker copies it into the reply, so
    /// that the gateway can check that the reply was computed from the same inputs.
    pub digest: u64,
    /// Inputs, in the model's order.
    pub inputs: Vec<Tensor>,
    /// Names of the requested outputs; empty for all.
    pub outputs: Vec<String>,
    /// The gateway's span, if the request is traced.
    pub trace: Option<TraceContext>,
    /// Outputs of which the caller wants the classes with the highest values, instead of the output
    /// itself.
    pub classes: Vec<ClassCount>,
    /// Where the worker fetches the data of the inputs; `None` if the data travels with the job.
    pub offer: Option<Box<Offer>>,
}

impl Job {
    /// Whether the data of the inputs was offered and has not been fetched.
    pub fn lacks_inputs(&self) -> bool {
        self.offer.as_ref().is_some_and(|offer| offer.is_owed(&self.inputs))
    }
}

/// How many classes of an output the caller wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassCount {
    /// The name of the output.
    pub output: String,
    /// The number of classes of each row, at least 1.
    pub count: u32,
}

/// A claimed job. The worker that holds the job must [settle](crate::Settlement) it or hand it
/// back.
///
/// Not `Clone`, so that each delivery is settled once.
#[derive(Debug)]
pub struct Delivery {
    /// The entry in the queue, removed when the job is settled.
    pub entry: EntryId,
    /// The job.
    pub job: Job,
    /// How often the job was claimed, including this claim: 1 unless a worker died while it held
    /// the job, or exceeded the lease.
    pub deliveries: u32,
    /// How long the job waited in the queue, by the broker's clock.
    pub waited: Duration,
    /// When the job was claimed, by this process's clock.
    pub claimed_at: Instant,
    /// When the job expires, by this process's clock. An expired job may not start.
    pub deadline: Instant,
    /// Whether the gateway was subscribed to its reply channel at the claim, as far as known. A job
    /// of an unsubscribed gateway need not run: the gateway is gone, or submits the job again once
    /// it has subscribed.
    pub awaited: bool,
}

impl Delivery {
    /// The time since the job was added to the queue.
    pub fn age(&self) -> Duration {
        self.waited + self.claimed_at.elapsed()
    }
}

/// How the time of a request was spent, and details of its batch.
///
/// A request with more rows than N runs in several batches. Its times are sums over these batches,
/// and the details are of the last of the largest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From the queue to the claim.
    pub queue: Duration,
    /// From the claim to the start of the batch, and between the batches of the request.
    pub batch_wait: Duration,
    /// Joining the inputs of the batch.
    pub compute_input: Duration,
    /// Running the model.
    pub compute_infer: Duration,
    /// Splitting the outputs of the batch.
    pub compute_output: Duration,
    /// Rows of the batch without padding.
    pub batch_rows: u32,
    /// Rows of padding in the batch.
    pub padded_rows: u32,
    /// Why the batch was released; `None` if the request never ran.
    pub release: Option<Release>,
}

/// The reply to one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request.
    pub id: RequestId,
    /// The attempt.
    pub attempt: u8,
    /// The digest of the inputs from which the reply was computed.
    pub digest: u64,
    /// How the time of the request was spent.
    pub timing: Timing,
    /// The requested outputs in the model's order, or the reason for the failure.
    pub outcome: Result<Vec<Tensor>, ReplyError>,
    /// What the gateway has of the outputs already; `None` if their data travels with the reply.
    pub pushed: Option<Pushed>,
}

/// Why a worker has no outputs for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyError {
    /// The kind of failure.
    pub failure: Failure,
    /// The message for the caller, without paths and addresses.
    pub message: String,
}

/// The kinds of failure that a worker reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumCount, strum::FromRepr)]
#[repr(u8)]
pub enum Failure {
    /// The input does not fit the model, in a way that only the model can detect.
    BadInput = 1,
    /// The model failed.
    Model = 2,
    /// The job was claimed after its deadline.
    Expired = 3,
    /// The job killed too many workers.
    Poison = 4,
    /// The gateway was unsubscribed, so the job did not run. The gateway submits the job again when
    /// it receives this failure.
    Unawaited = 5,
    /// The worker could not fetch the [offered](crate::Offer) inputs, so the job did not run. The
    /// gateway submits the job again, with the inputs in it. Only gateways that offer inputs get this
    /// failure.
    Unfetched = 6,
}

impl Failure {
    /// Every failure, in the order of its wire code.
    pub const ALL: [Self; <Self as strum::EnumCount>::COUNT] = [
        Self::BadInput,
        Self::Model,
        Self::Expired,
        Self::Poison,
        Self::Unawaited,
        Self::Unfetched,
    ];

    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The failure with this wire code.
    pub const fn from_code(code: u8) -> Option<Self> {
        Self::from_repr(code)
    }
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
