//! The body of a request, as handlers read it.

use std::{
    future::{Ready, ready},
    io,
    task::{Context, Poll, ready},
};

use actix_web::{
    FromRequest, HttpRequest, dev, error::PayloadError, http::header::HeaderMap, web::Payload,
};

use super::{connection::LargeBody, head::content_length};
use crate::body::{Buffer, Source};

/// The body of a request.
pub(super) enum RequestBody {
    /// The server has the body.
    Small(Payload),
    /// The connection has the body.
    Large(LargeBody),
}

impl RequestBody {
    /// The length of the whole body in bytes, if the head of the request tells it.
    pub(super) fn announced(&self, headers: &HeaderMap) -> Option<u64> {
        match self {
            Self::Small(_) => content_length(headers),
            Self::Large(body) => Some(body.length()),
        }
    }
}

impl FromRequest for RequestBody {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        match request.conn_data::<LargeBody>() {
            Some(body) => ready(Ok(Self::Large(body.clone()))),
            None => ready(Payload::from_request(request, payload).into_inner().map(Self::Small)),
        }
    }
}

/// The bytes that were read; `None` at the end of the body.
fn unless_ended(read: io::Result<usize>) -> Option<Result<usize, PayloadError>> {
    match read {
        Ok(0) => None,
        Ok(length) => Some(Ok(length)),
        Err(error) => Some(Err(PayloadError::Io(error))),
    }
}

impl Source for RequestBody {
    type Error = PayloadError;

    fn poll_more(
        &mut self,
        context: &mut Context<'_>,
        into: &mut Buffer,
    ) -> Poll<Option<Result<(), PayloadError>>> {
        match self {
            Self::Small(payload) => payload.poll_more(context, into),
            Self::Large(body) => {
                let read = ready!(body.poll_read(context, into.with_room()));
                Poll::Ready(unless_ended(read).map(|read| read.map(drop)))
            }
        }
    }

    fn poll_skip(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<usize, PayloadError>>> {
        match self {
            Self::Small(payload) => payload.poll_skip(context),
            Self::Large(body) => body.poll_skip(context).map(unless_ended),
        }
    }
}
