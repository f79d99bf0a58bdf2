//! Responses that a connection sends itself, to bytes that are no request.

use batchfleet_oip::Problem;
use serde_json::json;

/// The bytes of a response that refuses a request, after which the connection closes.
pub(super) fn response(problem: &Problem) -> Vec<u8> {
    let Problem { status, code, message } = problem;
    let reason = match status {
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Bad Request",
    };
    let retry = if *status == 503 { "retry-after: 1\r\n" } else { "" };
    let body = json!({ "error": format!("{code}: {message}") }).to_string();
    format!(
        "HTTP/1.1 {status} {reason}\r\nx-error-code: {code}\r\n{retry}connection: close\r\n\
         content-type: application/json\r\nx-content-type-options: nosniff\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
