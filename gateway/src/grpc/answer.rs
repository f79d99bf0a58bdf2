//! The bodies of answers on their way to the client.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::Status;

use super::{
    calls::Call,
    parts::{Parts, succeeded},
    stream::Answers,
};

/// The body of an answer.
pub(super) struct AnswerBody {
    content: Content,
    /// Counts the call as open; `None` only before the answer is complete.
    call: Option<Rc<Call>>,
}

enum Content {
    /// No body: the head holds the status.
    Empty,
    /// One message.
    One(Parts),
    /// The answers of a stream.
    Many(Box<Answers>),
    /// An answer of the generated code.
    Generated(tonic::body::Body),
}

impl Default for AnswerBody {
    fn default() -> Self {
        Self { content: Content::Empty, call: None }
    }
}

impl AnswerBody {
    /// One message, and the status that the call succeeded.
    pub(super) fn one(parts: Parts) -> Self {
        Self { content: Content::One(parts), call: None }
    }

    /// The answers of a stream.
    pub(super) fn many(answers: Answers) -> Self {
        Self { content: Content::Many(Box::new(answers)), call: None }
    }

    /// An answer of the generated code.
    pub(super) fn generated(body: tonic::body::Body) -> Self {
        Self { content: Content::Generated(body), call: None }
    }

    /// Counts the call as open until the answer was sent.
    pub(super) fn of(self, call: Rc<Call>) -> Self {
        Self { call: Some(call), ..self }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some(call) = &this.call {
            call.moved();
        }
        let polled = match &mut this.content {
            Content::Empty => Poll::Ready(None),
            Content::One(parts) => {
                let frame = if let Some(piece) = parts.next() {
                    Frame::data(piece)
                } else {
                    this.content = Content::Empty;
                    Frame::trailers(succeeded())
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Content::Many(answers) => answers.poll(context).map(|frame| frame.map(Ok)),
            Content::Generated(body) => Pin::new(body).poll_frame(context),
        };
        if let (Some(call), Poll::Pending) = (&this.call, &polled) {
            // The client has read everything so far.
            call.rests();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Generated(body) => body.is_end_stream(),
            Content::One(_) | Content::Many(_) => false,
        }
    }
}
