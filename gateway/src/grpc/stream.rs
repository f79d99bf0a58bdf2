//! Answers `ModelStreamInfer`: many inferences in one call, each answered as soon as it is done.
//!
//! An inference that fails is answered with an error, and the stream goes on. If a message cannot be
//! read, the inferences before it are answered and the stream ends with the error.

use std::{
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use batchfleet_oip::grpc::response;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};
use tonic::Status;

use super::{
    codec,
    infer::{Answer, CallHead, Inference, begin_response},
    origin::{Origin, Peer},
    parts::{Parts, trailers},
    receive::Messages,
    status::{status, text},
    thread::Thread,
};
use crate::error::InferError;

const METHOD: &str = "ModelStreamInfer";
/// Maximum number of inferences of one stream in work, or answered and not yet read by the client.
const MOST_IN_WORK: usize = 1000;

/// `inference.GRPCInferenceService/ModelStreamInfer`
pub(super) fn answer(
    thread: Rc<Thread>,
    peer: Rc<Peer>,
    request: Request<Incoming>,
) -> Result<Response<Answers>, Status> {
    let (parts, body) = request.into_parts();
    let metadata = parts.headers;
    let head = CallHead::read(&metadata).map_err(|problem| status(&problem.into()))?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let stream = Rc::new(Stream { thread, peer, metadata, head, sender });
    let messages = Messages::new(body, head.encoding);
    let task = actix_web::rt::spawn(serve(stream, messages));
    let answers = Answers { receiver, current: None, task };
    Ok(begin_response(head.compresses).map(|()| answers))
}

/// What the inferences of one stream share.
struct Stream {
    thread: Rc<Thread>,
    peer: Rc<Peer>,
    metadata: HeaderMap,
    head: CallHead,
    sender: mpsc::UnboundedSender<Event>,
}

/// What is sent to the client.
enum Event {
    /// The answer to one inference, and its place among those of the stream.
    Answer(Parts, OwnedSemaphorePermit),
    /// The end of the stream.
    End(HeaderMap),
}

/// Task: answers the inferences of a stream. If it is aborted, so are they.
async fn serve(stream: Rc<Stream>, messages: Messages) {
    let mut tasks = JoinSet::new();
    let end = receive(&stream, messages, &mut tasks).await;
    while tasks.join_next().await.is_some() {}
    // Fails if the client has left.
    drop(stream.sender.send(Event::End(trailers(&end))));
}

/// Reads messages and starts a task for each, until the stream ends. Returns the status of its end.
async fn receive(stream: &Rc<Stream>, mut messages: Messages, tasks: &mut JoinSet<()>) -> Status {
    let places = Arc::new(Semaphore::new(MOST_IN_WORK));
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else {
            return Status::internal("internal: the stream has no places");
        };
        let begun = tokio::select! {
            begun = messages.begun() => begun,
            () = stream.thread.door.drains() => return status(&InferError::Draining),
        };
        match begun {
            Ok(true) => {}
            Ok(false) => return Status::ok(""),
            Err(error) => return status(&error),
        }
        let (back, returned) = oneshot::channel();
        tasks.spawn_local(infer(stream.clone(), messages, place, back));
        match returned.await {
            Ok(Ok(rest)) => messages = rest,
            Ok(Err(end)) => return end,
            Err(_) => return Status::internal("internal: an inference of the stream failed"),
        }
    }
}

/// Task: reads the next message, gives the rest of the stream back, and answers the message.
async fn infer(
    stream: Rc<Stream>,
    mut messages: Messages,
    place: OwnedSemaphorePermit,
    back: oneshot::Sender<Result<Messages, Status>>,
) {
    let Stream { thread, peer, metadata, head, sender } = &*stream;
    let (origin, api) = (Origin { peer, metadata }, &thread.api);
    let mut inference = Inference::begin(thread, &origin, METHOD);
    let read = async {
        let client = inference.identify(&origin).await?;
        Ok((client, messages.read(api.body, api.budget.share()).await?))
    };
    let (client, message) = match read.await {
        Ok(read) => read,
        Err(error) => {
            let status = status(&error);
            inference.end(Some((&error, status.code())));
            drop(back.send(Err(status)));
            return;
        }
    };
    // Fails if the stream has ended, which aborts this task.
    drop(back.send(Ok(messages)));
    let parts = match inference.predict(client, message, *head, true).await {
        Ok(Answer { pieces, share, .. }) => {
            inference.end(None);
            Parts::new(pieces, share)
        }
        Err(error) => {
            let message = response::error(&inference.id, &text(&error));
            inference.end(Some((&error, status(&error).code())));
            let framed = codec::frame(vec![message], false).unwrap_or_default();
            Parts::new(framed, api.budget.share())
        }
    };
    drop(sender.send(Event::Answer(parts, place)));
}

/// The answers of a stream on their way to the client. Dropping them aborts the inferences.
pub(super) struct Answers {
    receiver: mpsc::UnboundedReceiver<Event>,
    current: Option<(Parts, OwnedSemaphorePermit)>,
    task: JoinHandle<()>,
}

impl Answers {
    /// The next part of the answers; `None` after the end.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            if let Some((parts, _)) = &mut self.current {
                if let Some(piece) = parts.next() {
                    return Poll::Ready(Some(Frame::data(piece)));
                }
                self.current = None;
            }
            match ready!(self.receiver.poll_recv(context)) {
                Some(Event::Answer(parts, place)) => self.current = Some((parts, place)),
                Some(Event::End(trailers)) => {
                    self.receiver.close();
                    return Poll::Ready(Some(Frame::trailers(trailers)));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.task.abort();
    }
}
