//! Loads and unloads models at the request of clients.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use batchfleet_oip::repository;

use super::{
    cors,
    head::{model_path, single_header},
    media_type,
    request_body::RequestBody,
    unread::refuse,
};
use crate::{
    api::Api,
    body, catalog,
    error::InferError,
    model_change::{self, Action},
};

/// `POST /v2/repository/models/{model}/load`
pub(super) async fn load(request: HttpRequest, body: RequestBody, api: Data<Api>) -> HttpResponse {
    answer(request, body, &api, Action::Load).await
}

/// `POST /v2/repository/models/{model}/unload`
pub(super) async fn unload(
    request: HttpRequest,
    body: RequestBody,
    api: Data<Api>,
) -> HttpResponse {
    answer(request, body, &api, Action::Unload).await
}

async fn answer(
    request: HttpRequest,
    mut body: RequestBody,
    api: &Api,
    action: Action,
) -> HttpResponse {
    match change(&request, &mut body, api, action).await {
        Ok(()) => HttpResponse::Ok().finish(),
        Err(error) => refuse(&error, request.headers(), body).await,
    }
}

async fn change(
    request: &HttpRequest,
    body: &mut RequestBody,
    api: &Api,
    action: Action,
) -> Result<(), InferError> {
    let client = api.core.clients.identify_patiently(request).await?;
    let kind = media_type::check(single_header(request, "content-type")?.unwrap_or_default())?;
    let (model, _) = model_path(request);
    let announced = body.announced(request.headers());
    let body = body::read(body, announced, api.body, api.budget.share()).await?;
    media_type::check_page(kind, &body.bytes, cors::is_foreign(request))?;
    let parameters = repository::parameters(&body.bytes)?;
    action.check(parameters.iter().map(String::as_str))?;
    if !client.may_use(model) {
        return Err(catalog::unknown(model, None, false).into());
    }
    model_change::change(api.core.clone(), action, model.to_owned()).await
}
