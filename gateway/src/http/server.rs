//! The listening socket and the HTTP/1.1 server.
//!
//! Replaces the `HttpServer` of actix-web, which always sends `100 Continue` before a handler can
//! refuse the request, and sets no socket options.

use std::{
    borrow::Cow,
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use actix_http::{HttpService, KeepAlive, Request};
use actix_server::{Server, ServerBuilder};
use actix_service::{ServiceFactory, fn_factory, fn_service, map_config};
use actix_web::{
    App, ResponseError,
    body::BoxBody,
    dev::{AppConfig, Service, ServiceRequest},
    error::InternalError,
    http::{
        ConnectionType, Uri,
        header::{HeaderValue, X_CONTENT_TYPE_OPTIONS},
    },
    web::Data,
};
use batchfleet_service::open_file_limit;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{
    access::AccessLog,
    connection::{self, AnswerWatch, ConnectionLimits, Door, Exchange, Patience},
    cors::{self, AllowedOrigins},
    head::content_length,
    normal_path,
    routes::routes,
};
use crate::{
    api::Api,
    body,
    error::InferError,
    mailbox::Mailbox,
    settings::GatewaySettings,
    tls::{self, Tls, Transport},
    trace::Trace,
};

/// Maximum number of connections that wait to be accepted; the limit of the kernel may be lower.
const ACCEPT_BACKLOG: u32 = 8192;
/// The most connections per thread, as long as the process may open as many files.
const MOST_CONNECTIONS: usize = 25_600;
/// The most threads that the server takes.
const MOST_THREADS: usize = 512;
/// Open files that are kept for everything but connections of clients.
const RESERVED_FILES: u64 = 64;

/// Tells browsers to take an answer for nothing but its content type.
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// The running server: a future that ends when the server has stopped.
pub(crate) type HttpServer = Server;

/// Binds the address and starts the server, with HTTPS if `tls` is given. After `shutdown`, the server closes each connection
/// after its next response. When `going` completes, the server closes the listener, but still
/// answers all accepted requests.
///
/// # Errors
///
/// The address is in use, or does not belong to this machine.
pub(crate) fn listen(
    settings: &GatewaySettings,
    tls: Option<Arc<Tls>>,
    api: Arc<Api>,
    shutdown: CancellationToken,
    going: impl Future<Output = ()> + Send + 'static,
) -> io::Result<(HttpServer, SocketAddr)> {
    let api = Data::from(api);
    let listener = bind(settings)?;
    let address = listener.local_addr()?;
    let threads = threads(settings);
    let most = connections_per_thread(settings.max_connections, open_file_limit(), threads);
    let builder = builder(settings, threads, most).shutdown_signal(going);
    let draining = builder.graceful_shutdown_signal();
    let patience = Patience { keep_alive: settings.keep_alive, stall: settings.stall_timeout };
    let limits = connection_limits(settings, most * threads, &api);
    let origins = AllowedOrigins::new(&settings.allow_origin);
    let server = builder.listen("http", listener, move || {
        let http = http_service(api.clone(), origins.clone(), address, shutdown.clone());
        let (limits, draining, tls) = (limits.clone(), draining.clone(), tls.clone());
        fn_factory(move || {
            let (started, tls) = (http.new_service(()), tls.clone());
            let (limits, draining) = (limits.clone(), draining.clone());
            async move {
                let http = Rc::new(started.await?);
                let door = Rc::new(Door::new(limits, most, patience, draining));
                Ok::<_, ()>(fn_service(move |stream: TcpStream| {
                    let (http, door, tls) = (http.clone(), door.clone(), tls.clone());
                    async move {
                        let peer = stream.peer_addr().ok();
                        // Without this option the kernel would delay small answers.
                        stream.set_nodelay(true).ok();
                        let opening = tls::open(stream, tls);
                        connection::serve(opening, peer, &*http, &door).await;
                        Ok::<_, ()>(())
                    }
                }))
            }
        })
    })?;
    Ok((server.run(), address))
}

/// Answers requests: the routes, and what applies to every answer.
fn http_service(
    api: Data<Api>,
    origins: AllowedOrigins,
    address: SocketAddr,
    shutdown: CancellationToken,
) -> impl ServiceFactory<
    (Exchange<Transport>, Option<SocketAddr>),
    Config = (),
    Service = impl Service<(Exchange<Transport>, Option<SocketAddr>)>,
    InitError = (),
> {
    let (gate, access_log) = (api.clone(), AccessLog::new(api.access_log));
    let (mailbox, emptied) = Mailbox::open();
    actix_web::rt::spawn(emptied);
    let app = App::new().app_data(api).app_data(Data::new(mailbox)).configure(routes).wrap_fn(
        move |mut request, service| {
            let (shutdown, origin) = (shutdown.clone(), origins.allowed(request.head()));
            let answer = request.conn_data::<AnswerWatch>().cloned().unwrap_or_default();
            let visit = access_log.begin(&request);
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
                    visit.log(&response);
                }
                let head = response.response_mut().head_mut();
                if shutdown.is_cancelled() {
                    head.set_connection_type(ConnectionType::Close);
                }
                if let Some(origin) = origin {
                    cors::allow(origin, &mut head.headers);
                }
                head.headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
                Ok(response.map_body(|_, body| answer.watch(body)))
            }
        },
    );
    HttpService::build()
        .on_connect_ext(|exchange: &Exchange<Transport>, data| {
            data.insert(exchange.answer());
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
        .h1(map_config(app, |()| AppConfig::default()))
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

fn threads(settings: &GatewaySettings) -> usize {
    let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    settings.http_threads.unwrap_or_else(cores).clamp(1, MOST_THREADS)
}

fn builder(settings: &GatewaySettings, threads: usize, connections: usize) -> ServerBuilder {
    Server::build()
        .disable_signals()
        .shutdown_timeout(settings.max_deadline.as_secs())
        .workers(threads)
        .max_concurrent_connections(connections)
}

/// The most connections of clients per thread. Further connections wait to be accepted, so that files
/// are left for the admin port and for Redis.
fn connections_per_thread(wanted: Option<usize>, open_files: u64, threads: usize) -> usize {
    let files = usize::try_from(open_files.saturating_sub(RESERVED_FILES)).unwrap_or(usize::MAX);
    let connections = wanted.unwrap_or(files).min(files);
    (connections / threads).clamp(1, MOST_CONNECTIONS)
}

/// The limits of connections; an address may have half of all connections by default.
fn connection_limits(
    settings: &GatewaySettings,
    connections: usize,
    api: &Api,
) -> Arc<ConnectionLimits> {
    let per_address = settings.max_connections_per_address.unwrap_or(connections.div_ceil(2));
    let (clients, metrics) = (api.core.clients.clone(), api.core.metrics.connections.clone());
    ConnectionLimits::new(api.connection_memory.clone(), per_address, clients, metrics)
}

/// Answers `Expect: 100-continue`: refuses a request before its body is sent, if the head suffices.
async fn expect(api: &Api, request: Request) -> Result<Request, actix_web::Error> {
    match check_head(api, &request).await {
        Ok(()) => Ok(request),
        Err(error) => {
            api.core.arrive(Trace::off()).failed(&error);
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
    let announced = content_length(request.head().headers()).unwrap_or(0);
    if usize::try_from(announced).is_ok_and(|length| length <= api.body.bytes) {
        return Ok(());
    }
    Err(body::too_large(api.body.bytes).into())
}

fn bind(settings: &GatewaySettings) -> io::Result<TcpListener> {
    let address = settings.listen;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted connections inherit this option. The server itself has no timeout for stalled writes.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(settings.stall_timeout))?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(ACCEPT_BACKLOG).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_hold_every_file_of_the_process() {
        assert_eq!(connections_per_thread(None, 120, 2), 28);
        assert_eq!(connections_per_thread(None, 1024, 4), 240);
        assert_eq!(connections_per_thread(None, 10, 4), 1);
        assert_eq!(connections_per_thread(None, u64::MAX, 1), MOST_CONNECTIONS);
        assert_eq!(connections_per_thread(Some(500), 1024, 4), 125);
        assert_eq!(connections_per_thread(Some(5000), 1024, 4), 240);
    }
}
