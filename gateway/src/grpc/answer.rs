//! The bodies of answers on their way to the client.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::Status;

use super::{
    parts::{Parts, succeeded},
    stream::Answers,
};

/// The body of an answer.
#[derive(Default)]
pub(super) enum AnswerBody {
    /// No body: the head holds the status.
    #[default]
    Empty,
    /// One message, and the status that the call succeeded.
    One(Parts),
    /// The answers of a stream.
    Many(Box<Answers>),
    /// An answer of the generated code.
    Generated(tonic::body::Body),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::One(parts) => {
                let frame = if let Some(piece) = parts.next() {
                    Frame::data(piece)
                } else {
                    *this = Self::Empty;
                    Frame::trailers(succeeded())
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Self::Many(answers) => answers.poll(context).map(|frame| frame.map(Ok)),
            Self::Generated(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Generated(body) => body.is_end_stream(),
            Self::One(_) | Self::Many(_) => false,
        }
    }
}
