//! Serves one connection of HTTP/1.1: waits for a request, lets actix answer it, and waits for the next
//! one. Hands over a connection whose client speaks HTTP/2.
//!
//! Works over any stream, so that TLS can be ended below. What actix does not bound is bounded here:
//! the time of every request head, the memory of all connections, the requests that a client sends
//! ahead, and the time of an answer that the client does not read.

mod answer;
mod chunks;
mod exchange;
mod framing;
mod large_body;
mod refusal;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use actix_service::Service;
use batchfleet_oip::Problem;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use self::socket::{Connection, Ending};
pub(super) use self::{
    answer::{AnswerWatch, WatchedBody},
    exchange::Exchange,
    large_body::LargeBody,
};
use crate::{
    door::{Door, Place},
    http2::ClientStream,
    memory::MemoryShare,
};

/// Time limit for a client to send a request head, from its first byte on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for the last bytes to and from a client whose connection is closed.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are read and discarded before a connection is closed. Unread bytes
/// would make the kernel discard the answer as well.
const LINGER_BYTES: usize = 256 << 10;

/// A connection whose client has begun to speak HTTP/2.
pub(super) struct Http2Client<'a, S> {
    pub(super) stream: ClientStream<S>,
    pub(super) place: Place<'a>,
    pub(super) share: MemoryShare,
}

/// Serves the connection until the client or the server closes it, or hands it over because the client
/// speaks HTTP/2. `opening` becomes the stream once the client has begun to send. `http` answers one
/// request on each stream that it is called with.
pub(super) async fn serve<'a, S, H>(
    opening: impl Future<Output = io::Result<S>>,
    peer: Option<SocketAddr>,
    http: &H,
    door: &'a Door,
) -> Option<Http2Client<'a, S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Service<(Exchange<S>, Option<SocketAddr>)>,
{
    let place = door.enter(peer)?;
    let opened = timeout(door.patience().keep_alive, opening);
    let opened = tokio::select! {
        biased;
        opened = opened => opened,
        closing = door.closes() => {
            if let Some(reason) = closing.reason() {
                place.closed(reason);
            }
            return None;
        }
    };
    let stream = opened.ok()?.ok()?;
    let connection = Rc::new(RefCell::new(Connection::new(stream, place.share())));
    let first = unless_closed(door, speaks_http2(&connection, door.patience().keep_alive)).await;
    let ending = match first {
        Ok(true) => {
            let (stream, received, share) = Rc::into_inner(connection)?.into_inner().into_parts();
            return Some(Http2Client { stream: ClientStream::new(stream, received), place, share });
        }
        Ok(false) => answer_requests(&connection, peer, http, door).await,
        Err(ending) => ending,
    };
    if let Some(reason) = ending.reason() {
        place.closed(reason);
    }
    if let Some(connection) = Rc::into_inner(connection) {
        let closing = timeout(LINGER_TIMEOUT, close(connection.into_inner(), ending));
        // The connection is dropped after the time limit, or when its place is needed.
        tokio::select! {
            _ = closing => {}
            _ = door.closes() => {}
        }
    }
    None
}

/// Answers one request after another. Returns how the connection ended.
async fn answer_requests<S, H>(
    connection: &Rc<RefCell<Connection<S>>>,
    peer: Option<SocketAddr>,
    http: &H,
    door: &Door,
) -> Ending
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Service<(Exchange<S>, Option<SocketAddr>)>,
{
    let patience = door.patience();
    loop {
        let wait = next_request(connection, patience.keep_alive);
        if let Err(ending) = unless_closed(door, wait).await {
            return ending;
        }
        let server = Box::pin(http.call((Exchange::of(connection), peer)));
        if let Err(ending) = answer(connection, server, patience.stall).await {
            return ending;
        }
    }
}

/// Waits for the client, unless the connection has to close.
async fn unless_closed<T>(
    door: &Door,
    wait: impl Future<Output = Result<T, Ending>>,
) -> Result<T, Ending> {
    tokio::select! {
        biased;
        waited = wait => waited,
        closing = door.closes() => Err(closing.into()),
    }
}

/// Waits for the first bytes of the connection, which tell whether the client speaks HTTP/2.
async fn speaks_http2<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &RefCell<Connection<S>>,
    keep_alive: Duration,
) -> Result<bool, Ending> {
    begin(connection, keep_alive).await?;
    let tell = poll_fn(|context| connection.borrow_mut().poll_preface(context));
    timeout(HEAD_TIMEOUT, tell).await.unwrap_or_else(|_| Err(late_head()))
}

/// Waits for the head of the next request. A connection on which nothing arrives is closed without a
/// response: clients open connections ahead of need, and would take any response for the response
/// to the request that they send next.
async fn next_request<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &RefCell<Connection<S>>,
    keep_alive: Duration,
) -> Result<(), Ending> {
    begin(connection, keep_alive).await?;
    let head = poll_fn(|context| connection.borrow_mut().poll_head(context));
    timeout(HEAD_TIMEOUT, head).await.unwrap_or_else(|_| Err(late_head()))
}

/// Waits for the first byte of the next request.
async fn begin<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &RefCell<Connection<S>>,
    keep_alive: Duration,
) -> Result<(), Ending> {
    connection.borrow_mut().rest()?;
    let begun = poll_fn(|context| connection.borrow_mut().poll_begin(context));
    timeout(keep_alive, begun).await.unwrap_or(Err(Ending::Closed))
}

fn late_head() -> Ending {
    let message = format!("the request head did not arrive within {HEAD_TIMEOUT:?}");
    Ending::Refused(Problem { status: 408, code: "head_timeout", message })
}

/// Runs the server until the answer to the current request has been sent. Dropping the server then
/// releases its buffers.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &RefCell<Connection<S>>,
    mut server: impl Future + Unpin,
    stall: Duration,
) -> Result<(), Ending> {
    poll_fn(|context| {
        if Pin::new(&mut server).poll(context).is_ready() {
            return Poll::Ready(Err(Ending::Finished));
        }
        connection.borrow_mut().poll_answered(stall, context)
    })
    .await
}

/// Sends a refusal, if the connection ends with one, and closes the stream.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut connection: Connection<S>, ending: Ending) {
    let mut has_unread = connection.has_unread();
    let stream = connection.stream();
    match ending {
        Ending::Finished => {}
        Ending::Closed | Ending::Crowded | Ending::SlowReader => return,
        Ending::Refused(problem) => {
            has_unread = true;
            if stream.write_all(&refusal::response(&problem)).await.is_err() {
                return;
            }
        }
    }
    if stream.shutdown().await.is_ok() && has_unread {
        let mut left = LINGER_BYTES;
        poll_fn(|context| connection.poll_discard(&mut left, context)).await;
    }
}
