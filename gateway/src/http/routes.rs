//! The routes of the Open Inference Protocol.

use actix_web::{
    HttpRequest, HttpResponse, Resource, Responder,
    http::{Method, header},
    web::{self, Data, ServiceConfig},
};

use super::{failure::error_body, infer, metadata, model_control, shared_memory, v1};
use crate::{
    api::Api,
    live::{self, state::Port},
};

/// The routes of the Open Inference Protocol, of version 1 of KServe's protocol if `with_v1` is set,
/// and of the live page.
pub(super) fn routes(config: &mut ServiceConfig, with_v1: bool) {
    if with_v1 {
        v1_routes(config);
    }
    let control = |action| format!("/v2/repository/models/{{model:[^/]*}}/{action}");
    config
        .service(resource("/v2", Method::GET, metadata::server))
        .service(resource("/v2/health/live", Method::GET, metadata::live))
        .service(resource("/v2/health/ready", Method::GET, metadata::ready))
        .service(resource("/v2/models/stats", Method::GET, metadata::all_statistics))
        .service(resource("/v2/repository/index", Method::POST, metadata::repository_index))
        .service(resource(&control("load"), Method::POST, model_control::load))
        .service(resource(&control("unload"), Method::POST, model_control::unload))
        .service(resource("/openapi.json", Method::GET, metadata::openapi));
    // Route an empty model name, too, so that the caller gets 404 `model_not_found`.
    for model in ["/v2/models/{model:[^/]*}", "/v2/models/{model:[^/]*}/versions/{version}"] {
        config
            .service(resource(&format!("{model}/infer"), Method::POST, infer::infer))
            .service(resource(&format!("{model}/ready"), Method::GET, metadata::model_ready))
            .service(resource(&format!("{model}/config"), Method::GET, metadata::model_config))
            .service(resource(&format!("{model}/batching"), Method::GET, metadata::batching))
            .service(resource(&format!("{model}/stats"), Method::GET, metadata::model_statistics))
            .service(resource(model, Method::GET, metadata::model));
    }
    for kind in shared_memory::KINDS {
        let region = format!("/v2/{kind}/region/{{region}}");
        config.service(resource(
            &format!("{region}/register"),
            Method::POST,
            shared_memory::register,
        ));
        for place in [format!("/v2/{kind}"), region] {
            let path = |action| format!("{place}/{action}");
            config
                .service(resource(&path("status"), Method::GET, shared_memory::status))
                .service(resource(&path("unregister"), Method::POST, shared_memory::unregister));
        }
    }
    config.default_service(web::to(other));
}

/// The routes of version 1 of KServe's protocol. Names of models may contain colons.
fn v1_routes(config: &mut ServiceConfig) {
    config.service(resource("/v1/models", Method::GET, v1::models));
    for model in ["/v1/models/{model:[^/]*}", "/v1/models/{model:[^/]*}/versions/{version:[^/:]*}"]
    {
        config
            .service(resource(&format!("{model}:predict"), Method::POST, infer::predict))
            .service(resource(model, Method::GET, v1::model));
    }
}

/// Routes a path with its only method to `handler`; other methods get 405. HEAD is answered as GET,
/// and the server omits the body.
fn resource<F, Args>(path: &str, method: Method, handler: F) -> Resource
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let (mut resource, mut allowed) = (web::resource(path), "POST");
    if method == Method::GET {
        resource = resource.route(web::head().to(handler.clone()));
        allowed = "GET, HEAD";
    }
    resource.route(web::method(method).to(handler)).default_service(web::to(move || {
        let mut response = HttpResponse::MethodNotAllowed();
        response.insert_header((header::ALLOW, allowed));
        let text = format!("this path takes {allowed}");
        let response = error_body(response, "method_not_allowed", &text);
        async { response }
    }))
}

async fn other(request: HttpRequest, api: Data<Api>) -> HttpResponse {
    live::answer(&api, Port::Clients, &request).unwrap_or_else(|| {
        error_body(HttpResponse::NotFound(), "not_found", "no such path; see /openapi.json")
    })
}
