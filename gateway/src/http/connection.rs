//! Serves one connection: waits for a request, lets actix answer it, and waits for the next one.
//!
//! Works over any stream, so that TLS can be ended below. What actix does not bound is bounded here:
//! the time of every request head, the memory of all connections, the requests that a client sends
//! ahead, and the time of an answer that the client does not read.

mod answer;
mod chunks;
mod exchange;
mod framing;
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
pub(super) use self::{answer::AnswerWatch, exchange::Exchange};
use crate::door::Door;

/// Time limit for a client to send a request head, from its first byte on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for the last bytes to and from a client whose connection is closed.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are read and discarded before a connection is closed. Unread bytes
/// would make the kernel discard the answer as well.
const LINGER_BYTES: usize = 256 << 10;

/// Serves the connection until the client or the server closes it. `opening` becomes the stream once
/// the client has begun to send. `http` answers one request on each stream that it is called with.
pub(super) async fn serve<S, H>(
    opening: impl Future<Output = io::Result<S>>,
    peer: Option<SocketAddr>,
    http: &H,
    door: &Door,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Service<(Exchange<S>, Option<SocketAddr>)>,
{
    let Some(place) = door.enter(peer) else { return };
    let opened = timeout(door.patience().keep_alive, opening);
    let opened = tokio::select! {
        biased;
        opened = opened => opened,
        closing = door.closes() => return closing.reason().map_or((), |reason| place.closed(reason)),
    };
    let Ok(Ok(stream)) = opened else { return };
    let connection = Rc::new(RefCell::new(Connection::new(stream, place.share())));
    let ending = loop {
        let wait = next_request(&connection, door.patience().keep_alive);
        let next = tokio::select! {
            biased;
            next = wait => next,
            closing = door.closes() => Err(closing.into()),
        };
        if let Err(ending) = next {
            break ending;
        }
        let server = Box::pin(http.call((Exchange::of(&connection), peer)));
        if let Err(ending) = answer(&connection, server, door.patience().stall).await {
            break ending;
        }
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
}

/// Waits for the head of the next request. A connection on which nothing arrives is closed without a
/// response: clients open connections ahead of need, and would take any response for the response
/// to the request that they send next.
async fn next_request<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &RefCell<Connection<S>>,
    keep_alive: Duration,
) -> Result<(), Ending> {
    connection.borrow_mut().rest()?;
    let begun = poll_fn(|context| connection.borrow_mut().poll_begin(context));
    timeout(keep_alive, begun).await.unwrap_or(Err(Ending::Closed))?;
    let head = poll_fn(|context| connection.borrow_mut().poll_head(context));
    timeout(HEAD_TIMEOUT, head).await.unwrap_or_else(|_| {
        let message = format!("the request head did not arrive within {HEAD_TIMEOUT:?}");
        Err(Ending::Refused(Problem { status: 408, code: "head_timeout", message }))
    })
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
