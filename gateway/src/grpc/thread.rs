//! What the calls of one thread share: the state of the gateway, and the services of generated code.

use std::{convert::Infallible, pin::Pin, rc::Rc};

use actix_web::web::Data;
use batchfleet_proto::{
    DESCRIPTORS, inference::grpc_inference_service_server::GrpcInferenceServiceServer,
};
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::{codegen::Service as TowerService, server::NamedService};
use tonic_health::pb::{FILE_DESCRIPTOR_SET as HEALTH_DESCRIPTORS, health_server::HealthServer};
use tonic_reflection::server::{Builder as Reflection, Error as ReflectionError};

use super::{health::Health, messages::Messages, service::Service};
use crate::{api::Api, door::Door, mailbox::Mailbox};

/// Maximum size of the message of a call that is no inference.
const SMALL_MESSAGE: usize = 64 << 10;

type AnswerFuture = Pin<Box<dyn Future<Output = Response<tonic::body::Body>>>>;

/// A service of generated code, by name.
pub(super) struct Generated {
    pub(super) name: &'static str,
    pub(super) call: Box<dyn Fn(Request<Incoming>) -> AnswerFuture>,
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
    pub(super) services: Vec<Generated>,
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
