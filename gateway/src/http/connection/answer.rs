//! Tells a connection when the answer to its request has been handed to the server.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{
    body::{BodySize, BoxBody, MessageBody},
    web::Bytes,
};

/// Whether the server has taken the whole answer to the current request of a connection.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct AnswerWatch(Rc<Cell<bool>>);

impl AnswerWatch {
    /// Wraps the body of the answer.
    pub(in crate::http) fn watch(&self, body: BoxBody) -> WatchedBody {
        WatchedBody { body, _end: AnswerEnd(self.clone()) }
    }

    /// Whether the server has taken the whole answer.
    pub(super) fn is_taken(&self) -> bool {
        self.0.get()
    }

    /// Begins the next request.
    pub(super) fn reset(&self) {
        self.0.set(false);
    }
}

/// The body of an answer. The server drops it when it has taken the last byte.
#[derive(Debug)]
pub(in crate::http) struct WatchedBody {
    body: BoxBody,
    _end: AnswerEnd,
}

#[derive(Debug)]
struct AnswerEnd(AnswerWatch);

impl Drop for AnswerEnd {
    fn drop(&mut self) {
        self.0.0.set(true);
    }
}

impl MessageBody for WatchedBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(context)
    }
}
