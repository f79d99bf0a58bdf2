//! The HTTP side: routes, and what a request must look like before its body is read.

mod infer;
mod metadata;
mod origin;
mod paced;
mod response_body;
mod server;
mod unread;

#[cfg(test)]
mod openapi;

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse, Resource, Responder,
    dev::RequestHead,
    http::{
        Method,
        header::{self, ContentType, HeaderMap},
    },
    web::{self, Data, ServiceConfig},
};
use tokio::time::{Duration, Instant};

pub(crate) use self::server::listen;
use crate::{
    body::{self, BodyBudget, Bounds},
    catalog::Catalog,
    clients::{Client, Clients},
    dispatch::Dispatcher,
    error::{InferError, say},
    live::{self, Live},
    metrics::GatewayMetrics,
    model::Model,
    offload::Offload,
    trace::Traces,
};
use batchfleet_oip::Problem;

/// What every handler reads.
pub(crate) struct Api {
    pub(crate) catalog: Catalog,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) clients: Arc<Clients>,
    pub(crate) body: Bounds,
    pub(crate) budget: Arc<BodyBudget>,
    pub(crate) offload: Offload,
    pub(crate) deadline: Duration,
    pub(crate) max_deadline: Duration,
    pub(crate) readiness: batchfleet_service::Readiness,
    pub(crate) started: Instant,
    pub(crate) live: Live,
    pub(crate) traces: Traces,
}

impl Api {
    /// Refuses what its head alone condemns.
    fn check_head(&self, head: &RequestHead) -> Result<(), InferError> {
        self.clients.identify(head)?;
        let announced = content_length(head.headers()).unwrap_or(0);
        if usize::try_from(announced).is_ok_and(|length| length <= self.body.bytes) {
            return Ok(());
        }
        Err(body::too_large(self.body.bytes).into())
    }
}

/// The routes of the Open Inference Protocol.
pub(crate) fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/v2/health/live", Method::GET, metadata::live))
        .service(resource("/v2/health/ready", Method::GET, metadata::ready))
        .service(resource("/v2/models/stats", Method::GET, metadata::all_statistics))
        .service(resource("/v2/repository/index", Method::POST, metadata::repository_index))
        .service(resource("/openapi.json", Method::GET, metadata::openapi));
    for server in ["/v2", "/v2/"] {
        config.service(resource(server, Method::GET, metadata::server));
    }
    // A name may be empty here, so that its caller hears which model there is not.
    for model in ["/v2/models/{model:[^/]*}", "/v2/models/{model:[^/]*}/versions/{version}"] {
        config
            .service(resource(&format!("{model}/infer"), Method::POST, infer::infer))
            .service(resource(&format!("{model}/ready"), Method::GET, metadata::model_ready))
            .service(resource(&format!("{model}/config"), Method::GET, metadata::model_config))
            .service(resource(&format!("{model}/batching"), Method::GET, metadata::batching))
            .service(resource(&format!("{model}/stats"), Method::GET, metadata::model_statistics))
            .service(resource(model, Method::GET, metadata::model));
    }
    config.default_service(web::to(other));
}

/// A path with the one method it takes; any other gets 405 and a body that says so.
fn resource<F, Args>(path: &str, method: Method, handler: F) -> Resource
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let allowed = method.to_string();
    web::resource(path).route(web::method(method).to(handler)).default_service(web::to(move || {
        let mut response = HttpResponse::MethodNotAllowed();
        response.insert_header((header::ALLOW, allowed.clone()));
        let response = say(response, "method_not_allowed", &format!("this path takes {allowed}"));
        async { response }
    }))
}

async fn other(request: HttpRequest, api: Data<Api>) -> HttpResponse {
    live::answer(&api, live::Port::Clients, &request).unwrap_or_else(|| {
        say(HttpResponse::NotFound(), "not_found", "no such path; see /openapi.json")
    })
}

/// Who asks, and the model that the path names.
fn model(api: &Api, request: &HttpRequest) -> Result<(Client, Arc<Model>), InferError> {
    let client = api.clients.identify(request.head())?;
    let path = request.match_info();
    let name = path.get("model").unwrap_or_default();
    let model = api.catalog.find(name, path.get("version"), |name| client.may_use(name))?;
    Ok((client, model))
}

/// How long the body says it is; the server has checked that it is a number.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// A header's value, if it is text and there is exactly one.
fn single_header<'a>(
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

fn json(body: impl serde::Serialize) -> HttpResponse {
    HttpResponse::Ok().insert_header(ContentType::json()).json(body)
}
