//! Answers to requests whose bodies were not read, or not to their end.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpResponse, ResponseError,
    body::{BodySize, BoxBody, MessageBody},
    web::{Bytes, Payload},
};
use futures_core::Stream;
use tokio::time::timeout;

use crate::error::InferError;

/// What is left of a body up to this size is read away, so that its connection stays usable.
const SMALL: u64 = 64 << 10;
/// How long that may take: most often it has already arrived.
const MOMENT: Duration = Duration::from_millis(100);

/// Answers with `error`. A connection whose body is still coming after that is closed.
pub(super) async fn refuse(
    error: &InferError,
    announced: Option<u64>,
    mut payload: Payload,
) -> HttpResponse {
    // Of a body that has broken nothing more comes; one that was too slow had its time.
    let over = matches!(error.code(), "cancelled" | "body_timeout");
    if announced.is_none_or(|length| length <= SMALL) && !over {
        // Whether it came to its end or not is for the server to see.
        drop(timeout(MOMENT, discard(&mut payload)).await);
    }
    error.error_response().map_body(|_, text| BoxBody::new(Unread { text, _payload: payload }))
}

async fn discard(payload: &mut Payload) {
    let mut left = SMALL;
    while let Some(Ok(chunk)) = poll_fn(|context| Pin::new(&mut *payload).poll_next(context)).await
    {
        left = left.saturating_sub(chunk.len() as u64);
        if left == 0 {
            break;
        }
    }
}

/// An answer's text, and the body that it does not wait for.
///
/// The server closes a connection when it has sent an answer while the request's body is still in
/// someone's hands. Were the body dropped, it would go on reading chunks for as long as they come.
struct Unread {
    text: BoxBody,
    _payload: Payload,
}

impl MessageBody for Unread {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.text.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().text).poll_next(context)
    }
}
