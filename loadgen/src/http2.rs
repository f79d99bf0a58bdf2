//! Connections of HTTP/2, which also carry gRPC.

use bytes::{Bytes, BytesMut};
use h2::{
    RecvStream,
    client::{Builder, SendRequest},
};
use hyper::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::workload::HttpAnswer;

/// How much the server may send of one answer, and of all, before the client has read it, in bytes.
const WINDOWS: (u32, u32) = (2 << 20, 5 << 20);

/// Opens a connection.
pub(crate) async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<SendRequest<Bytes>, h2::Error> {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1);
    let (sender, connection) = builder.handshake(stream).await?;
    // The task ends when the sender is dropped. Errors of the connection reach the sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends a request on a connection that takes one, and waits for the complete answer. Its trailers are
/// among its headers.
pub(crate) async fn ask(
    sender: &mut SendRequest<Bytes>,
    request: Request<Bytes>,
) -> Result<(StatusCode, HttpAnswer), h2::Error> {
    let (head, body) = request.into_parts();
    // The message follows its head before the task of the connection runs, so that one write carries
    // both, as with the gRPC libraries of C and Go.
    let (response, mut stream) = sender.send_request(Request::from_parts(head, ()), false)?;
    stream.send_data(body, true)?;
    read(response.await?).await
}

async fn read(response: Response<RecvStream>) -> Result<(StatusCode, HttpAnswer), h2::Error> {
    let (head, mut stream) = response.into_parts();
    let (mut headers, mut body) = (head.headers, BytesMut::new());
    while let Some(piece) = stream.data().await {
        let piece = match piece {
            Err(error) if is_complete(&error) => break,
            piece => piece?,
        };
        body.extend_from_slice(&piece);
        stream.flow_control().release_capacity(piece.len())?;
    }
    match stream.trailers().await {
        Err(error) if is_complete(&error) => {}
        trailers => headers.extend(trailers?.unwrap_or_default()),
    }
    Ok((head.status, HttpAnswer { headers, body: body.freeze() }))
}

/// Whether the answer is complete, and the server does not want the rest of the request.
fn is_complete(error: &h2::Error) -> bool {
    error.is_reset() && error.reason() == Some(h2::Reason::NO_ERROR)
}

/// Whether the server has said goodbye before it has seen the request, which may then be sent again.
pub(crate) fn is_unprocessed(error: &h2::Error) -> bool {
    let is_goodbye = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (is_goodbye || is_refused)
}
