//! Responses of the live page other than its files.

use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{self, ContentType},
    },
};
use serde::Serialize;

use crate::http::error_body;

/// JSON that must not be cached.
pub(super) fn fresh(body: impl Serialize) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::json())
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(body)
}

/// An error response of the live page.
pub(super) fn refuse(status: StatusCode, code: &'static str, text: &str) -> HttpResponse {
    error_body(HttpResponse::build(status), code, text)
}
