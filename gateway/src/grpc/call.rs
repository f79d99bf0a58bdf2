//! Answers one call: finds its method, and identifies its client.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    sync::Arc,
};

use actix_web::web::Data;
use batchfleet_proto::{
    DESCRIPTORS, inference::grpc_inference_service_server::GrpcInferenceServiceServer,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::timeout;
use tonic::{Status, codegen::Service as TowerService, server::NamedService};
use tonic_health::pb::{FILE_DESCRIPTOR_SET as HEALTH_DESCRIPTORS, health_server::HealthServer};
use tonic_reflection::server::{Builder as Reflection, Error as ReflectionError};

use super::{
    answer::AnswerBody,
    connection::Call,
    health::Health,
    infer,
    messages::Messages,
    receive,
    service::{Caller, Service},
    status::status,
    stream,
};
use crate::{api::Api, clients::RequestOrigin, door::Door, mailbox::Mailbox, tls::CertificateName};

/// Maximum size of the message of a call that is no inference.
const SMALL_MESSAGE: usize = 64 << 10;
/// The service of the protocol.
const INFERENCE: &str = "inference.GRPCInferenceService";
/// The methods that any client may call: they tell nothing about models.
const OPEN: [&str; 3] = ["ServerLive", "ServerReady", "ServerMetadata"];

type AnswerFuture = Pin<Box<dyn Future<Output = Response<tonic::body::Body>>>>;

/// A service of generated code, by name.
struct Generated {
    name: &'static str,
    call: Box<dyn Fn(Request<Incoming>) -> AnswerFuture>,
}

impl Generated {
    fn of<S>(service: S) -> Self
    where
        S: TowerService<
                Request<Incoming>,
                Response = Response<tonic::body::Body>,
                Error = Infallible,
                Future: 'static,
            > + NamedService
            + Clone
            + 'static,
    {
        let call = move |request| {
            let answered = service.clone().call(request);
            let answer = async move {
                let Ok(answer) = answered.await;
                answer
            };
            Box::pin(answer) as AnswerFuture
        };
        Self { name: S::NAME, call: Box::new(call) }
    }
}

/// What the calls of one thread share.
pub(super) struct Thread {
    pub(super) api: Data<Api>,
    pub(super) mailbox: Mailbox,
    pub(super) door: Rc<Door>,
    services: Vec<Generated>,
}

impl Thread {
    /// The state of this thread.
    ///
    /// # Errors
    ///
    /// The descriptors of the services are malformed.
    pub(super) fn new(
        api: &Data<Api>,
        door: Rc<Door>,
        messages: Messages,
    ) -> Result<Self, ReflectionError> {
        let (mailbox, emptied) = Mailbox::open();
        actix_web::rt::spawn(emptied);
        let inference = GrpcInferenceServiceServer::new(Service::new(api.clone(), messages));
        let health = HealthServer::new(Health::new(api.clone()));
        let reflection = || {
            Reflection::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(HEALTH_DESCRIPTORS)
        };
        let services = vec![
            Generated::of(inference.max_decoding_message_size(SMALL_MESSAGE)),
            Generated::of(health.max_decoding_message_size(SMALL_MESSAGE)),
            Generated::of(reflection().build_v1()?.max_decoding_message_size(SMALL_MESSAGE)),
            Generated::of(reflection().build_v1alpha()?.max_decoding_message_size(SMALL_MESSAGE)),
        ];
        Ok(Self { api: api.clone(), mailbox, door, services })
    }
}

/// The other end of a connection.
pub(super) struct Peer {
    pub(super) address: Option<SocketAddr>,
    pub(super) certificate: Option<CertificateName>,
}

/// The origin of a call: its connection and its metadata.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) peer: &'a Peer,
    pub(super) metadata: &'a HeaderMap,
}

impl RequestOrigin for Origin<'_> {
    fn peer(&self) -> Option<IpAddr> {
        self.peer.address.map(|address| address.ip())
    }

    fn header(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.metadata.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }

    fn certificate(&self) -> Option<&Arc<str>> {
        self.peer.certificate.as_ref().map(|name| &name.0)
    }
}

/// Answers a call. The call counts as open until its answer was sent.
pub(super) async fn answer(
    thread: Rc<Thread>,
    peer: Rc<Peer>,
    call: Rc<Call>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let answer = if is_grpc(&request) {
        route(thread, peer, &call, request).await
    } else {
        let mut answer = Response::new(AnswerBody::default());
        *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        answer
    };
    Ok(answer.map(|body| body.of(call)))
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
    match names(&request) {
        (INFERENCE, "ModelInfer") => {
            call.owes_answer();
            infer::answer(&thread, &peer, request).await
        }
        (INFERENCE, "ModelStreamInfer") => {
            call.owes_answer();
            stream::answer(thread, peer, request)
        }
        _ => match other(&thread, &peer, request).await {
            Ok(answer) => answer.map(AnswerBody::generated),
            Err(status) => status.into_http(),
        },
    }
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
