//! Reads the model, the body length and single headers from the head of a request.

use std::sync::Arc;

use actix_web::{
    HttpRequest,
    http::header::{self, HeaderMap},
};
use batchfleet_oip::Problem;

use crate::{api::Api, error::InferError, model::Model};

/// The model name and the version in the path.
pub(super) fn model_path(request: &HttpRequest) -> (&str, Option<&str>) {
    let path = request.match_info();
    (path.get("model").unwrap_or_default(), path.get("version"))
}

/// The model that the path names, if the client may use it.
pub(super) async fn model(api: &Api, request: &HttpRequest) -> Result<Arc<Model>, InferError> {
    let client = api.core.clients.identify_patiently(request).await?;
    let (name, version) = model_path(request);
    Ok(api.core.catalog.find(name, version, |name| client.may_use(name))?)
}

/// The announced length of the body. The server has validated the header as a number.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// The value of a header that may occur only once and must be text.
pub(super) fn single_header<'a>(
    request: &'a HttpRequest,
    name: &'static str,
) -> Result<Option<&'a str>, Problem> {
    let mut values = request.headers().get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text.trim())),
            Err(_) => Err(Problem::bad("bad_header", format!("{name} is not text"))),
        },
        _ => Err(Problem::bad("bad_header", format!("{name} is given twice"))),
    }
}
