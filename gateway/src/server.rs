//! The sockets for clients, and the threads that serve them. Each thread serves both protocols.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::Arc,
    thread,
};

use actix_server::{Server as Threads, ServerBuilder};
use actix_web::web::Data;
use batchfleet_service::open_file_limit;
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;

use crate::{
    api::Api,
    door::{ConnectionLimits, Doors, Patience},
    grpc::{self, GrpcDoor},
    http::{self, HttpDoor},
    settings::GatewaySettings,
    tls::Tls,
};

/// Maximum number of connections that wait to be accepted; the limit of the kernel may be lower.
const ACCEPT_BACKLOG: u32 = 8192;
/// The most connections per thread, as long as the process may open as many files.
const MOST_CONNECTIONS: usize = 25_600;
/// The most threads that the server takes.
const MOST_THREADS: usize = 512;
/// Open files that are kept for everything but connections of clients.
const RESERVED_FILES: u64 = 64;

/// The running server: a future that ends when the server has stopped.
pub(crate) type Server = Threads;

/// The bound addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: Option<SocketAddr>,
}

/// The reason why a port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {flag} {address}: {error}")]
pub struct ListenError {
    pub(crate) flag: &'static str,
    pub(crate) address: SocketAddr,
    #[source]
    pub(crate) error: io::Error,
}

/// Binds the addresses and starts the server, with TLS if `tls` is given. After `shutdown`, the server
/// moves its clients to other gateways. When `going` completes, the server closes the listeners, but
/// still answers all accepted requests.
///
/// # Errors
///
/// An address is in use, or does not belong to this machine.
pub(crate) fn listen(
    settings: &GatewaySettings,
    tls: Option<Arc<Tls>>,
    api: Arc<Api>,
    shutdown: CancellationToken,
    going: impl Future<Output = ()> + Send + 'static,
) -> Result<(Server, Addresses), ListenError> {
    let api = Data::from(api);
    let threads = threads(settings);
    let most = connections_per_thread(settings.max_connections, open_file_limit(), threads);
    let builder = builder(settings, threads, most).shutdown_signal(going);
    let doors = Doors {
        limits: connection_limits(settings, most * threads, &api),
        most,
        patience: Patience { keep_alive: settings.keep_alive, stall: settings.stall_timeout },
        draining: builder.graceful_shutdown_signal(),
    };
    let (listener, http) = bind(settings, "--listen", settings.listen)?;
    let origins = settings.allow_origin.clone();
    let door = HttpDoor {
        api: api.clone(),
        doors: doors.clone(),
        tls: tls.clone(),
        origins,
        kserve_v1: settings.kserve_v1,
        shutdown: shutdown.clone(),
    };
    let failed = |flag, address| move |error| ListenError { flag, address, error };
    let mut builder =
        http::serve(builder, listener, door).map_err(failed("--listen", settings.listen))?;
    let mut addresses = Addresses { http, grpc: None };
    if let Some(address) = settings.grpc_listen {
        let (listener, bound) = bind(settings, "--grpc-listen", address)?;
        addresses.grpc = Some(bound);
        let max_age = Some(settings.grpc_max_connection_age).filter(|age| !age.is_zero());
        let door = GrpcDoor { api, doors, tls, shutdown, max_age };
        builder = grpc::serve(builder, listener, door).map_err(failed("--grpc-listen", address))?;
    }
    Ok((builder.run(), addresses))
}

fn threads(settings: &GatewaySettings) -> usize {
    let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    settings.http_threads.unwrap_or_else(cores).clamp(1, MOST_THREADS)
}

fn builder(settings: &GatewaySettings, threads: usize, connections: usize) -> ServerBuilder {
    Threads::build()
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

fn bind(
    settings: &GatewaySettings,
    flag: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), ListenError> {
    let bind = || {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        // Accepted connections inherit this option. The server itself has no timeout for stalled
        // writes.
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(settings.stall_timeout))?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(ACCEPT_BACKLOG).unwrap_or(i32::MAX))?;
        let listener = TcpListener::from(socket);
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bind().map_err(|error| ListenError { flag, address, error })
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
