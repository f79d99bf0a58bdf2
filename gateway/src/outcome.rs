//! Classifies the ends of accepted requests, for metrics and the log.

use batchfleet_broker::{Failure, ReplyError};

use crate::error::{InferError, InferResult};

/// The outcome of an accepted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::VariantArray)]
pub(crate) enum RequestOutcome {
    /// The caller got the outputs.
    Ok,
    /// The model failed, or rejected the input.
    ModelError,
    /// The request killed its worker too often.
    Poison,
    /// The deadline passed.
    Expired,
    /// The queue did not take the job.
    Unavailable,
    /// The caller left.
    Cancelled,
}

impl RequestOutcome {
    /// The outcome of a request whose caller waited for the result.
    pub(crate) fn of(result: &InferResult) -> Self {
        match result {
            Ok(reply) => reply.outcome.as_ref().map_or_else(Self::of_worker_error, |_| Self::Ok),
            Err(error) => Self::of_error(error),
        }
    }

    /// The outcome of an accepted request that ended with `error`.
    pub(crate) fn of_error(error: &InferError) -> Self {
        match error {
            InferError::Worker(error) => Self::of_worker_error(error),
            InferError::Deadline => Self::Expired,
            InferError::Misrouted => Self::ModelError,
            _ => Self::Unavailable,
        }
    }

    fn of_worker_error(error: &ReplyError) -> Self {
        match error.failure {
            Failure::BadInput | Failure::Model => Self::ModelError,
            Failure::Poison => Self::Poison,
            Failure::Expired | Failure::Unawaited | Failure::Unfetched => Self::Expired,
        }
    }

    /// The `outcome` label of metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ModelError => "model_error",
            Self::Poison => "poison",
            Self::Expired => "expired",
            Self::Unavailable => "unavailable",
            Self::Cancelled => "cancelled",
        }
    }
}
