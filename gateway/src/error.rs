//! Errors of requests. Each error has one code, for the response, the metrics and the log.

use std::time::Duration;

use batchfleet_broker::{Failure, Reply, ReplyError};
use batchfleet_oip::Problem;

use crate::{memory::BudgetFull, refusal::RefusalKind};

/// The result of a request: the reply to its job, or an error.
pub(crate) type InferResult = Result<Reply, InferError>;

/// The reason why a request got no prediction.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InferError {
    /// The request itself is invalid.
    #[error("{}", .0.message)]
    Problem(#[from] Problem),
    /// The client exceeds its share of requests per second. Contains the time until the next
    /// request is allowed.
    #[error("this client sends more requests than its share")]
    Quota(Duration),
    /// The client has as many requests in flight as its share allows.
    #[error("this client has too many requests in flight")]
    Concurrency,
    /// The address of the client has failed to authenticate too often. Contains the time until its
    /// next failure is within the rate.
    #[error("too many failed authentications from this address")]
    AuthFailures(Duration),
    /// The bodies of requests and responses use the whole memory budget.
    #[error("the bodies of other requests fill this gateway's memory")]
    BodyBytes,
    /// The connections and open calls of clients use the whole memory of connections.
    #[error("the requests and answers of other connections fill this gateway's memory")]
    ConnectionBytes,
    /// The queue is too long for the request's deadline. Contains the time until the queue may be
    /// short enough.
    #[error("the queue is too long for an answer before the deadline")]
    QueueWait(Duration),
    /// As many requests wait for the model as its config allows.
    #[error("as many requests wait for this model as max_queue_size in its config.pbtxt allows")]
    QueueLimit,
    /// This gateway has the maximum number of requests in flight.
    #[error("too many requests are in flight at this gateway")]
    InFlight,
    /// The model is known, but no worker serves it, and no controller promises to start one.
    #[error("no worker serves model {0:?} now")]
    NoWorkers(String),
    /// The fleet of the model was deleted while the request waited.
    #[error("the fleet of model {0:?} was deleted, and no worker serves the model now")]
    FleetDeleted(String),
    /// This gateway is shutting down.
    #[error("this gateway is shutting down")]
    Draining,
    /// The queue is full.
    #[error("the queue is full")]
    QueueFull,
    /// The queue cannot be reached.
    #[error("the queue cannot be reached")]
    QueueUnreachable,
    /// The deadline passed before the answer came.
    #[error("the deadline passed before the answer came")]
    Deadline,
    /// A worker answered with an error.
    #[error("{0}")]
    Worker(ReplyError),
    /// The reply was computed from the input of another request. Must never happen.
    #[error("an internal check failed; nothing was answered")]
    Misrouted,
}

impl From<BudgetFull> for InferError {
    fn from(_: BudgetFull) -> Self {
        Self::BodyBytes
    }
}

impl InferError {
    /// The kind of refusal, if this error refuses a correct request before it is accepted.
    pub(crate) fn refusal(&self) -> Option<RefusalKind> {
        match self {
            Self::Quota(_) => Some(RefusalKind::Quota),
            Self::Concurrency => Some(RefusalKind::Concurrency),
            Self::BodyBytes => Some(RefusalKind::BodyBytes),
            Self::QueueWait(_) | Self::QueueLimit => Some(RefusalKind::QueueWait),
            Self::InFlight => Some(RefusalKind::InFlight),
            Self::NoWorkers(_) | Self::FleetDeleted(_) => Some(RefusalKind::NoWorkers),
            Self::Draining => Some(RefusalKind::Draining),
            Self::QueueFull => Some(RefusalKind::BrokerFull),
            Self::QueueUnreachable => Some(RefusalKind::BrokerUnready),
            Self::Problem(_)
            | Self::AuthFailures(_)
            | Self::ConnectionBytes
            | Self::Deadline
            | Self::Worker(_)
            | Self::Misrouted => None,
        }
    }

    /// Whether the request was refused because too much other work is ahead of it.
    pub(crate) fn is_overload(&self) -> bool {
        matches!(self, Self::QueueWait(_) | Self::QueueLimit | Self::InFlight)
    }

    /// The name of the error: `x-error-code`, metric label, log field.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Problem(problem) => problem.code,
            Self::AuthFailures(_) => "auth_failures",
            Self::ConnectionBytes => "connection_bytes",
            Self::Deadline => "deadline",
            Self::Worker(error) => match error.failure {
                Failure::BadInput => "bad_input",
                Failure::Model => "model_error",
                Failure::Expired | Failure::Unawaited | Failure::Unfetched => "deadline",
                Failure::Poison => "poison_input",
            },
            refused => refused.refusal().map_or("internal", RefusalKind::code),
        }
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Problem(problem) => problem.status,
            Self::Quota(_) | Self::Concurrency | Self::AuthFailures(_) => 429,
            Self::BodyBytes
            | Self::ConnectionBytes
            | Self::QueueWait(_)
            | Self::QueueLimit
            | Self::InFlight
            | Self::NoWorkers(_)
            | Self::FleetDeleted(_)
            | Self::Draining
            | Self::QueueFull
            | Self::QueueUnreachable => 503,
            Self::Deadline => 504,
            Self::Worker(error) => match error.failure {
                Failure::BadInput => 400,
                Failure::Model | Failure::Poison => 500,
                Failure::Expired | Failure::Unawaited | Failure::Unfetched => 504,
            },
            Self::Misrouted => 500,
        }
    }

    /// How long the client should wait before the next attempt, if another attempt may succeed.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Quota(wait) | Self::QueueWait(wait) | Self::AuthFailures(wait) => Some(*wait),
            Self::ConnectionBytes => Some(Duration::from_secs(1)),
            _ => self.refusal().map(|_| Duration::from_secs(1)),
        }
    }
}
