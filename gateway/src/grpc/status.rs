//! Converts errors to gRPC statuses.

use std::time::Duration;

use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

use crate::error::InferError;

/// The metadata with an error's code, as the header of the same name over HTTP.
const ERROR_CODE: &str = "x-error-code";
/// The metadata with the time after which a client may send the request again, in milliseconds. The
/// retries that gRPC clients do by themselves follow it.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The status of an error, with the same code and sentence as over HTTP.
pub(super) fn status(error: &InferError) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(ERROR_CODE, MetadataValue::from_static(error.code()));
    if let Some(wait) = error.retry_after() {
        metadata.insert(PUSHBACK, MetadataValue::from(milliseconds(wait)));
    }
    Status::with_metadata(code(error), text(error), metadata)
}

/// The message of an error: its code and its sentence.
pub(super) fn text(error: &InferError) -> String {
    format!("{}: {error}", error.code())
}

fn code(error: &InferError) -> Code {
    match error.status() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        408 | 504 => Code::DeadlineExceeded,
        413 | 429 => Code::ResourceExhausted,
        415 => Code::Unimplemented,
        400..500 if error.code() == "unsupported" => Code::Unimplemented,
        400..500 if error.code() == "cancelled" => Code::Cancelled,
        400..500 => Code::InvalidArgument,
        503 => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// Rounded up: an earlier attempt would be refused again.
fn milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{Failure, ReplyError};
    use batchfleet_oip::Problem;

    use super::*;

    #[test]
    fn errors_keep_their_code_and_sentence() {
        let status = status(&InferError::QueueWait(Duration::from_micros(1_500_001)));
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(
            status.message(),
            "queue_wait: the queue is too long for an answer before the deadline"
        );
        assert_eq!(status.metadata().get("x-error-code").unwrap(), "queue_wait");
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "1501");
    }

    #[test]
    fn each_kind_of_error_has_the_status_that_clients_expect() {
        let problem = |status, code| Problem { status, code, message: "why".into() }.into();
        let worker = |failure| InferError::Worker(ReplyError { failure, message: "why".into() });
        for (error, code, retries) in [
            (problem(400, "bad_shape"), Code::InvalidArgument, false),
            (problem(400, "unsupported"), Code::Unimplemented, false),
            (problem(401, "unauthorized"), Code::Unauthenticated, false),
            (problem(403, "forbidden"), Code::PermissionDenied, false),
            (Problem::model_not_found("why").into(), Code::NotFound, false),
            (problem(413, "too_large"), Code::ResourceExhausted, false),
            (problem(415, "unsupported_media_type"), Code::Unimplemented, false),
            (problem(408, "body_timeout"), Code::DeadlineExceeded, false),
            (InferError::Quota(Duration::from_secs(1)), Code::ResourceExhausted, true),
            (InferError::Concurrency, Code::ResourceExhausted, true),
            (InferError::BodyBytes, Code::Unavailable, true),
            (InferError::NoWorkers("m".into()), Code::Unavailable, true),
            (InferError::Draining, Code::Unavailable, true),
            (InferError::Deadline, Code::DeadlineExceeded, false),
            (worker(Failure::BadInput), Code::InvalidArgument, false),
            (worker(Failure::Model), Code::Internal, false),
            (worker(Failure::Expired), Code::DeadlineExceeded, false),
            (InferError::Misrouted, Code::Internal, false),
        ] {
            let status = status(&error);
            assert_eq!(status.code(), code, "{error:?}");
            assert_eq!(status.metadata().contains_key(PUSHBACK), retries, "{error:?}");
        }
    }
}
