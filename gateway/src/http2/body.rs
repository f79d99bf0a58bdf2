//! The body of an answer, which counts its call as open until the client has taken the last byte.

use std::{
    io::IoSlice,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::calls::Call;

/// The body of an answer to an open call.
pub(super) struct CallBody<B> {
    body: B,
    call: Rc<Call>,
}

/// A piece of an answer. HTTP/2 keeps the piece until it was sent, and the call is open until then.
pub(super) struct Piece {
    bytes: Bytes,
    _call: Rc<Call>,
}

impl<B> CallBody<B> {
    /// The body of the answer to `call`.
    pub(super) fn new(body: B, call: Rc<Call>) -> Self {
        // A client that allows no byte would otherwise never count as stalled.
        call.moved();
        Self { body, call }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for CallBody<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let Self { body, call } = self.get_mut();
        call.moved();
        let polled = Pin::new(body).poll_frame(context);
        if polled.is_pending() {
            // The client has read everything so far.
            call.rests();
        }
        polled.map_ok(|frame| {
            frame.map_data(|bytes| {
                call.hands_over(bytes.len());
                Piece { bytes, _call: call.clone() }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }
}
