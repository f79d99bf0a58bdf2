//! Serves one HTTP/2 connection: bounds what the client may keep open, moves clients to other gateways
//! from time to time, and says goodbye without failing a call.

use std::{
    future::pending,
    io,
    net::{SocketAddr, TcpListener},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_server::ServerBuilder;
use actix_service::{fn_factory, fn_service};
use actix_web::web::Data;
use hyper::{rt::Executor, server::conn::http2::Builder, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    call, calls::Calls, late_updates::WithoutLateUpdates, messages::Messages, origin::Peer,
    thread::Thread,
};
use crate::{
    api::Api,
    door::{Closing, Doors},
    tls::{self, Protocol, Tls, Transport},
};

/// Maximum number of calls that a client may have open on one connection.
const MOST_CALLS: u32 = 1000;
/// Maximum size of the metadata of a call, in bytes.
const MOST_METADATA: u32 = 16 << 10;
/// How much a client may send of one call before the gateway has read it, in bytes.
const CALL_WINDOW: u32 = 64 << 10;
/// How much a client may send of all calls before the gateway has read it, in bytes.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Maximum number of bytes of one answer that wait in HTTP/2 for the client to read.
const UNSENT: usize = 64 << 10;
/// The memory of a connection beside that of TLS, in bytes: 28 KiB were measured while it is idle
/// after a call.
const CONNECTION_BYTES: usize = 32 << 10;
/// How often a connection on which nothing arrives is checked with a ping, and how long the client may
/// take to answer it.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// How often the time limits of a connection are checked.
const TICK: Duration = Duration::from_secs(1);
/// How long a client that connects while the gateway goes away may use its connection: it may have found
/// no other gateway yet.
const LATE_AGE: Duration = Duration::from_secs(1);

/// What the threads that serve gRPC share.
#[derive(Clone)]
pub(crate) struct GrpcDoor {
    pub(crate) api: Data<Api>,
    pub(crate) doors: Doors,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Cancelled when the gateway begins to go away.
    pub(crate) shutdown: CancellationToken,
    /// How long a client may keep a connection; `None` for no limit.
    pub(crate) max_age: Option<Duration>,
}

/// Adds the listener of gRPC to the server.
///
/// # Errors
///
/// The listener cannot be used.
pub(crate) fn serve(
    builder: ServerBuilder,
    listener: TcpListener,
    server: GrpcDoor,
) -> io::Result<ServerBuilder> {
    let messages = Messages::new().map_err(io::Error::other)?;
    builder.listen("grpc", listener, move || {
        let (server, messages) = (server.clone(), messages.clone());
        fn_factory(move || {
            let (server, messages) = (server.clone(), messages.clone());
            async move {
                let thread = Thread::new(&server.api, server.doors.of_this_thread(), messages);
                let thread = Rc::new(thread.map_err(drop)?);
                Ok::<_, ()>(fn_service(move |stream: TcpStream| {
                    let (server, thread) = (server.clone(), thread.clone());
                    async move {
                        connection(stream, &server, thread).await;
                        Ok::<_, ()>(())
                    }
                }))
            }
        })
    })
}

/// Serves a connection until the client or the gateway closes it.
async fn connection(stream: TcpStream, server: &GrpcDoor, thread: Rc<Thread>) {
    let address = stream.peer_addr().ok();
    // Without this option the kernel would delay small answers.
    stream.set_nodelay(true).ok();
    let door = thread.door.clone();
    let Some(place) = door.enter(address) else { return };
    let mut share = place.share();
    if share.resize(CONNECTION_BYTES).is_err() {
        return place.closed("connection_bytes");
    }
    let opening =
        timeout(door.patience().keep_alive, tls::open(stream, server.tls.clone(), Protocol::Grpc));
    let transport = tokio::select! {
        opened = opening => match opened {
            Ok(Ok(transport)) => transport,
            _ => return,
        },
        closing = door.closes() => return closing.reason().map_or((), |reason| place.closed(reason)),
    };
    if let Some(reason) = converse(transport, address, server, &thread).await {
        place.closed(reason);
    }
}

/// Answers calls until the connection ends. Returns why the gateway has cut it off, if it has.
async fn converse(
    transport: Transport,
    address: Option<SocketAddr>,
    server: &GrpcDoor,
    thread: &Rc<Thread>,
) -> Option<&'static str> {
    let calls = Rc::new(Calls::default());
    let certificate = transport.certificate_name();
    let peer = Rc::new(Peer { address, certificate });
    let service = service_fn(|request| {
        let call = calls.begin();
        call::answer(thread.clone(), peer.clone(), call, request)
    });
    let io = TokioIo::new(WithoutLateUpdates::new(transport));
    let http = builder().serve_connection(io, service);
    let mut http = pin!(http);
    let patience = thread.door.patience();
    let mut ticks = interval(TICK);
    let mut farewell = pin!(farewell(server));
    let (mut is_leaving, mut is_draining) = (false, false);
    loop {
        let leaves = tokio::select! {
            biased;
            // An error means that the client has left or broken the rules of HTTP/2.
            _ = http.as_mut() => return None,
            () = &mut farewell, if !is_leaving => true,
            closing = closes(thread, calls.are_none()), if !is_draining => match closing {
                Closing::Crowded => return Closing::Crowded.reason(),
                Closing::Draining => {
                    is_draining = true;
                    true
                }
            },
            _ = ticks.tick() => {
                if calls.are_stalled(patience.stall) {
                    return Some("slow_reader");
                }
                if is_draining && !calls.owe_answers() {
                    return None;
                }
                calls.are_idle(patience.keep_alive)
            }
        };
        if leaves && !is_leaving {
            // Tells the client to send further calls elsewhere; open calls go on.
            http.as_mut().graceful_shutdown();
            is_leaving = true;
        }
    }
}

/// Waits until the gateway needs the place of a connection without calls, or drains.
async fn closes(thread: &Thread, is_idle: bool) -> Closing {
    if is_idle {
        return thread.door.closes().await;
    }
    thread.door.drains().await;
    Closing::Draining
}

/// Waits until the client should look for another gateway: when its connection has reached its age, or
/// this gateway begins to go away. Connections would otherwise stay where they were opened, and new
/// gateways would get no calls.
async fn farewell(server: &GrpcDoor) {
    if server.shutdown.is_cancelled() {
        return sleep(LATE_AGE).await;
    }
    let age = async {
        match server.max_age {
            // Spread, so that clients that came together do not leave together.
            Some(age) => sleep(age.mul_f64(rand::random_range(0.9..1.1))).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = age => {}
        () = server.shutdown.cancelled() => {}
    }
}

fn builder() -> Builder<LocalExecutor> {
    let mut builder = Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        // No client of gRPC reads the date.
        .auto_date_header(false)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .max_concurrent_streams(MOST_CALLS)
        .max_header_list_size(MOST_METADATA)
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(UNSENT);
    builder
}

/// Runs the tasks of a connection on its thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        actix_web::rt::spawn(task);
    }
}
