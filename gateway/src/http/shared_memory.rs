//! The shared memory of Triton's clients, which a fleet does not have: clients that ask what is registered,
//! or unregister what they left behind, go on; those that register are told what to do.

use actix_web::{HttpResponse, http::header::ContentType};
use batchfleet_oip::Problem;

use crate::error::InferError;

/// The kinds of shared memory, as in the paths.
pub(super) const KINDS: [&str; 2] = ["systemsharedmemory", "cudasharedmemory"];

/// `GET /v2/{kind}[/region/{region}]/status`: no region is registered.
pub(super) async fn status() -> HttpResponse {
    HttpResponse::Ok().insert_header(ContentType::json()).body("[]")
}

/// `POST /v2/{kind}[/region/{region}]/unregister`: there is nothing to do.
pub(super) async fn unregister() -> HttpResponse {
    HttpResponse::Ok().finish()
}

/// `POST /v2/{kind}/region/{region}/register`
pub(super) async fn register() -> Result<HttpResponse, InferError> {
    let way = "gateway and client share no memory; send tensors as binary data";
    Err(Problem::unsupported(way).into())
}
