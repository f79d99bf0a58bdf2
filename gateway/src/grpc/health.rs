//! The standard health service of gRPC, for probes and load balancers.

use std::{pin::Pin, time::Duration};

use actix_web::web::Data;
use futures_core::Stream;
use futures_util::stream;
use tokio::time::sleep;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health as HealthService,
};

use crate::{api::Api, describe};

/// The names of the service whose health is that of the gateway: the server, and the protocol.
const SERVICES: [&str; 2] = ["", "inference.GRPCInferenceService"];
/// How often a watch looks for a change.
const INTERVAL: Duration = Duration::from_secs(1);

/// Tells whether this gateway should receive requests.
pub(super) struct Health {
    api: Data<Api>,
}

impl Health {
    pub(super) fn new(api: Data<Api>) -> Self {
        Self { api }
    }
}

fn health(api: &Api, service: &str) -> ServingStatus {
    if !SERVICES.contains(&service) {
        return ServingStatus::ServiceUnknown;
    }
    match describe::unready(api) {
        None => ServingStatus::Serving,
        Some(_) => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl HealthService for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match health(&self.api, &request.get_ref().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("there is no such service")),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (api, service) = (self.api.clone(), request.into_inner().service);
        let changes = stream::unfold((api, None), move |(api, last)| {
            let service = service.clone();
            async move {
                loop {
                    let now = health(&api, &service);
                    if last != Some(now) {
                        let answer = HealthCheckResponse { status: now.into() };
                        return Some((Ok(answer), (api, Some(now))));
                    }
                    sleep(INTERVAL).await;
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
