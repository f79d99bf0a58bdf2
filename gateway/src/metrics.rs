//! The metrics of a gateway. At every scrape, offered = accepted + refused + requests being read,
//! and accepted = the sum of answered over its outcomes + in flight.

mod access;
mod fleet;
mod triton;

use std::{collections::HashSet, num::NonZeroU128, time::Duration};

use batchfleet_broker::{Backlog, BrokerError, QueueName};
use batchfleet_oip::statistics::ModelStatistics;
use batchfleet_service::metrics::{
    Described, Labels, Metric, MetricGroup, TracedHistogram, TracedHistogramVec,
};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use strum::{IntoEnumIterator, VariantArray};

pub(crate) use self::access::AccessMetrics;
use self::{
    fleet::FleetMetrics,
    triton::{ModelTriton, Triton},
};
use crate::{
    outcome::RequestOutcome, refusal::RefusalKind, tensor_port::TensorMetrics, traffic::SECONDS,
    usage::UsageMetrics,
};

const MODEL: [&str; 1] = ["model"];

/// The label of requests for unknown models. No model can have this name.
const UNKNOWN_MODEL: &str = "(unknown)";

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::VariantArray)]
pub(crate) enum Protocol {
    /// HTTP with JSON or binary tensors.
    Http,
    /// gRPC.
    Grpc,
}

impl Protocol {
    /// The `protocol` label of metrics.
    const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

batchfleet_service::metrics! {
    /// Every metric of a gateway.
    #[derive(Clone, Debug)]
    pub(crate) struct GatewayMetrics {
        /// Requests for a model, refused or not.
        #[metric("batchfleet_gateway_offered_total", unit = "requests", labels = MODEL)]
        offered: IntCounterVec,
        /// Inference requests that arrived, by protocol: `http` or `grpc`.
        #[metric(
            "batchfleet_gateway_arrived_total",
            unit = "requests",
            labels = ["protocol"]
        )]
        arrived: IntCounterVec,
        /// Requests read, checked and admitted.
        #[metric("batchfleet_gateway_accepted_total", unit = "requests", labels = MODEL)]
        accepted: IntCounterVec,
        /// Requests refused, by error code.
        #[metric(
            "batchfleet_gateway_refused_total",
            unit = "requests",
            labels = ["model", "reason"]
        )]
        refused: IntCounterVec,
        /// Accepted requests ended, by outcome: `ok`, `model_error`, `poison`, `expired`,
        /// `unavailable` or `cancelled`.
        #[metric(
            "batchfleet_gateway_answered_total",
            unit = "requests",
            labels = ["model", "outcome"]
        )]
        answered: IntCounterVec,
        /// Requests answered with outputs within the latency target of the slowest worker.
        #[metric("batchfleet_gateway_within_slo_total", unit = "requests", labels = MODEL)]
        within_slo: IntCounterVec,
        /// Requests accepted and not ended.
        #[metric("batchfleet_gateway_in_flight", unit = "requests", labels = MODEL)]
        in_flight: IntGaugeVec,
        /// Time from the arrival of a request's head until its answer is ready, for accepted
        /// requests.
        #[metric(
            "batchfleet_gateway_request_seconds",
            unit = "seconds",
            labels = MODEL,
            buckets = SECONDS
        )]
        request_seconds: TracedHistogramVec,
        /// Facts of the fleet.
        pub(crate) fleet: FleetMetrics,
        /// Access control and TLS.
        pub(crate) access: AccessMetrics,
        /// The same counts under Triton's names.
        triton: Triton,
        /// Round trip to Redis, measured five times per second.
        #[metric("batchfleet_gateway_broker_seconds", unit = "seconds", buckets = SECONDS)]
        pub(crate) broker_seconds: Histogram,
        /// Calls that Redis did not accept or answer, by cause.
        #[metric("batchfleet_gateway_broker_errors_total", unit = "calls", labels = ["code"])]
        broker_errors: IntCounterVec,
        /// Bytes held of the bodies of requests, until they are answered, and of answers, until
        /// they are sent.
        #[metric("batchfleet_gateway_body_bytes", unit = "bytes")]
        pub(crate) body_bytes: IntGauge,
        /// Usage by client and model.
        pub(crate) usage: UsageMetrics,
        /// Inputs that workers fetch.
        pub(crate) tensors: TensorMetrics,
        /// Metrics of connections.
        pub(crate) connections: ConnectionMetrics,
        /// Replies whose request had already ended: given up, or answered before (duplicates).
        #[metric("batchfleet_gateway_unclaimed_replies_total", unit = "replies")]
        pub(crate) unclaimed_replies: IntCounter,
        /// Replies computed from another input than their request's; must stay 0.
        #[metric("batchfleet_gateway_misrouted_total", unit = "replies")]
        pub(crate) misrouted: IntCounter,
        /// Times the queue was interrupted: jobs or replies may have been lost.
        #[metric("batchfleet_gateway_interruptions_total", unit = "interruptions")]
        pub(crate) interruptions: IntCounter,
        /// Requests sent to the queue once more, under the same id.
        #[metric("batchfleet_gateway_resubmissions_total", unit = "requests")]
        pub(crate) resubmissions: IntCounter,
    }
}

batchfleet_service::metrics! {
    /// Metrics of the connections of clients.
    #[derive(Clone, Debug)]
    pub(crate) struct ConnectionMetrics {
        /// Connections of clients.
        #[metric("batchfleet_gateway_connections", unit = "connections")]
        pub(crate) open: IntGauge,
        /// Bytes held of request heads, of requests in work and of unsent answers, without bodies.
        #[metric("batchfleet_gateway_connection_bytes", unit = "bytes")]
        pub(crate) bytes: IntGauge,
        /// Connections that the gateway closed, by reason: `address_limit`, `crowded`,
        /// `slow_reader`, or the error code of the last response.
        #[metric(
            "batchfleet_gateway_connections_closed_total",
            unit = "connections",
            labels = ["reason"]
        )]
        closed: IntCounterVec,
    }
}

impl ConnectionMetrics {
    /// The reasons to close a connection.
    const REASONS: [&'static str; 8] = [
        "address_limit",
        "bad_http",
        "connection_bytes",
        "crowded",
        "head_timeout",
        "head_too_large",
        "method_not_allowed",
        "slow_reader",
    ];

    /// Counts a connection that the gateway closes.
    pub(crate) fn closed(&self, reason: &str) {
        self.closed.with_label_values(&[reason]).inc();
    }
}

/// The definitions of a gateway's metrics.
///
/// # Errors
///
/// If two metrics share a name.
pub fn describe_metrics() -> prometheus::Result<Vec<Described>> {
    GatewayMetrics::describe()
}

impl GatewayMetrics {
    /// Registers all metrics. The series for unknown models and for errors exist from the start,
    /// with the value 0.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self::register(registry)?;
        metrics.access.begin();
        metrics.offered.with_label_values(&[UNKNOWN_MODEL]);
        for reason in ["auth_failures", "model_not_found", "model_unavailable", "unauthorized"] {
            metrics.refused.with_label_values(&[UNKNOWN_MODEL, reason]);
        }
        for reason in ConnectionMetrics::REASONS {
            metrics.connections.closed.with_label_values(&[reason]);
        }
        for code in BrokerError::CODES {
            metrics.broker_errors.with_label_values(&[code]);
        }
        Ok(metrics)
    }

    /// Removes the series of model versions that are gone, and of models that are not among the
    /// `names` that are left.
    pub(crate) fn forget(&self, gone: &HashSet<QueueName>, names: &HashSet<String>) {
        let is_gone = |labels: &Labels<'_>| {
            labels.get("model").is_some_and(|name| {
                !names.contains(*name) && gone.iter().any(|queue| queue.model == *name)
            })
        };
        let versions: HashSet<[String; 2]> = gone.iter().map(fleet::labels).collect();
        let is_of_version = |labels: &Labels<'_>| {
            let label = |name| labels.get(name).map(|value| (*value).to_owned());
            let pair = label("model").zip(label("version"));
            pair.is_some_and(|(model, version)| versions.contains(&[model, version]))
        };
        self.offered.remove_where(&is_gone);
        self.accepted.remove_where(&is_gone);
        self.refused.remove_where(&is_gone);
        self.answered.remove_where(&is_gone);
        self.within_slo.remove_where(&is_gone);
        self.in_flight.remove_where(&is_gone);
        self.request_seconds.remove_where(&is_gone);
        self.fleet.remove_series(&is_of_version);
        self.triton.remove_series(&is_of_version);
    }

    /// Counts an inference request that arrives.
    pub(crate) fn arrived(&self, protocol: Protocol) {
        self.arrived.with_label_values(&[protocol.label()]).inc();
    }

    /// Counts a request for an unknown model, and its refusal with this error code.
    pub(crate) fn unknown_model(&self, code: &'static str) {
        self.offered.with_label_values(&[UNKNOWN_MODEL]).inc();
        self.refused.with_label_values(&[UNKNOWN_MODEL, code]).inc();
    }

    /// Counts a call that the broker did not accept or answer.
    pub(crate) fn broker_failed(&self, error: &BrokerError) {
        self.broker_errors.with_label_values(&[error.code()]).inc();
    }

    /// The metrics of one model version, looked up once. The series for all outcomes and refusals
    /// exist from the start, with the value 0.
    pub(crate) fn for_model(&self, queue: &QueueName) -> RequestMetrics {
        let model = queue.model.as_str();
        for refusal in RefusalKind::iter() {
            self.refused.with_label_values(&[model, refusal.code()]);
        }
        let answered =
            |outcome: &RequestOutcome| self.answered.with_label_values(&[model, outcome.label()]);
        RequestMetrics {
            model: model.to_owned(),
            offered: self.offered.with_label_values(&[model]),
            accepted: self.accepted.with_label_values(&[model]),
            refused: self.refused.clone(),
            answered: RequestOutcome::VARIANTS.iter().map(answered).collect(),
            within_slo: self.within_slo.with_label_values(&[model]),
            in_flight: self.in_flight.with_label_values(&[model]),
            request_seconds: self.request_seconds.with_label_values(&[model]),
            triton: self.triton.for_model(queue),
        }
    }
}

/// The metrics of the requests for one model version. The gateway never reads them.
#[derive(Debug)]
pub(crate) struct RequestMetrics {
    model: String,
    offered: IntCounter,
    accepted: IntCounter,
    refused: IntCounterVec,
    /// In the order of [`RequestOutcome`].
    answered: Vec<IntCounter>,
    within_slo: IntCounter,
    in_flight: IntGauge,
    request_seconds: TracedHistogram,
    /// The same counts under Triton's names.
    triton: ModelTriton,
}

impl RequestMetrics {
    /// Counts a request that arrived.
    pub(crate) fn offered(&self) {
        self.offered.inc();
    }

    /// Counts a request that was refused with this error code.
    pub(crate) fn refused(&self, code: &'static str) {
        self.refused.with_label_values(&[self.model.as_str(), code]).inc();
        self.triton.refused(code);
    }

    /// Counts an accepted request.
    pub(crate) fn accepted(&self) {
        self.accepted.inc();
        self.in_flight.inc();
    }

    /// Counts the end of an accepted request after `took`; `in_time` if within the latency target.
    /// `trace` is the id of the request's trace, if the request is traced.
    pub(crate) fn ended(
        &self,
        outcome: RequestOutcome,
        took: Duration,
        in_time: bool,
        trace: Option<NonZeroU128>,
    ) {
        self.answered[outcome as usize].inc();
        self.in_flight.dec();
        self.request_seconds.observe(took.as_secs_f64(), trace);
        if outcome == RequestOutcome::Ok && in_time {
            self.within_slo.inc();
        }
        self.triton.ended(outcome, took, trace);
    }

    /// Updates the gauges after a poll of the queue; `in_flight` counts the requests of this
    /// gateway.
    pub(crate) fn observe(&self, backlog: &Backlog, in_flight: u64) {
        self.triton.observe(backlog, in_flight);
    }

    /// Updates the counters that follow the totals of `/stats`.
    pub(crate) fn publish(&self, statistics: &ModelStatistics) {
        self.triton.publish(statistics);
    }
}
