//! The admin port: serves metrics and health on a listener separate from the clients' listener.

mod places;
mod scrape;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix_http::{HttpService, KeepAlive};
use actix_server::Server;
use actix_service::{ServiceFactory, fn_factory, fn_service, map_config};
use actix_web::{
    App, FromRequest, Handler, HttpRequest, HttpResponse, HttpResponseBuilder, Resource,
    dev::{AppConfig, Service},
    http::header::{ContentType, X_CONTENT_TYPE_OPTIONS},
    middleware::DefaultHeaders,
    web::{self, Data, ServiceConfig},
};
use prometheus::Registry;
use tokio::{net::TcpStream, select};
use tracing::info;

use self::places::Places;
use crate::{Liveness, Readiness, metrics::ProcessMetrics};

type PageHandler = dyn Fn(&HttpRequest) -> Option<HttpResponse> + Send + Sync;

/// Pages of the admin port in addition to metrics and health. Empty until a component of the
/// process sets a handler.
#[derive(Clone, Default)]
pub struct AdminPages(Arc<OnceLock<Box<PageHandler>>>);

impl AdminPages {
    /// Sets the handler for paths that the admin port does not serve itself. If the handler returns
    /// `None`, the response is a 404. The handler must not block. Only the first call has an
    /// effect.
    pub fn show(
        &self,
        pages: impl Fn(&HttpRequest) -> Option<HttpResponse> + Send + Sync + 'static,
    ) {
        self.0.get_or_init(|| Box::new(pages));
    }

    fn answer(&self, request: &HttpRequest) -> Option<HttpResponse> {
        self.0.get()?(request)
    }
}

impl fmt::Debug for AdminPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AdminPages").field(&self.0.get().is_some()).finish()
    }
}

/// What the admin port shows.
pub(crate) struct Shown {
    pub(crate) registry: Registry,
    pub(crate) metrics: ProcessMetrics,
    pub(crate) liveness: Liveness,
    pub(crate) readiness: Readiness,
    pub(crate) pages: AdminPages,
}

/// The bound admin port.
pub(crate) struct AdminPort {
    /// Serves until it is stopped.
    pub(crate) server: Server,
    /// The bound address.
    pub(crate) address: Option<SocketAddr>,
}

/// The most connections of the admin port, so that files are left for the rest of the process. A
/// further connection replaces the oldest one: probes must get in whatever other connections do.
const MOST_CONNECTIONS: usize = 32;
/// How long a connection may wait for its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Binds the admin port.
pub(crate) fn bind(listen: SocketAddr, shown: Shown) -> io::Result<AdminPort> {
    let listener = TcpListener::bind(listen)?;
    let address = listener.local_addr()?;
    let Shown { registry, metrics, liveness, readiness, pages } = shown;
    let (metrics, registry) = (Data::new(metrics), Data::new(registry));
    let (liveness, readiness) = (Data::new(liveness), Data::new(readiness));
    let pages = Data::new(pages);
    let shown = move |app: &mut ServiceConfig| {
        app.app_data(registry.clone())
            .app_data(metrics.clone())
            .app_data(liveness.clone())
            .app_data(readiness.clone())
            .app_data(pages.clone());
    };
    let server = Server::build()
        .workers(1)
        // The connections to be replaced stay open for a moment.
        .max_concurrent_connections(2 * MOST_CONNECTIONS)
        .disable_signals()
        .listen("admin", listener, move || {
            let shown = shown.clone();
            fn_factory(move || {
                let started = http_service(shown.clone()).new_service(());
                async move {
                    let http = Rc::new(started.await?);
                    let places = Rc::new(Places::new(MOST_CONNECTIONS));
                    Ok::<_, ()>(fn_service(move |stream: TcpStream| {
                        let (http, places) = (Rc::clone(&http), Rc::clone(&places));
                        async move {
                            let peer = stream.peer_addr().ok();
                            let place = places.take();
                            select! {
                                _ = http.call((stream, peer)) => {}
                                () = place.is_needed() => {}
                            }
                            Ok::<_, ()>(())
                        }
                    }))
                }
            })
        })?;
    info!(%address, port_name = "admin", "listening");
    Ok(AdminPort { server: server.run(), address: Some(address) })
}
fn http_service(
    shown: impl FnOnce(&mut ServiceConfig),
) -> impl ServiceFactory<
    (TcpStream, Option<SocketAddr>),
    Config = (),
    Service = impl Service<(TcpStream, Option<SocketAddr>)>,
    InitError = (),
> {
    let app = App::new()
        .wrap(DefaultHeaders::new().add((X_CONTENT_TYPE_OPTIONS, "nosniff")))
        .configure(shown)
        .service(page("/metrics", all_metrics))
        .service(page("/livez", live))
        .service(page("/readyz", ready))
        .default_service(web::to(other));
    HttpService::build()
        .client_request_timeout(PATIENCE)
        // A connection serves one request, so that it cannot ask for more than it reads.
        .keep_alive(KeepAlive::Disabled)
        .h1(map_config(app, |()| AppConfig::default()))
}

/// Routes GET and HEAD of a path, also with a slash at its end, to `handler`; the server omits the
/// body of an answer to HEAD.
fn page<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args, Output = HttpResponse>,
    Args: FromRequest + 'static,
{
    web::resource([path.to_owned(), format!("{path}/")])
        .get(handler.clone())
        .route(web::head().to(handler))
}

/// Returns all registered metrics.
async fn all_metrics(
    request: HttpRequest,
    registry: Data<Registry>,
    process: Data<ProcessMetrics>,
) -> HttpResponse {
    process.update();
    scrape::answer(&request, &registry)
}

/// Liveness: fails if a restart of the process would help. Independent of other programs, so that an
/// outage of Redis, for example, does not make Kubernetes restart the process.
async fn live(liveness: Data<Liveness>) -> HttpResponse {
    match liveness.get() {
        Ok(()) => HttpResponse::Ok().content_type(ContentType::json()).body(r#"{"live":true}"#),
        Err(reason) => problem(HttpResponse::ServiceUnavailable(), "not_live", &reason),
    }
}

async fn ready(readiness: Data<Readiness>) -> HttpResponse {
    match readiness.get() {
        Ok(None) => HttpResponse::Ok().content_type(ContentType::json()).body(r#"{"ready":true}"#),
        Ok(Some(warning)) => HttpResponse::Ok()
            .content_type(ContentType::json())
            .body(format!(r#"{{"ready":true,"warning":"{warning}"}}"#)),
        Err(reason) => problem(HttpResponse::ServiceUnavailable(), "not_ready", reason),
    }
}

async fn other(request: HttpRequest, pages: Data<AdminPages>) -> HttpResponse {
    pages.answer(&request).unwrap_or_else(|| {
        let text = "the admin port serves /metrics, /livez and /readyz";
        problem(HttpResponse::NotFound(), "not_found", text)
    })
}

fn problem(mut response: HttpResponseBuilder, code: &str, text: &str) -> HttpResponse {
    response.insert_header(("x-error-code", code));
    response.json(std::collections::BTreeMap::from([("error", text)]))
}
