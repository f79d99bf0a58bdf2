//! Metadata, health, batching and statistics of the server and its models.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, http::header::ContentType, web::Data};
use serde_json::json as object;

use super::{failure::error_body, head, request_body::RequestBody, unread::refuse};
use crate::{
    api::Api,
    body::{self, Bounds},
    describe,
    error::InferError,
    model::Model,
};
use batchfleet_oip::{
    metadata::{self, IndexRequest},
    statistics,
};

/// Maximum size of a request body for the repository index, in bytes.
const MAX_INDEX_REQUEST: usize = 64 << 10;

/// `GET /v2/health/live`: 200 whenever the server responds.
pub(super) async fn live() -> HttpResponse {
    json(object!({ "live": true }))
}

/// `GET /v2/health/ready`: whether this gateway should receive requests.
pub(super) async fn ready(api: Data<Api>) -> HttpResponse {
    match describe::unready(&api) {
        None => json(object!({ "ready": true, "live": true })),
        Some(reason) => error_body(HttpResponse::ServiceUnavailable(), "not_ready", &reason),
    }
}

/// `GET /v2`
pub(super) async fn server() -> HttpResponse {
    json(metadata::server())
}

/// `GET /v2/models/{model}[/versions/{version}]`
pub(super) async fn model(
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let model = head::model(&api, &request).await?;
    let versions = api.core.catalog.versions(&model.spec.queue.model);
    Ok(json(metadata::model(&model.spec, &versions)))
}

/// `GET .../ready`: 200 if a worker serves the model.
pub(super) async fn model_ready(
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let model = head::model(&api, &request).await?;
    describe::ready(&api, &model)?;
    let name = &model.spec.queue.model;
    Ok(json(object!({ "name": name, "ready": true })))
}

/// `GET .../config`
pub(super) async fn model_config(
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let model = head::model(&api, &request).await?;
    Ok(json(describe::config(&api, &model)))
}

/// `GET .../batching`: the reasons for N, and its effects.
pub(super) async fn batching(
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let model = head::model(&api, &request).await?;
    Ok(json(api.core.catalog.explain(&model)))
}

/// `GET .../stats`: the version in the path, or else every version of the model.
pub(super) async fn model_statistics(
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let model = head::model(&api, &request).await?;
    if head::model_path(&request).1.is_some() {
        return Ok(report(&[model]));
    }
    Ok(report(&describe::versions(&api, &model)))
}

/// `GET /v2/models/stats`
pub(super) async fn all_statistics(
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let client = api.core.clients.identify_patiently(&request).await?;
    Ok(report(&describe::usable(&api, &client)))
}

/// The counts and durations of `models`.
fn report(models: &[Arc<Model>]) -> HttpResponse {
    let totals: Vec<_> = models.iter().map(|model| model.books.statistics()).collect();
    json(statistics::report(models.iter().map(|model| &model.spec.queue).zip(&totals)))
}

/// `POST /v2/repository/index`
pub(super) async fn repository_index(
    request: HttpRequest,
    mut body: RequestBody,
    api: Data<Api>,
) -> HttpResponse {
    match index(&request, &mut body, &api).await {
        Ok(answer) => answer,
        Err(error) => refuse(&error, request.headers(), body).await,
    }
}

async fn index(
    request: &HttpRequest,
    body: &mut RequestBody,
    api: &Api,
) -> Result<HttpResponse, InferError> {
    let client = api.core.clients.identify_patiently(request).await?;
    let bounds = Bounds { bytes: MAX_INDEX_REQUEST, ..api.body };
    let announced = body.announced(request.headers());
    let body = body::read(body, announced, bounds, api.budget.share()).await?;
    let wanted = IndexRequest::parse(&body.bytes)?;
    Ok(json(describe::index(api, &client, wanted.ready).await))
}

/// `GET /openapi.json`
pub(super) async fn openapi() -> HttpResponse {
    HttpResponse::Ok().insert_header(ContentType::json()).body(include_str!("../../openapi.json"))
}

fn json(body: impl serde::Serialize) -> HttpResponse {
    HttpResponse::Ok().insert_header(ContentType::json()).json(body)
}
