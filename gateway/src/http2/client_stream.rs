//! A client's side of an HTTP/2 connection, as h2 sees it: writes are gathered, reads come in turns, and
//! without the window updates of streams that come too late for a connection that is going away.
//!
//! The last GOAWAY frame follows the client's answer to a PING, and names the last stream that is served.
//! Clients may send that answer ahead of a stream that they have opened before. h2 0.4 ignores the other
//! frames of such a stream, as HTTP/2 demands, but takes its `WINDOW_UPDATE` frames for an error of the
//! protocol, and fails all calls of the connection.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    ahead::{self, Ahead},
    frames::Frames,
    output::Output,
};

/// Maximum number of bytes read from a connection in one turn. Without turns, a small request would wait
/// behind the many frames of other clients.
const TURN: usize = 32 << 10;

/// A client's side of a connection.
#[derive(Debug)]
pub(crate) struct ClientStream<T> {
    io: T,
    frames: Frames,
    ahead: Ahead,
    /// Received and not yet read by h2: what preceded this stream, or came after the last call is known.
    kept: BytesMut,
    /// Bytes left to read in the current turn.
    turn: usize,
    output: Output,
}

impl<T> ClientStream<T> {
    /// The stream below.
    pub(crate) fn get_ref(&self) -> &T {
        &self.io
    }

    /// The stream of a client that has sent `received` so far.
    pub(crate) fn new(io: T, received: BytesMut) -> Self {
        let mut frames = Frames::default();
        frames.follow(&received);
        let (ahead, output) = (Ahead::default(), Output::default());
        Self { io, frames, ahead, kept: received, turn: TURN, output }
    }
}

impl<T: AsyncWrite + Unpin> ClientStream<T> {
    /// Sends what h2 has written so far.
    pub(super) fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.poll_send(&mut self.io, context)
    }

    /// Whether everything that h2 has written was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.output.is_empty()
    }
}

impl<T: AsyncRead + Unpin> ClientStream<T> {
    /// Reads from the client if the connection's turn is not over.
    fn poll_turn(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn == 0 {
            self.turn = TURN;
            // More data may be ready: reschedule the task behind all other ready tasks.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, into);
        self.turn = match read {
            Poll::Pending => TURN,
            Poll::Ready(_) => self.turn.saturating_sub(into.filled().len() - before),
        };
        read
    }

    /// Reads a piece ahead of h2. Returns `false` at the end of the connection.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut buffer = ahead::buffer();
        let mut piece = ReadBuf::new(&mut buffer);
        let read = self.poll_turn(context, &mut piece);
        let length = piece.filled().len();
        let early = self.frames.follow(&buffer[..length]);
        self.frames.keep(&buffer[early..length], &mut self.kept);
        self.ahead = Ahead::new(buffer, early);
        read.map_ok(|()| length > 0)
    }

    /// Reads into a large buffer.
    fn poll_large(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(self.poll_turn(context, into))?;
        let received = &into.filled()[before..];
        let early = self.frames.follow(received);
        if early < received.len() {
            self.frames.keep(&received[early..], &mut self.kept);
            into.set_filled(before + early);
        }
        Poll::Ready(Ok(()))
    }

    fn take_kept(&mut self, into: &mut ReadBuf<'_>) {
        let length = self.kept.len().min(into.remaining());
        into.put_slice(&self.kept[..length]);
        self.kept.advance(length);
        if self.kept.is_empty() {
            self.kept = BytesMut::new();
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ClientStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ahead.is_empty() && this.kept.is_empty() {
            if !this.frames.know_last_stream() && into.remaining() >= ahead::PIECE {
                return this.poll_large(context, into);
            }
            if !ready!(this.poll_piece(context))? {
                return Poll::Ready(Ok(()));
            }
            // Nothing may be left of a piece that came late.
        }
        if this.ahead.is_empty() {
            this.take_kept(into);
        } else {
            this.ahead.hand_over(into);
        }
        Poll::Ready(Ok(()))
    }
}

/// Writes are gathered until [`ClientStream::poll_send`] is called.
impl<T: AsyncWrite + Unpin> AsyncWrite for ClientStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.output.poll_write(&mut this.io, slices, context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(context))?;
        Pin::new(&mut this.io).poll_shutdown(context)
    }
}

/// A [`ClientStream`] that its connection shares with h2.
#[derive(Debug)]
pub(super) struct SharedStream<T>(pub(super) Rc<RefCell<ClientStream<T>>>);

impl<T: AsyncRead + Unpin> AsyncRead for SharedStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(context, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for SharedStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::{
        super::frames::samples::{DATA, HEADERS, START, WINDOW_UPDATE, frame, shutdown_ack},
        *,
    };

    /// A client that has sent some bytes, and the number of reads from it.
    struct Sent<'a> {
        bytes: &'a [u8],
        reads: usize,
    }

    impl AsyncRead for Sent<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.reads += 1;
            Pin::new(&mut self.bytes).poll_read(context, into)
        }
    }

    #[tokio::test]
    async fn a_request_is_read_at_once_however_little_h2_asks_for() {
        let head = frame(HEADERS, 0, 1, b"head");
        let sent = [START, &head, &frame(DATA, 1, 1, &[7; 12 << 10])].concat();
        let mut stream = ClientStream::new(Sent { bytes: &sent, reads: 0 }, BytesMut::new());
        let (mut received, mut piece) = (Vec::new(), [0; 3 << 10]);
        while received.len() < sent.len() {
            let length = stream.read(&mut piece).await.unwrap();
            received.extend_from_slice(&piece[..length]);
        }
        assert!(received == sent);
        assert_eq!(stream.io.reads, 1);
        assert_eq!(stream.kept.capacity(), 0);
    }

    #[tokio::test]
    async fn late_updates_are_hidden_in_reads_of_any_size() {
        let early = [frame(HEADERS, 0, 1, b"head"), shutdown_ack()].concat();
        let late = [frame(HEADERS, 0, 3, b"late"), frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 9])];
        let rest = frame(DATA, 1, 1, &vec![7; 12 << 10]);
        let sent = [START, &early, &late.concat(), &rest].concat();
        let shown = [START, &early, &late[0], &rest].concat();
        for (size, before) in [(1, 0), (7, 1), (64, START.len()), (1 << 20, START.len() + 5)] {
            let (mut client, server) = duplex(sent.len());
            client.write_all(&sent[before..]).await.unwrap();
            drop(client);
            let mut server = ClientStream::new(server, BytesMut::from(&sent[..before]));
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
