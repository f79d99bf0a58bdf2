//! Why a request got no prediction: one name for the HTTP answer, the metric and the log.

use std::time::Duration;

use actix_web::{
    HttpResponse, HttpResponseBuilder, ResponseError,
    http::{StatusCode, header},
};
use batchfleet_broker::{BrokerError, Failure, ReplyError};
use serde_json::json;

use batchfleet_oip::Problem;

use crate::refusal::Refusal;

/// The header that carries an error's code.
pub(crate) const ERROR_CODE: header::HeaderName = header::HeaderName::from_static("x-error-code");

/// Why a request got no prediction.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InferError {
    /// The request itself is wrong.
    #[error("{}", .0.message)]
    Problem(#[from] Problem),
    /// This client asks more often than it may; when it may again.
    #[error("this client sends more requests than its share")]
    Quota(Duration),
    /// This client has as many requests in flight as it may.
    #[error("this client has too many requests in flight")]
    Concurrency,
    /// The bodies being read and answered take all the memory they may.
    #[error("the bodies of other requests fill this gateway's memory")]
    BodyBytes,
    /// The queue is too long for the request's deadline; when it may be short enough.
    #[error("the queue is too long for an answer before the deadline")]
    QueueWait(Duration),
    /// As many requests as allowed are already waiting.
    #[error("too many requests are in flight at this gateway")]
    InFlight,
    /// The model is known, but no worker serves it, and none is promised.
    #[error("no worker serves model {0:?} now")]
    NoWorkers(String),
    /// This gateway is shutting down.
    #[error("this gateway is shutting down")]
    Draining,
    /// The queue has no room.
    #[error("the queue is full")]
    QueueFull,
    /// The queue could not be reached.
    #[error("the queue cannot be reached")]
    QueueUnreachable,
    /// The answer did not come in time.
    #[error("the deadline passed before the answer came")]
    Deadline,
    /// The worker has an error for it.
    #[error("{0}")]
    Worker(ReplyError),
    /// An answer came that was not computed from this request's input. Must never happen.
    #[error("an internal check failed; nothing was answered")]
    Misrouted,
}

impl InferError {
    /// The refusal that this error is, if the request was correct and was not accepted.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Quota(_) => Some(Refusal::Quota),
            Self::Concurrency => Some(Refusal::Concurrency),
            Self::BodyBytes => Some(Refusal::BodyBytes),
            Self::QueueWait(_) => Some(Refusal::QueueWait),
            Self::InFlight => Some(Refusal::InFlight),
            Self::NoWorkers(_) => Some(Refusal::NoWorkers),
            Self::Draining => Some(Refusal::Draining),
            Self::QueueFull => Some(Refusal::BrokerFull),
            Self::QueueUnreachable => Some(Refusal::BrokerUnready),
            Self::Problem(_) | Self::Deadline | Self::Worker(_) | Self::Misrouted => None,
        }
    }

    /// The name of the error: `x-error-code`, metric label, log field.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Problem(problem) => problem.code,
            Self::Deadline => "deadline",
            Self::Worker(error) => match error.failure {
                Failure::BadInput => "bad_input",
                Failure::Model => "model_error",
                Failure::Expired | Failure::Unawaited => "deadline",
                Failure::Poison => "poison_input",
            },
            refused => refused.refusal().map_or("internal", Refusal::code),
        }
    }

    /// When asking again is worth while, where that can be said.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Quota(wait) | Self::QueueWait(wait) => Some(*wait),
            _ if matches!(self.status().as_u16(), 429 | 503) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Problem(problem) => {
                StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST)
            }
            Self::Quota(_) | Self::Concurrency => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyBytes
            | Self::QueueWait(_)
            | Self::InFlight
            | Self::NoWorkers(_)
            | Self::Draining
            | Self::QueueFull
            | Self::QueueUnreachable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::Worker(error) => match error.failure {
                Failure::BadInput => StatusCode::BAD_REQUEST,
                Failure::Model | Failure::Poison => StatusCode::INTERNAL_SERVER_ERROR,
                Failure::Expired | Failure::Unawaited => StatusCode::GATEWAY_TIMEOUT,
            },
            Self::Misrouted => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<BrokerError> for InferError {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Full => Self::QueueFull,
            _ => Self::QueueUnreachable,
        }
    }
}

impl ResponseError for InferError {
    fn status_code(&self) -> StatusCode {
        self.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status());
        match self.status() {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                response.insert_header((header::ACCEPT_ENCODING, "gzip, deflate"));
            }
            StatusCode::UNAUTHORIZED => {
                response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
            }
            _ => {}
        }
        if let Some(wait) = self.retry_after() {
            // Whole seconds, and never sooner than it is worth while.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.insert_header((header::RETRY_AFTER, seconds.max(1)));
        }
        say(response, self.code(), &self.to_string())
    }
}

/// The body every error on every path has: `{"error": "<code>: <text>"}`.
///
/// Clients of the protocol show `error` to their user, and nothing else of the answer.
pub(crate) fn say(
    mut response: HttpResponseBuilder,
    code: &'static str,
    text: &str,
) -> HttpResponse {
    response.insert_header((ERROR_CODE, code)).json(json!({ "error": format!("{code}: {text}") }))
}
