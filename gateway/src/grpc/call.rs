//! Answers one call: finds its method, and identifies its client.

use std::{rc::Rc, sync::Arc};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{
    answer::AnswerBody,
    infer,
    origin::{Origin, Peer},
    receive,
    service::Caller,
    status::status,
    stream,
    thread::Thread,
};
use crate::http2::Call;

/// The service of the protocol.
const INFERENCE: &str = "inference.GRPCInferenceService";
/// The methods that any client may call: they tell nothing about models.
const OPEN: [&str; 3] = ["ServerLive", "ServerReady", "ServerMetadata"];

/// Answers a call.
pub(super) async fn answer(
    thread: Rc<Thread>,
    peer: Rc<Peer>,
    call: Rc<Call>,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    if !is_grpc(&request) {
        let mut answer = Response::new(AnswerBody::default());
        *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return answer;
    }
    match call.check_room() {
        Ok(()) => route(thread, peer, &call, request).await,
        Err(error) => refusal(status(&error)),
    }
}

/// Whether a request is a call of gRPC.
fn is_grpc(request: &Request<Incoming>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let parameters = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
    let is_proto = |rest: &[u8]| matches!(rest, [] | [b';', ..]) || rest.starts_with(b"+proto");
    request.method() == Method::POST && parameters.is_some_and(is_proto)
}

async fn route(
    thread: Rc<Thread>,
    peer: Rc<Peer>,
    call: &Call,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let answered = match names(&request) {
        (INFERENCE, "ModelInfer") => {
            call.owes_answer();
            let answered = infer::answer(&thread, &peer, request).await;
            answered.map(|answer| answer.map(AnswerBody::One))
        }
        (INFERENCE, "ModelStreamInfer") => {
            call.owes_answer();
            stream::answer(thread, peer, request)
                .map(|answer| answer.map(|answers| AnswerBody::Many(Box::new(answers))))
        }
        _ => {
            let answered = other(&thread, &peer, request).await;
            answered.map(|answer| answer.map(AnswerBody::Generated))
        }
    };
    answered.unwrap_or_else(refusal)
}

/// The answer to a call that failed as a whole.
fn refusal(status: Status) -> Response<AnswerBody> {
    let is_unknown = status.code() == Code::Unimplemented;
    let mut response = status.into_http::<AnswerBody>();
    if is_unknown {
        let accepted = HeaderValue::from_static("gzip,deflate,identity");
        response.headers_mut().insert("grpc-accept-encoding", accepted);
    }
    response
}

/// Answers a call that is no inference.
async fn other(
    thread: &Thread,
    peer: &Peer,
    mut request: Request<Incoming>,
) -> Result<Response<tonic::body::Body>, Status> {
    let (service, method) = names(&request);
    let Some(generated) = thread.services.iter().find(|known| known.name == service) else {
        let known: Vec<_> = thread.services.iter().map(|known| known.name).collect();
        return Err(Status::unimplemented(format!(
            "unsupported: there is no such service; there are {}",
            known.join(", ")
        )));
    };
    if service == INFERENCE && !OPEN.contains(&method) {
        let origin = Origin { peer, metadata: request.headers() };
        let client = thread.api.core.clients.identify_patiently(&origin).await;
        let client = client.map_err(|error| status(&error))?;
        request.extensions_mut().insert(Caller(Arc::new(client)));
    }
    // The answer of a stream begins before the stream has ended.
    let begun = timeout(thread.api.body.time, (generated.call)(request)).await;
    begun.map_err(|_| status(&receive::too_slow()))
}

/// The names of the service and the method in the path of a call.
fn names<B>(request: &Request<B>) -> (&str, &str) {
    let path = request.uri().path();
    path.strip_prefix('/').and_then(|path| path.split_once('/')).unwrap_or_default()
}
