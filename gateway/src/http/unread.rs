//! Error responses to requests whose bodies were not read to the end.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpResponse, ResponseError,
    body::{BodySize, BoxBody, MessageBody},
    http::header::HeaderMap,
    web::Bytes,
};
use tokio::time::timeout;

use super::request_body::RequestBody;
use crate::{body::Source, error::InferError};

/// Maximum length of a body whose rest is read and discarded, to keep the connection usable.
const SMALL: u64 = 64 << 10;
/// Time limit for reading the rest, which has usually arrived already.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(100);

/// Responds with `error`. If the body has not arrived by then, the server closes the connection.
pub(super) async fn refuse(
    error: &InferError,
    headers: &HeaderMap,
    mut body: RequestBody,
) -> HttpResponse {
    // The rest of an aborted body never arrives, and a slow body has used up its time.
    let over = matches!(error.code(), "cancelled" | "body_timeout");
    if body.announced(headers).is_none_or(|length| length <= SMALL) && !over {
        // The server itself checks whether the body is complete.
        drop(timeout(DISCARD_TIMEOUT, discard(&mut body)).await);
    }
    error.error_response().map_body(|_, text| BoxBody::new(Unread { text, _body: body }))
}

async fn discard(body: &mut RequestBody) {
    let mut left = SMALL;
    while let Some(Ok(skipped)) = poll_fn(|context| body.poll_skip(context)).await {
        left = left.saturating_sub(skipped as u64);
        if left == 0 {
            break;
        }
    }
}

/// The text of an error response, and the unread request body.
///
/// The server closes the connection after a response if the request's payload still exists at that
/// time. After an earlier drop of the payload, the server would read and discard chunks for as long
/// as chunks arrive.
struct Unread {
    text: BoxBody,
    _body: RequestBody,
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
