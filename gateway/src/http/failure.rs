//! Converts errors to HTTP responses.

use actix_web::{
    HttpResponse, HttpResponseBuilder, ResponseError,
    http::{StatusCode, header},
};
use serde_json::json;

use crate::error::InferError;

/// The header with an error's code.
pub(super) const ERROR_CODE: header::HeaderName = header::HeaderName::from_static("x-error-code");

impl ResponseError for InferError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status()).unwrap_or(StatusCode::BAD_REQUEST)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        match self.status_code() {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                response.insert_header((header::ACCEPT_ENCODING, "gzip, deflate"));
            }
            StatusCode::UNAUTHORIZED => {
                response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
            }
            _ => {}
        }
        if let Some(wait) = self.retry_after() {
            // Rounded up to whole seconds: an earlier attempt would be refused again.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.insert_header((header::RETRY_AFTER, seconds.max(1)));
        }
        error_body(response, self.code(), &self.to_string())
    }
}

/// The body of every error on every path: `{"error": "<code>: <text>"}`.
///
/// Clients of the protocol show only the `error` field to their users.
pub(crate) fn error_body(
    mut response: HttpResponseBuilder,
    code: &'static str,
    text: &str,
) -> HttpResponse {
    response.insert_header((ERROR_CODE, code)).json(json!({ "error": format!("{code}: {text}") }))
}
