//! One request of a connection, as the stream that the server reads and writes.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{answer::AnswerWatch, large_body::LargeBody, socket::Connection};

/// One request and its answer, as the stream that the server reads and writes.
#[derive(Debug)]
pub(in crate::http) struct Exchange<S>(Rc<RefCell<Connection<S>>>);

impl<S> Exchange<S> {
    pub(super) fn of(connection: &Rc<RefCell<Connection<S>>>) -> Self {
        Self(connection.clone())
    }

    /// Reads facts of the stream.
    pub(in crate::http) fn with_stream<T>(&self, read: impl FnOnce(&S) -> T) -> T {
        read(&self.0.borrow().stream)
    }

    /// Learns when the server has taken the answer.
    pub(in crate::http) fn answer(&self) -> AnswerWatch {
        self.0.borrow().answer.clone()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Exchange<S> {
    /// The body of the request, if the handlers have to read it from the connection.
    pub(in crate::http) fn large_body(&self) -> Option<LargeBody> {
        LargeBody::of(&self.0)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Exchange<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_request(context, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Exchange<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut connection = self.0.borrow_mut();
        let written = Pin::new(connection.stream()).poll_write(context, bytes);
        connection.wrote(bytes.len(), &written);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut connection = self.0.borrow_mut();
        ready!(Pin::new(connection.stream()).poll_flush(context))?;
        // The server flushes after the stream has taken all bytes.
        connection.flushed();
        Poll::Ready(Ok(()))
    }

    /// The connection itself closes the stream.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
