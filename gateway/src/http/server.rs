//! The listening socket and the HTTP/1.1 server.
//!
//! Replaces the `HttpServer` of actix-web, which always sends `100 Continue` before a handler can
//! refuse the request, and sets no socket options.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use actix_http::{HttpService, Request};
use actix_server::Server;
use actix_service::{ServiceFactoryExt, fn_service, map_config};
use actix_web::{
    App,
    dev::{AppConfig, RequestHead, Service},
    http::ConnectionType,
    web::Data,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpStream, time::Duration};
use tokio_util::sync::CancellationToken;

use super::{head::content_length, paced::Paced, routes::routes};
use crate::{
    api::Api, body, error::InferError, mailbox::Mailbox, settings::GatewaySettings, trace::Trace,
};

/// Maximum number of connections that wait to be accepted; the limit of the kernel may be lower.
const ACCEPT_BACKLOG: u32 = 8192;
/// Time limit for a new connection to send its first complete request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

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
    let mut builder = Server::build()
        .disable_signals()
        .shutdown_signal(going)
        .shutdown_timeout(settings.max_deadline.as_secs());
    if let Some(threads) = settings.http_threads {
        builder = builder.workers(threads);
    }
    let (draining, keep_alive) = (builder.graceful_shutdown_signal(), settings.keep_alive);
    let server = builder.listen("http", listener, move || {
        let (shutdown, draining, gate) = (shutdown.clone(), draining.clone(), api.clone());
        let (mailbox, emptied) = Mailbox::open();
        actix_web::rt::spawn(emptied);
        let app = App::new()
            .app_data(api.clone())
            .app_data(Data::new(mailbox))
            .configure(routes)
            .wrap_fn(move |request, service| {
                let last = shutdown.is_cancelled();
                let answered = service.call(request);
                async move {
                    let mut response = answered.await?;
                    if last {
                        let head = response.response_mut().head_mut();
                        head.set_connection_type(ConnectionType::Close);
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
        fn_service(async |stream: TcpStream| {
            let peer = stream.peer_addr().ok();
            Ok((Paced::new(stream), peer))
        })
        .and_then(http)
    })?;
    Ok((server.run(), address))
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
