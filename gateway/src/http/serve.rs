//! Adds HTTP/1.1 and HTTP/2 to the threads of the server.
//!
//! Replaces the `HttpServer` of actix-web, which always sends `100 Continue` before a handler can
//! refuse the request.

use std::{
    borrow::Cow,
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpService, KeepAlive, Request};
use actix_server::ServerBuilder;
use actix_service::{ServiceFactory, fn_factory, fn_service, map_config};
use actix_web::{
    App, HttpMessage, ResponseError,
    body::BoxBody,
    dev::{AppConfig, Service, ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{
        ConnectionType, Uri,
        header::{HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS},
    },
    web::Data,
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{
    connection::{self, AnswerWatch, Exchange, LargeBody, WatchedBody},
    cors::{self, AllowedOrigins},
    failure::ERROR_CODE,
    head::content_length,
    normal_path, over_http2,
    response_body::sent_bytes,
    routes::routes,
};
use crate::{
    access::{Answered, Visit},
    api::Api,
    body,
    door::{Door, Doors},
    error::InferError,
    http2::Terms,
    mailbox::Mailbox,
    metrics::Protocol,
    tls::{self, Tls, Transport},
    trace::Trace,
    usage::RequestUsage,
};

/// Tells browsers to take an answer for nothing but its content type.
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// What the threads that serve HTTP share.
#[derive(Clone)]
pub(crate) struct HttpDoor {
    pub(crate) api: Data<Api>,
    pub(crate) doors: Doors,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Origins whose pages may send requests.
    pub(crate) origins: Vec<String>,
    /// Whether version 1 of KServe's protocol is served, too.
    pub(crate) kserve_v1: bool,
    /// Cancelled when the gateway begins to go away: each connection then closes after its next
    /// response, and each of HTTP/2 after its open requests.
    pub(crate) shutdown: CancellationToken,
}

/// Adds the listener of HTTP to the server.
///
/// # Errors
///
/// The listener cannot be used.
pub(crate) fn serve(
    builder: ServerBuilder,
    listener: TcpListener,
    server: HttpDoor,
) -> io::Result<ServerBuilder> {
    let address = listener.local_addr()?;
    builder.listen("http", listener, move || {
        let server = server.clone();
        let (mailbox, emptied) = Mailbox::open();
        actix_web::rt::spawn(emptied);
        let app = || map_config(app(&server, mailbox.clone()), |()| AppConfig::default());
        let (http, http2) = (http_service(app(), server.api.clone(), address), app());
        fn_factory(move || {
            let (http, http2) = (http.new_service(()), http2.new_service(()));
            let server = server.clone();
            async move {
                let (http, http2) = (Rc::new(http.await?), Rc::new(http2.await?));
                let door = server.doors.of_this_thread();
                Ok::<_, ()>(fn_service(move |stream: TcpStream| {
                    let (http, http2) = (http.clone(), http2.clone());
                    let (server, door) = (server.clone(), door.clone());
                    async move {
                        let peer = stream.peer_addr().ok();
                        // Without this option the kernel would delay small answers.
                        stream.set_nodelay(true).ok();
                        let opening = tls::open(stream, server.tls.clone(), tls::Protocol::Http);
                        if let Some(client) = connection::serve(opening, peer, &*http, &door).await
                        {
                            over_http2::serve(client, peer, &http2, &server.terms(&door)).await;
                        }
                        Ok::<_, ()>(())
                    }
                }))
            }
        })
    })
}

impl HttpDoor {
    /// What connections of HTTP/2 are granted. They have no age limit, because httpx fails the requests
    /// that are open when a server asks the client to leave.
    fn terms<'a>(&'a self, door: &'a Door) -> Terms<'a> {
        Terms { door, shutdown: &self.shutdown, max_age: None, dates: true }
    }
}

/// The routes, and what applies to every answer.
fn app(
    server: &HttpDoor,
    mailbox: Mailbox,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<WatchedBody>,
        Error = actix_web::Error,
        InitError = (),
    > + use<>,
> {
    let (api, shutdown) = (server.api.clone(), server.shutdown.clone());
    let with_v1 = server.kserve_v1;
    let origins = AllowedOrigins::new(&server.origins);
    let (access_log, origins_matter) = (api.access_log, origins.matter());
    let data = App::new().app_data(api).app_data(Data::new(mailbox)).app_data(origins.clone());
    data.configure(|app| routes(app, with_v1)).wrap_fn(move |mut request, service| {
        let (shutdown, origin) = (shutdown.clone(), origins.allowed(request.head()));
        let answer = request.conn_data::<AnswerWatch>().cloned().unwrap_or_default();
        let large_body = request.conn_data::<LargeBody>().cloned();
        let client = || request.peer_addr().map(|peer| peer.ip().to_canonical());
        let path = || request.path().to_owned();
        let visit = access_log.begin(request.method().as_str(), path, client());
        let preflight = origin.as_ref().and_then(|_| cors::preflight(request.head()));
        normalize_path(&mut request);
        let answered = match preflight {
            Some(answer) => Ok(request.into_response(answer)),
            None => Err(service.call(request)),
        };
        async move {
            let mut response = match answered {
                Ok(preflight) => preflight,
                Err(answered) => answered.await.inspect_err(|_| {
                    // No handler fails without an answer. If one did, the connection must not
                    // wait for it.
                    drop(answer.watch(BoxBody::new(())));
                })?,
            };
            if let Some(visit) = visit {
                log(visit, &response);
            }
            let head = response.response_mut().head_mut();
            // The server closes the connection after a small body that no handler has read.
            let is_unread = large_body.is_some_and(|body| body.is_unread());
            if is_unread || shutdown.is_cancelled() {
                head.set_connection_type(ConnectionType::Close);
            }
            if origins_matter {
                head.headers.append(VARY, HeaderValue::from_static("origin"));
            }
            if let Some(origin) = origin {
                cors::allow(origin, &mut head.headers);
            }
            head.headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
            Ok(response.map_body(|_, body| answer.watch(body)))
        }
    })
}

/// Answers requests over HTTP/1.1.
fn http_service<A>(
    app: A,
    gate: Data<Api>,
    address: SocketAddr,
) -> impl ServiceFactory<
    (Exchange<Transport>, Option<SocketAddr>),
    Config = (),
    Service = impl Service<(Exchange<Transport>, Option<SocketAddr>)>,
    InitError = (),
>
where
    A: ServiceFactory<
            Request,
            Config = (),
            Response = ServiceResponse<WatchedBody>,
            Error = actix_web::Error,
            InitError = (),
        > + 'static,
{
    HttpService::build()
        .on_connect_ext(|exchange: &Exchange<Transport>, data| {
            data.insert(exchange.answer());
            if let Some(body) = exchange.large_body() {
                data.insert(body);
            }
            if let Some(name) = exchange.with_stream(Transport::certificate_name) {
                data.insert(name);
            }
        })
        .local_addr(address)
        // The connection has its own time limits.
        .client_request_timeout(Duration::ZERO)
        .keep_alive(KeepAlive::Os)
        .h1_allow_half_closed(false) // Notices a client that disconnects while its request waits.
        .expect(fn_service(move |request| {
            let gate = gate.clone();
            async move { expect(&gate, request).await }
        }))
        .h1(app)
}

/// Removes the slashes that a client has added to a path.
fn normalize_path(request: &mut ServiceRequest) {
    let Cow::Owned(path) = normal_path::normal(request.path()) else { return };
    let query = request.query_string();
    let target = if query.is_empty() { path } else { format!("{path}?{query}") };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = target.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        request.match_info_mut().get_mut().update(&uri);
        request.head_mut().uri = uri;
    }
}

/// Answers `Expect: 100-continue`: refuses a request before its body is sent, if the head suffices.
async fn expect(api: &Api, request: Request) -> Result<Request, actix_web::Error> {
    match check_head(api, &request).await {
        Ok(()) => Ok(request),
        Err(error) => {
            api.core.arrive(Trace::off(), Protocol::Http).failed(&error);
            let mut answer = error.error_response();
            answer.head_mut().set_connection_type(ConnectionType::Close);
            answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
            Err(InternalError::from_response(error, answer).into())
        }
    }
}

/// Refuses a request if its head is reason enough: the client is unknown or the body too large.
async fn check_head(api: &Api, request: &Request) -> Result<(), InferError> {
    api.core.clients.identify_patiently(request).await?;
    let large = request.conn_data::<LargeBody>().map(LargeBody::length);
    let announced = large.or_else(|| content_length(request.head().headers())).unwrap_or(0);
    if usize::try_from(announced).is_ok_and(|length| length <= api.body.bytes) {
        return Ok(());
    }
    Err(body::too_large(api.body.bytes).into())
}

/// Logs a request and its answer.
fn log(visit: Visit, response: &ServiceResponse<BoxBody>) {
    let extensions = response.request().extensions();
    let none = RequestUsage::default();
    let used = extensions.get::<RequestUsage>().unwrap_or(&none);
    visit.log(
        used,
        &Answered {
            status: response.status().as_u16(),
            grpc_status: None,
            code: response.headers().get(ERROR_CODE).and_then(|code| code.to_str().ok()),
            bytes: sent_bytes(response.response().body()),
        },
    );
}
