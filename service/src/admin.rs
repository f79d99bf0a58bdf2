//! The admin port: metrics and health. Its own listener, so that it can be kept from clients.

use std::{io, net::SocketAddr};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::{Server, ServerHandle},
    http::header::ContentType,
    web::{self, Data},
};
use prometheus::{Encoder, Registry, TextEncoder};
use tracing::info;

use crate::Readiness;

/// Binds the admin port and starts serving it.
pub(crate) fn start(
    listen: SocketAddr,
    registry: Registry,
    readiness: Readiness,
) -> io::Result<ServerHandle> {
    let (registry, readiness) = (Data::new(registry), Data::new(readiness));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(registry.clone())
            .app_data(readiness.clone())
            .service(web::resource("/metrics").get(metrics))
            .service(web::resource("/livez").get(live))
            .service(web::resource("/readyz").get(ready))
            .default_service(web::to(not_found))
    })
    .workers(1)
    .disable_signals()
    .bind(listen)?;
    for address in server.addrs() {
        info!(%address, port_name = "admin", "listening");
    }
    let server: Server = server.run();
    let handle = server.handle();
    tokio::spawn(server);
    Ok(handle)
}

/// Everything registered, in Prometheus' text format.
async fn metrics(registry: Data<Registry>) -> HttpResponse {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut text) {
        Ok(()) => HttpResponse::Ok().content_type(prometheus::TEXT_FORMAT).body(text),
        Err(error) => problem(HttpResponse::InternalServerError(), &error.to_string()),
    }
}

/// Alive: the admin port itself answers. Depends on nothing else, so that no outage of another
/// part makes Kubernetes restart this one.
async fn live() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::json()).body(r#"{"live":true}"#)
}

async fn ready(readiness: Data<Readiness>) -> HttpResponse {
    match readiness.get() {
        Ok(()) => HttpResponse::Ok().content_type(ContentType::json()).body(r#"{"ready":true}"#),
        Err(reason) => problem(HttpResponse::ServiceUnavailable(), reason),
    }
}

async fn not_found() -> HttpResponse {
    problem(HttpResponse::NotFound(), "the admin port serves /metrics, /livez and /readyz")
}

fn problem(mut response: actix_web::HttpResponseBuilder, text: &str) -> HttpResponse {
    response.json(std::collections::BTreeMap::from([("error", text)]))
}
