//! Gathers what HTTP/2 writes, so that one system call sends an answer.
//!
//! h2 writes before it adds a frame behind a large DATA frame. An answer of gRPC, whose trailers follow its
//! data, would therefore take two system calls, which cost more than the copy does.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

/// Maximum number of bytes that are gathered.
const MOST: usize = 32 << 10;
/// Maximum capacity of the buffer that a connection keeps when everything was sent.
const KEPT: usize = 2 << 10;

/// What was written and not yet sent.
#[derive(Debug, Default)]
pub(super) struct Output {
    gathered: BytesMut,
}

impl Output {
    /// Whether everything was sent.
    pub(super) fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    /// Takes `slices`, or sends what they and earlier ones hold if that is much. Returns how many bytes of
    /// `slices` were taken.
    pub(super) fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        slices: &[IoSlice<'_>],
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.gathered.len() + length > MOST {
            ready!(self.poll_send(io, context))?;
            if length > MOST {
                return Pin::new(io).poll_write_vectored(context, slices);
            }
        }
        for slice in slices {
            self.gathered.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    /// Sends everything that was taken.
    pub(super) fn poll_send<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let sent = ready!(Pin::new(&mut *io).poll_write(context, &self.gathered))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(sent);
        }
        self.gathered.clear();
        if self.gathered.capacity() > KEPT {
            self.gathered = BytesMut::new();
        }
        Pin::new(io).poll_flush(context)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, mem::MaybeUninit};

    use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf, duplex};

    use super::*;

    async fn write(
        output: &mut Output,
        io: &mut (impl AsyncWrite + Unpin),
        bytes: &[&[u8]],
    ) -> usize {
        let slices: Vec<_> = bytes.iter().map(|bytes| IoSlice::new(bytes)).collect();
        poll_fn(|context| output.poll_write(io, &slices, context)).await.unwrap()
    }

    /// What a client can read now.
    async fn arrived(client: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        let mut bytes = Vec::new();
        poll_fn(|context| {
            let mut piece = [MaybeUninit::uninit(); 4 << 10];
            let mut piece = ReadBuf::uninit(&mut piece);
            while Pin::new(&mut *client).poll_read(context, &mut piece).is_ready() {
                bytes.extend_from_slice(piece.filled());
                piece.clear();
            }
            Poll::Ready(())
        })
        .await;
        bytes
    }

    #[tokio::test]
    async fn small_writes_are_sent_together_and_large_ones_in_order() {
        let (mut client, mut server) = duplex(4 * MOST);
        let mut output = Output::default();
        assert_eq!(write(&mut output, &mut server, &[b"head", b"data"]).await, 8);
        assert_eq!(write(&mut output, &mut server, &[b"trailers"]).await, 8);
        assert_eq!(arrived(&mut client).await, b"");
        poll_fn(|context| output.poll_send(&mut server, context)).await.unwrap();
        assert_eq!(arrived(&mut client).await, b"headdatatrailers");

        let large = vec![b'x'; MOST + 1];
        write(&mut output, &mut server, &[b"first"]).await;
        let taken = write(&mut output, &mut server, &[&large]).await;
        write(&mut output, &mut server, &[&large[taken..], b"last"]).await;
        poll_fn(|context| output.poll_send(&mut server, context)).await.unwrap();
        assert!(output.is_empty() && output.gathered.capacity() <= KEPT);
        assert_eq!(arrived(&mut client).await, [b"first", &large[..], b"last"].concat());
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_holds_a_bounded_output() {
        let (mut client, mut server) = duplex(10);
        let mut output = Output::default();
        let piece = vec![b'x'; MOST / 2];
        let mut taken = 0;
        let stuck = poll_fn(|context| {
            while let Poll::Ready(written) =
                output.poll_write(&mut server, &[IoSlice::new(&piece)], context)
            {
                taken += written.unwrap();
            }
            Poll::Ready(output.gathered.len())
        });
        assert_eq!((stuck.await, taken), (MOST - 10, MOST));
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            all.len()
        });
        poll_fn(|context| output.poll_send(&mut server, context)).await.unwrap();
        drop(server);
        assert_eq!(reading.await.unwrap(), MOST);
    }
}
