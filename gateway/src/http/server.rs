//! The listening socket and the HTTP/1.1 server.
//!
//! Replaces the `HttpServer` of actix-web, which always sends `100 Continue` before a handler can
//! refuse the request, and sets no socket options.

use std::{
    borrow::Cow,
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::Arc,
    thread,
};

use actix_http::{HttpService, Request, error::DispatchError};
use actix_server::{GracefulShutdownSignal, Server, ServerBuilder};
use actix_service::{ServiceFactoryExt, fn_service, map_config};
use actix_web::{
    App,
    dev::{AppConfig, RequestHead, Service, ServiceRequest},
    http::{ConnectionType, Uri},
    web::Data,
};
use batchfleet_service::open_file_limit;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpStream,
    time::{Duration, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    cors::{self, AllowedOrigins},
    head::content_length,
    normal_path,
    paced::Paced,
    routes::routes,
};
use crate::{
    api::Api, body, error::InferError, mailbox::Mailbox, settings::GatewaySettings, trace::Trace,
};

/// Maximum number of connections that wait to be accepted; the limit of the kernel may be lower.
const ACCEPT_BACKLOG: u32 = 8192;
/// Time limit for a new connection to send its first complete request head, from the first byte on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The most connections per thread, as long as the process may open as many files.
const MOST_CONNECTIONS: usize = 25_600;
/// The most threads that the server takes.
const MOST_THREADS: usize = 512;
/// Open files that are kept for everything but connections of clients.
const RESERVED_FILES: u64 = 64;

/// The running server: a future that ends when the server has stopped.
pub(crate) type HttpServer = Server;

/// Binds the address and starts the server. After `shutdown`, the server closes each connection
/// after its next response. When `going` completes, the server closes the listener, but still
/// answers all accepted requests.
///
/// # Errors
///
/// The address is in use, or does not belong to this machine.
pub(crate) fn listen(
    settings: &GatewaySettings,
    api: Arc<Api>,
    shutdown: CancellationToken,
    going: impl Future<Output = ()> + Send + 'static,
) -> io::Result<(HttpServer, SocketAddr)> {
    let api = Data::from(api);
    let listener = bind(settings)?;
    let address = listener.local_addr()?;
    let builder = builder(settings).shutdown_signal(going);
    let (draining, keep_alive) = (builder.graceful_shutdown_signal(), settings.keep_alive);
    let origins = AllowedOrigins::new(&settings.allow_origin);
    let server = builder.listen("http", listener, move || {
        let (shutdown, draining, gate) = (shutdown.clone(), draining.clone(), api.clone());
        let (origins, unused) = (origins.clone(), draining.clone());
        let (mailbox, emptied) = Mailbox::open();
        actix_web::rt::spawn(emptied);
        let app = App::new()
            .app_data(api.clone())
            .app_data(Data::new(mailbox))
            .configure(routes)
            .wrap_fn(move |mut request, service| {
                let (last, origin) = (shutdown.is_cancelled(), origins.allowed(request.head()));
                let preflight = origin.as_ref().and_then(|_| cors::preflight(request.head()));
                normalize_path(&mut request);
                let answered = match preflight {
                    Some(answer) => Ok(request.into_response(answer)),
                    None => Err(service.call(request)),
                };
                async move {
                    let mut response = match answered {
                        Ok(preflight) => preflight,
                        Err(answered) => answered.await?,
                    };
                    let head = response.response_mut().head_mut();
                    if last {
                        head.set_connection_type(ConnectionType::Close);
                    }
                    if let Some(origin) = origin {
                        cors::allow(origin, &mut head.headers);
                    }
                    Ok(response)
                }
            });
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let draining = draining.clone();
                async move { draining.notified().await }
            })
            .local_addr(address)
            .client_request_timeout(HEAD_TIMEOUT)
            .keep_alive(keep_alive)
            .h1_allow_half_closed(false) // Notices a client that disconnects while its request waits.
            .tcp_nodelay(true)
            .expect(fn_service(move |request| {
                let checked = expect(&gate, request);
                async { checked }
            }))
            .h1(map_config(app, |()| AppConfig::default()));
        fn_service(move |stream: TcpStream| first_byte(stream, keep_alive, unused.clone()))
            .and_then(http)
    })?;
    Ok((server.run(), address))
}

/// Waits for the first byte of a new connection. A connection on which nothing arrives is closed
/// without a response when an idle connection would be closed. Clients open connections ahead of
/// need, and would take any response for the response to the request that they send next.
async fn first_byte(
    stream: TcpStream,
    keep_alive: Duration,
    draining: GracefulShutdownSignal,
) -> Result<(Paced<TcpStream>, Option<SocketAddr>), DispatchError> {
    let peer = stream.peer_addr().ok();
    tokio::select! {
        readable = stream.readable() => readable?,
        () = sleep(keep_alive) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        () = draining.notified() => {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
        }
    }
    Ok((Paced::new(stream), peer))
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

fn builder(settings: &GatewaySettings) -> ServerBuilder {
    let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = settings.http_threads.unwrap_or_else(cores).clamp(1, MOST_THREADS);
    Server::build()
        .disable_signals()
        .shutdown_timeout(settings.max_deadline.as_secs())
        .workers(threads)
        .max_concurrent_connections(connections_per_thread(open_file_limit(), threads))
}

/// The most connections of clients per thread. Further connections wait to be accepted, so that files
/// are left for the admin port and for Redis.
fn connections_per_thread(open_files: u64, threads: usize) -> usize {
    let connections = usize::try_from(open_files.saturating_sub(RESERVED_FILES));
    (connections.unwrap_or(usize::MAX) / threads).clamp(1, MOST_CONNECTIONS)
}

/// Answers `Expect: 100-continue`: refuses a request before its body is sent, if the head suffices.
fn expect(api: &Api, request: Request) -> Result<Request, actix_web::Error> {
    match check_head(api, request.head()) {
        Ok(()) => Ok(request),
        Err(error) => {
            api.core.arrive(Trace::off()).failed(&error);
            Err(error.into())
        }
    }
}

/// Refuses a request if its head is reason enough: the client is unknown or the body too large.
fn check_head(api: &Api, head: &RequestHead) -> Result<(), InferError> {
    api.core.clients.identify(head)?;
    let announced = content_length(head.headers()).unwrap_or(0);
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
        assert_eq!(connections_per_thread(120, 2), 28);
        assert_eq!(connections_per_thread(1024, 4), 240);
        assert_eq!(connections_per_thread(10, 4), 1);
        assert_eq!(connections_per_thread(u64::MAX, 1), MOST_CONNECTIONS);
    }
}
