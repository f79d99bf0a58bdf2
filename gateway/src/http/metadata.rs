//! Metadata, health, batching and statistics of the server and its models.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::ContentType,
    web::{Data, Payload},
};
use batchfleet_broker::QueueName;
use serde_json::json as object;

use super::{
    failure::error_body,
    head::{self, content_length},
    unread::refuse,
};
use crate::{
    api::Api,
    body::{self, Bounds},
    catalog,
    clients::Client,
    error::InferError,
    model::Model,
    unavailable::Reasons,
};
use batchfleet_oip::{
    metadata::{self as describe, IndexEntry, IndexRequest},
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
    let unready = || api.core.catalog.unready().filter(|_| api.strict_readiness);
    let reason = match api.readiness.get() {
        Ok(_) => unready().map(|model| format!("model {model} is not ready")),
        Err(reason) => Some(reason.to_owned()),
    };
    match reason {
        None => json(object!({ "ready": true, "live": true })),
        Some(reason) => error_body(HttpResponse::ServiceUnavailable(), "not_ready", &reason),
    }
}

/// `GET /v2`
pub(super) async fn server() -> HttpResponse {
    json(describe::server())
}

/// `GET /v2/models/{model}[/versions/{version}]`
pub(super) async fn model(
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let model = head::model(&api, &request).await?;
    let versions = api.core.catalog.versions(&model.spec.queue.model);
    Ok(json(describe::model(&model.spec, &versions)))
}

/// `GET .../ready`: 200 if a worker serves the model.
pub(super) async fn model_ready(
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let model = head::model(&api, &request).await?;
    let QueueName { model: name, version } = &model.spec.queue;
    if !model.is_ready() {
        return Err(match api.core.catalog.unavailable().reason(name, Some(*version)) {
            Some(reason) => catalog::unavailable(name, &reason).into(),
            None => InferError::NoWorkers(name.clone()),
        });
    }
    Ok(json(object!({ "name": name, "ready": true })))
}

/// `GET .../config`
pub(super) async fn model_config(
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let model = head::model(&api, &request).await?;
    Ok(match api.core.catalog.config(&model) {
        Some(config) => json(config),
        // Older workers do not announce the config.
        None => json(describe::config(&model.spec)),
    })
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
    let mut versions = api.core.catalog.all();
    versions.retain(|version| version.spec.queue.model == model.spec.queue.model);
    Ok(report(&versions))
}

/// `GET /v2/models/stats`
pub(super) async fn all_statistics(
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let client = api.core.clients.identify_patiently(&request).await?;
    Ok(report(&usable(&client, &api)))
}

/// The counts and durations of `models`.
fn report(models: &[Arc<Model>]) -> HttpResponse {
    let totals: Vec<_> = models.iter().map(|model| model.books.statistics()).collect();
    json(statistics::report(models.iter().map(|model| &model.spec.queue).zip(&totals)))
}

/// Every model that the client may use.
fn usable(client: &Client, api: &Api) -> Vec<Arc<Model>> {
    let mut models = api.core.catalog.all();
    models.retain(|model| client.may_use(&model.spec.queue.model));
    models
}

/// `POST /v2/repository/index`
pub(super) async fn repository_index(
    request: HttpRequest,
    mut payload: Payload,
    api: Data<Api>,
) -> HttpResponse {
    match index(&request, &mut payload, &api).await {
        Ok(answer) => answer,
        Err(error) => refuse(&error, content_length(request.headers()), payload).await,
    }
}

async fn index(
    request: &HttpRequest,
    payload: &mut Payload,
    api: &Api,
) -> Result<HttpResponse, InferError> {
    let client = api.core.clients.identify_patiently(request).await?;
    let models = usable(&client, api);
    let bounds = Bounds { bytes: MAX_INDEX_REQUEST, ..api.body };
    let announced = content_length(request.headers());
    let body = body::read(payload, announced, bounds, api.budget.share()).await?;
    let wanted = IndexRequest::parse(&body.bytes)?;
    let mut reasons = Reasons::clone(&api.core.catalog.unavailable().all());
    reasons.retain(|(model, _), _| client.may_use(model));
    let mut entries = Vec::new();
    for model in &models {
        let QueueName { model: name, version } = &model.spec.queue;
        let reason = reasons.remove(&(name.clone(), Some(*version)));
        entries.push(if model.is_ready() {
            IndexEntry::ready(name, *version)
        } else {
            IndexEntry::unavailable(name, Some(*version), reason.as_deref())
        });
    }
    for ((name, version), reason) in &reasons {
        entries.push(IndexEntry::unavailable(name, *version, Some(reason)));
    }
    entries.retain(|entry| entry.is_ready() || !wanted.ready);
    entries.sort();
    Ok(json(entries))
}

/// `GET /openapi.json`
pub(super) async fn openapi() -> HttpResponse {
    HttpResponse::Ok().insert_header(ContentType::json()).body(include_str!("../../openapi.json"))
}

fn json(body: impl serde::Serialize) -> HttpResponse {
    HttpResponse::Ok().insert_header(ContentType::json()).json(body)
}
