//! Fair reading: connections take turns.
//!
//! actix keeps reading from a connection while data arrives, up to 128 KiB at a time. When
//! thousands of clients send large bodies at once, a small request would otherwise wait behind all
//! of them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Maximum number of bytes read from a connection in one turn.
const TURN: usize = 8 << 10;

/// A connection that is read in turns.
#[derive(Debug)]
pub(super) struct Paced<S> {
    stream: S,
    /// Bytes left to read in the current turn.
    left: usize,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, left: TURN }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            self.left = TURN;
            // More data may be ready: reschedule the task behind all other ready tasks.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        self.left = match read {
            Poll::Pending => TURN,
            Poll::Ready(_) => self.left.saturating_sub(into.filled().len() - before),
        };
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, repeat};

    use super::*;

    #[tokio::test]
    async fn other_tasks_run_while_a_connection_sends_much() {
        const MUCH: usize = 20 * TURN;
        let turns = std::cell::Cell::new(0);
        let sender = async {
            let (mut paced, mut piece, mut all) = (Paced::new(repeat(7)), [0; 1 << 10], 0);
            while all < MUCH {
                all += paced.read(&mut piece).await.unwrap();
            }
        };
        let others = async {
            loop {
                turns.set(turns.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = sender => {}
            () = others => {}
        }
        assert!(turns.get() >= 19, "{} turns", turns.get());
    }
}
