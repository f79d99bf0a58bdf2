//! Serves one HTTP/2 connection: bounds what the client may keep open, moves clients to other gateways
//! from time to time, and says goodbye without failing a call.

use std::{
    cell::RefCell,
    convert::Infallible,
    error::Error,
    future::{pending, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::http2::Builder,
    service::{HttpService, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    body::CallBody,
    calls::{Call, Calls},
    client_stream::{ClientStream, SharedStream},
};
use crate::{
    door::{Closing, Door, Place},
    memory::MemoryShare,
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

/// What a port grants its HTTP/2 connections.
pub(crate) struct Terms<'a> {
    pub(crate) door: &'a Door,
    /// Cancelled when the gateway begins to go away.
    pub(crate) shutdown: &'a CancellationToken,
    /// How long a client may keep a connection; `None` for no limit.
    pub(crate) max_age: Option<Duration>,
    /// Whether answers tell the date.
    pub(crate) dates: bool,
}

/// Serves the connection in `place` until the client or the gateway closes it. `share` is the memory of the
/// connection. `answer` answers each request.
pub(crate) async fn serve<T, F, B>(
    stream: ClientStream<T>,
    place: &Place<'_>,
    mut share: MemoryShare,
    terms: &Terms<'_>,
    answer: impl Fn(Request<Incoming>, Rc<Call>) -> F,
) where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response<B>> + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static,
{
    if share.resize(CONNECTION_BYTES).is_err() {
        return place.closed("connection_bytes");
    }
    let calls = Rc::new(Calls::default());
    let service = service_fn(|request| {
        let call = calls.begin(place.share());
        // In a box, because hyper and the runtime move the future several times.
        let answered = Box::pin(answer(request, call.clone()));
        async move { Ok::<_, Infallible>(answered.await.map(|body| CallBody::new(body, call))) }
    });
    if let Some(reason) = converse(stream, &calls, terms, service).await {
        place.closed(reason);
    }
}

/// What happens to a connection beside its calls.
enum Event {
    /// The client should look for another gateway.
    Farewell,
    Closing(Closing),
    /// The time limits have to be checked.
    Tick,
}

/// Answers calls until the connection ends. Returns why the gateway has cut it off, if it has.
async fn converse<T, S>(
    stream: ClientStream<T>,
    calls: &Calls,
    terms: &Terms<'_>,
    service: S,
) -> Option<&'static str>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, Error = Infallible, Future: 'static>,
    S::ResBody: Body<Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    let stream = Rc::new(RefCell::new(stream));
    let io = TokioIo::new(SharedStream(stream.clone()));
    let mut http = pin!(builder(terms.dates).serve_connection(io, service));
    let patience = terms.door.patience();
    let mut ticks = interval(TICK);
    let mut farewell = pin!(farewell(terms));
    let (mut is_leaving, mut is_draining) = (false, false);
    loop {
        let event = {
            let waits = async {
                tokio::select! {
                    biased;
                    () = &mut farewell, if !is_leaving => Event::Farewell,
                    closing = closes(terms.door, calls.are_none()), if !is_draining => {
                        Event::Closing(closing)
                    }
                    _ = ticks.tick() => Event::Tick,
                }
            };
            // Events are rare. The set polls the waits only when they wake, not at each step of a call.
            let mut waits = FuturesUnordered::from_iter([waits]);
            tokio::select! {
                biased;
                // An error means that the client has left or broken the rules of HTTP/2.
                () = poll_fn(|context| poll(http.as_mut(), &stream, context)) => return None,
                Some(event) = waits.next() => event,
            }
        };
        let leaves = match event {
            Event::Farewell => true,
            Event::Closing(Closing::Crowded) => return Closing::Crowded.reason(),
            Event::Closing(Closing::Draining) => {
                is_draining = true;
                true
            }
            Event::Tick if calls.are_stalled(patience.stall) => return Some("slow_reader"),
            Event::Tick if is_draining && !calls.owe_answers() && stream.borrow().is_sent() => {
                return None;
            }
            Event::Tick => calls.are_idle(patience.keep_alive),
        };
        if leaves && !is_leaving {
            // Tells the client to send further calls elsewhere; open calls go on.
            http.as_mut().graceful_shutdown();
            is_leaving = true;
        }
    }
}

/// Advances a connection, and sends all that it has written in the meantime. Ready when it has ended.
fn poll<T: AsyncWrite + Unpin>(
    http: Pin<&mut impl Future>,
    stream: &RefCell<ClientStream<T>>,
    context: &mut Context<'_>,
) -> Poll<()> {
    let ended = http.poll(context).map(drop);
    match stream.borrow_mut().poll_send(context) {
        Poll::Ready(Err(_)) => Poll::Ready(()),
        _ => ended,
    }
}

/// Waits until the gateway needs the place of a connection without calls, or drains.
async fn closes(door: &Door, is_idle: bool) -> Closing {
    if is_idle {
        return door.closes().await;
    }
    door.drains().await;
    Closing::Draining
}

/// Waits until the client should look for another gateway: when its connection has reached its age, or
/// this gateway begins to go away. Connections would otherwise stay where they were opened, and new
/// gateways would get no calls.
async fn farewell(terms: &Terms<'_>) {
    if terms.shutdown.is_cancelled() {
        return sleep(LATE_AGE).await;
    }
    let age = async {
        match terms.max_age {
            // Spread, so that clients that came together do not leave together.
            Some(age) => sleep(age.mul_f64(rand::random_range(0.9..1.1))).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = age => {}
        () = terms.shutdown.cancelled() => {}
    }
}

fn builder(dates: bool) -> Builder<LocalExecutor> {
    let mut builder = Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(dates)
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
