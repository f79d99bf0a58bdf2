//! The access log: one line for each sampled request.

use actix_web::{
    HttpMessage,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
};
use tokio::time::Instant;
use tracing::info;

use super::failure::ERROR_CODE;
use crate::usage::RequestUsage;

/// Writes the access log.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccessLog {
    share: f64,
}

/// A request that is to be logged when it has been answered.
#[derive(Debug)]
pub(super) struct Visit {
    arrived: Instant,
    method: String,
    path: String,
    peer: Option<String>,
}

impl AccessLog {
    /// Logs this share of all requests.
    pub(super) fn new(share: f64) -> Self {
        Self { share }
    }

    /// Decides whether a request is logged.
    pub(super) fn begin(self, request: &ServiceRequest) -> Option<Visit> {
        (self.share > 0.0 && rand::random::<f64>() < self.share).then(|| Visit {
            arrived: Instant::now(),
            method: request.method().to_string(),
            // Without the query, which may contain what the client wants to keep secret.
            path: request.path().to_owned(),
            peer: request.peer_addr().map(|peer| peer.ip().to_canonical().to_string()),
        })
    }
}

impl Visit {
    /// Logs the request and its answer.
    pub(super) fn log(self, response: &ServiceResponse<BoxBody>) {
        let Self { arrived, method, path, peer } = self;
        let status = response.status().as_u16();
        let code = response.headers().get(ERROR_CODE).and_then(|code| code.to_str().ok());
        let extensions = response.request().extensions();
        let none = RequestUsage::default();
        let used = extensions.get::<RequestUsage>().unwrap_or(&none);
        let RequestUsage { client, model, rows, request_bytes, .. } = used;
        let (client, model) = (client.as_deref(), model.as_deref());
        let response_bytes = sent_bytes(response.response().body());
        let (seconds, compute_seconds) =
            (arrived.elapsed().as_secs_f64(), used.compute.as_secs_f64());
        info!(
            target: "batchfleet_gateway::access",
            method, path, status, code, peer, client, model, rows, request_bytes, response_bytes,
            seconds, compute_seconds, "request answered"
        );
    }
}

/// The bytes of an answer's body; 0 if it is a stream.
pub(super) fn sent_bytes(body: &BoxBody) -> u64 {
    match body.size() {
        BodySize::Sized(bytes) => bytes,
        BodySize::None | BodySize::Stream => 0,
    }
}
