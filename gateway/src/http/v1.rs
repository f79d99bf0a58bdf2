//! Describes models over version 1 of KServe's protocol.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use serde_json::json as object;

use super::head;
use crate::{api::Api, describe, error::InferError};

/// `GET /v1/models`: the names of the models that the client may use.
pub(super) async fn models(
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let client = api.core.clients.identify_patiently(&request).await?;
    let mut names: Vec<_> = describe::usable(&api, &client)
        .iter()
        .map(|model| model.spec.queue.model.clone())
        .collect();
    names.sort();
    names.dedup();
    Ok(HttpResponse::Ok().json(object!({ "models": names })))
}

/// `GET /v1/models/{model}[/versions/{version}]`: 200 if a worker serves the model.
pub(super) async fn model(
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let model = head::model(&api, &request).await?;
    describe::ready(&api, &model)?;
    Ok(HttpResponse::Ok().json(object!({ "name": model.spec.queue.model, "ready": true })))
}
