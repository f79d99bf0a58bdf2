//! Reads the messages of a call as they arrive.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use batchfleet_oip::Problem;
use bytes::{Buf, Bytes};
use futures_core::Stream;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::codec::{FrameHead, HEAD};
use crate::{
    body::{self, Body, Bounds, Encoding},
    error::InferError,
    memory::MemoryShare,
};

/// The messages of a call.
pub(super) struct Messages {
    body: Incoming,
    /// Received and not yet read.
    rest: Bytes,
    encoding: Option<Encoding>,
}

/// A message as it arrived.
pub(super) struct Message {
    pub(super) body: Body,
    /// How the message is compressed, if it is.
    pub(super) encoding: Option<Encoding>,
}

impl Messages {
    /// The messages in a body; `encoding` applies to those that are flagged as compressed.
    pub(super) fn new(body: Incoming, encoding: Option<Encoding>) -> Self {
        Self { body, rest: Bytes::new(), encoding }
    }

    /// Reads the only message of a call, with the limits of a body over HTTP.
    ///
    /// # Errors
    ///
    /// As [`body::read`]. 400 `bad_message`: there is no message.
    pub(super) async fn only(
        &mut self,
        bounds: Bounds,
        share: MemoryShare,
    ) -> Result<Message, InferError> {
        let begun = timeout(bounds.time, self.begun()).await.map_err(|_| too_slow())?;
        if !begun? {
            return Err(Problem::bad("bad_message", "the call has no message").into());
        }
        self.read(bounds, share).await
    }

    /// Waits until the next message begins; `false` if the client sends no more messages.
    ///
    /// # Errors
    ///
    /// 400 `cancelled`: the client aborted the call.
    pub(super) async fn begun(&mut self) -> Result<bool, InferError> {
        while self.rest.is_empty() {
            match poll_fn(|context| self.poll_chunk(context)).await {
                None => return Ok(false),
                Some(chunk) => self.rest = chunk?,
            }
        }
        Ok(true)
    }

    /// Reads the message that has begun, with the limits of a body over HTTP.
    ///
    /// # Errors
    ///
    /// As [`body::read`]. 400 `bad_message`: the bytes are no message.
    pub(super) async fn read(
        &mut self,
        bounds: Bounds,
        share: MemoryShare,
    ) -> Result<Message, InferError> {
        let head = timeout(bounds.time, self.head()).await.map_err(|_| too_slow())??;
        let encoding = match (head.is_compressed, self.encoding) {
            (false, _) => None,
            (true, Some(encoding)) => Some(encoding),
            (true, None) => {
                let message = "the message is compressed, but the call has no grpc-encoding";
                return Err(Problem::bad("bad_message", message).into());
            }
        };
        let (length, left) = (u64::from(head.length), head.length as usize);
        let body = body::read(&mut One { all: self, left }, Some(length), bounds, share).await?;
        if body.bytes.len() < left {
            return Err(ended());
        }
        Ok(Message { body, encoding })
    }

    async fn head(&mut self) -> Result<FrameHead, InferError> {
        let (mut head, mut known) = ([0; HEAD], 0);
        while known < HEAD {
            if !self.begun().await? {
                return Err(ended());
            }
            let more = self.rest.len().min(HEAD - known);
            self.rest.split_to(more).copy_to_slice(&mut head[known..known + more]);
            known += more;
        }
        Ok(FrameHead::parse(head)?)
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, InferError>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            let Some(frame) = frame else { return Poll::Ready(None) };
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => return Poll::Ready(Some(Ok(data))),
                // Trailers.
                Ok(Err(_)) => {}
                Err(error) => {
                    let message = format!("the call was aborted: {error}");
                    return Poll::Ready(Some(Err(Problem::bad("cancelled", message).into())));
                }
            }
        }
    }
}

/// The bytes of one message.
struct One<'a> {
    all: &'a mut Messages,
    left: usize,
}

impl Stream for One<'_> {
    type Item = Result<Bytes, InferError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { all, left } = self.get_mut();
        if *left == 0 {
            return Poll::Ready(None);
        }
        if all.rest.is_empty() {
            match ready!(all.poll_chunk(context)) {
                Some(Ok(chunk)) => all.rest = chunk,
                end => return Poll::Ready(end),
            }
        }
        let piece = all.rest.split_to(all.rest.len().min(*left));
        *left -= piece.len();
        Poll::Ready(Some(Ok(piece)))
    }
}

fn ended() -> InferError {
    Problem::bad("bad_message", "the message is malformed: it ends too early").into()
}

/// The error of a message that does not arrive in time.
pub(super) fn too_slow() -> InferError {
    let message = "the message did not arrive in time".to_owned();
    Problem { status: 408, code: "body_timeout", message }.into()
}
