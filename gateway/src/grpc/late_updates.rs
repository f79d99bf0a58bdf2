//! Hides from h2 the window updates of streams that come too late for a connection that is going away.
//!
//! The last GOAWAY frame follows the client's answer to a PING, and names the last stream that is served.
//! Clients may send that answer ahead of a stream that they have opened before. h2 0.4 ignores the other
//! frames of such a stream, as HTTP/2 demands, but takes its `WINDOW_UPDATE` frames for an error of the
//! protocol, and fails all calls of the connection.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;

/// Maximum number of bytes that are read at a time once the connection is going away.
const PIECE: usize = 4 << 10;

/// A connection without late window updates.
#[derive(Debug)]
pub(super) struct WithoutLateUpdates<T> {
    io: T,
    frames: Frames,
    /// Received since the last stream is known, and not yet read by h2.
    kept: BytesMut,
}

impl<T> WithoutLateUpdates<T> {
    /// A connection of a client that has sent nothing yet.
    pub(super) fn new(io: T) -> Self {
        Self { io, frames: Frames::default(), kept: BytesMut::new() }
    }
}

impl<T: AsyncRead + Unpin> WithoutLateUpdates<T> {
    /// Reads until the last stream is known.
    fn poll_early(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, into))?;
        let received = &into.filled()[before..];
        let early = self.frames.follow(received);
        if early < received.len() {
            self.frames.keep(&received[early..], &mut self.kept);
            into.set_filled(before + early);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once the last stream is known. Returns without new bytes at the end of the connection.
    fn poll_late(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.kept.is_empty() {
            let mut piece = [MaybeUninit::uninit(); PIECE];
            let mut piece = ReadBuf::uninit(&mut piece);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.frames.keep(piece.filled(), &mut self.kept);
        }
        let length = self.kept.len().min(into.remaining());
        into.put_slice(&self.kept[..length]);
        self.kept.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WithoutLateUpdates<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.frames.know_last_stream() {
            this.poll_late(context, into)
        } else {
            this.poll_early(context, into)
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WithoutLateUpdates<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::{
        super::frames::samples::{DATA, HEADERS, START, WINDOW_UPDATE, frame, shutdown_ack},
        *,
    };

    #[tokio::test]
    async fn late_updates_are_hidden_in_reads_of_any_size() {
        let early = [frame(HEADERS, 0, 1, b"head"), shutdown_ack()].concat();
        let late = [frame(HEADERS, 0, 3, b"late"), frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 9])];
        let rest = frame(DATA, 1, 1, &vec![7; 3 * PIECE]);
        let sent = [START, &early, &late.concat(), &rest].concat();
        let shown = [START, &early, &late[0], &rest].concat();
        for size in [1, 7, 64, 1 << 20] {
            let (mut client, server) = duplex(sent.len());
            client.write_all(&sent).await.unwrap();
            drop(client);
            let mut server = WithoutLateUpdates::new(server);
            let mut received = Vec::new();
            let mut piece = vec![0; size];
            loop {
                match server.read(&mut piece).await.unwrap() {
                    0 => break,
                    length => received.extend_from_slice(&piece[..length]),
                }
            }
            assert!(received == shown, "in reads of {size} bytes");
        }
    }
}
