//! The access log: one line for each sampled request.

use std::{fmt::Display, net::IpAddr};

use tokio::time::Instant;
use tracing::info;

use crate::usage::RequestUsage;

/// Writes the access log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessLog {
    share: f64,
}

/// A request that is to be logged when it has been answered.
#[derive(Debug)]
pub(crate) struct Visit {
    arrived: Instant,
    method: String,
    path: String,
    peer: Option<IpAddr>,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered<'a> {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The gRPC status, over gRPC.
    pub(crate) grpc_status: Option<i32>,
    /// The error code.
    pub(crate) code: Option<&'a str>,
    /// The bytes of the answer's body; 0 if it is a stream.
    pub(crate) bytes: u64,
}

impl AccessLog {
    /// Logs this share of all requests.
    pub(crate) fn new(share: f64) -> Self {
        Self { share }
    }

    /// Decides whether a request is logged. `path` is called if it is, and should leave out the query,
    /// which may contain what the client wants to keep secret.
    pub(crate) fn begin<P: Display>(
        self,
        method: &str,
        path: impl FnOnce() -> P,
        peer: Option<IpAddr>,
    ) -> Option<Visit> {
        (self.share > 0.0 && rand::random::<f64>() < self.share).then(|| Visit {
            arrived: Instant::now(),
            method: method.to_owned(),
            path: path().to_string(),
            peer,
        })
    }
}

impl Visit {
    /// Logs the request and its answer.
    pub(crate) fn log(self, used: &RequestUsage, answered: &Answered<'_>) {
        let Self { arrived, method, path, peer } = self;
        let RequestUsage { client, model, rows, request_bytes, .. } = used;
        let (client, model) = (client.as_deref(), model.as_deref());
        let Answered { status, grpc_status, code, bytes: response_bytes } = *answered;
        let (seconds, compute_seconds) =
            (arrived.elapsed().as_secs_f64(), used.compute.as_secs_f64());
        let peer = peer.map(|peer| peer.to_string());
        info!(
            target: "batchfleet_gateway::access",
            method, path, status, grpc_status, code, peer, client, model, rows, request_bytes,
            response_bytes, seconds, compute_seconds, "request answered"
        );
    }
}
