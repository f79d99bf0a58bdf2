//! The body of a large request, which the handlers read from the connection.
//!
//! Through actix each byte would be copied once more, and read in smaller pieces. actix therefore takes such a
//! request for one without a body.

use std::{
    cell::RefCell,
    fmt, io,
    mem::MaybeUninit,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

use super::socket::Connection;

/// Maximum number of bytes that are read at a time to drop them.
const SKIPPED: usize = 16 << 10;

/// The body of a large request, which the handlers read from the connection.
#[derive(Clone)]
pub(in crate::http) struct LargeBody {
    /// The length of the whole body in bytes.
    length: u64,
    connection: Rc<dyn ReadLargeBody>,
}

/// What a large body asks of its connection, whatever the stream.
trait ReadLargeBody {
    fn left(&self) -> u64;

    fn poll_read(&self, context: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>>;

    fn poll_skip(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>>;
}

impl LargeBody {
    /// The body of the connection's current request, whose head has been read; `None` if it is not large.
    pub(super) fn of<S>(connection: &Rc<RefCell<Connection<S>>>) -> Option<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let length = connection.borrow().large_body()?;
        Some(Self { length, connection: connection.clone() })
    }

    /// The length of the whole body in bytes.
    pub(in crate::http) fn length(&self) -> u64 {
        self.length
    }

    /// Whether bytes are left that no handler has read.
    pub(in crate::http) fn is_unread(&self) -> bool {
        self.connection.left() > 0
    }

    /// Reads bytes to the end of `into`, as far as there is room. Returns their number: 0 at the end of the body.
    pub(in crate::http) fn poll_read(
        &self,
        context: &mut Context<'_>,
        into: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        self.connection.poll_read(context, into)
    }

    /// Reads bytes and drops them. Returns their number: 0 at the end of the body.
    pub(in crate::http) fn poll_skip(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.connection.poll_skip(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ReadLargeBody for RefCell<Connection<S>> {
    fn left(&self) -> u64 {
        self.borrow().large_body().unwrap_or(0)
    }

    fn poll_read(&self, context: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.borrow_mut().poll_large_body(context, into)
    }

    fn poll_skip(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut piece = [const { MaybeUninit::uninit() }; SKIPPED];
        self.borrow_mut().poll_large_body(context, &mut piece[..])
    }
}

impl fmt::Debug for LargeBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LargeBody").field("length", &self.length).finish_non_exhaustive()
    }
}
