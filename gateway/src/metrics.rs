//! What a gateway counts. The books balance at every scrape: offered = accepted + refused (+ the
//! ones being admitted), accepted = the sum of answered over its outcomes + in flight.

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, core::Collector,
};

use crate::traffic::Load;

/// Upper bounds for times from half a millisecond to half a minute, in seconds.
pub(crate) const SECONDS: [f64; 16] = [
    0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0,
    30.0,
];

/// The label for requests to models nobody knows: no model can have this name.
const UNKNOWN_MODEL: &str = "(unknown)";

/// How an accepted request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With its outputs.
    Ok,
    /// The model failed on it, or rejected its input.
    ModelError,
    /// It killed its worker too often.
    Poison,
    /// Its deadline passed.
    Expired,
    /// The queue could not take it.
    Unavailable,
    /// Its caller left.
    Cancelled,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Ok,
        Self::ModelError,
        Self::Poison,
        Self::Expired,
        Self::Unavailable,
        Self::Cancelled,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ModelError => "model_error",
            Self::Poison => "poison",
            Self::Expired => "expired",
            Self::Unavailable => "unavailable",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Every metric of a gateway.
#[derive(Clone, Debug)]
pub(crate) struct GatewayMetrics {
    /// Moved when a request for a model arrives, whatever becomes of it.
    offered: IntCounterVec,
    /// Moved when a request was read, checked and admitted.
    accepted: IntCounterVec,
    /// Moved when a request is turned away; `reason` is its error code.
    refused: IntCounterVec,
    /// Moved when an accepted request ends; `outcome` says how.
    answered: IntCounterVec,
    /// Accepted and not yet ended.
    in_flight: IntGaugeVec,
    /// From the first byte of the request's head read until its answer is ready to send.
    request_seconds: HistogramVec,
    /// Jobs of the model that no worker has claimed; a fact of the fleet, the same at every gateway.
    pub(crate) queue_depth: IntGaugeVec,
    /// Jobs of the model claimed and not settled; a fact of the fleet.
    pub(crate) queue_in_flight: IntGaugeVec,
    /// Age of the oldest job that no worker has claimed; a fact of the fleet.
    pub(crate) queue_oldest_age: GaugeVec,
    /// How long a request that came now would wait for its answer, as admission predicts it.
    pub(crate) backlog_seconds: GaugeVec,
    /// Workers that serve the model now, as this gateway sees it.
    pub(crate) workers: IntGaugeVec,
    /// Bytes of bodies held: of requests until they are answered, of answers until they are sent.
    pub(crate) body_bytes: IntGauge,
    /// Answers to requests that had already ended: given up, or answered before.
    pub(crate) unclaimed_replies: IntCounter,
    /// Answers computed from another input than their request's. Must stay 0.
    pub(crate) misrouted: IntCounter,
    /// Times the queue was interrupted: answers or jobs may have been lost.
    pub(crate) interruptions: IntCounter,
    /// Requests sent to the queue once more, under the same id.
    pub(crate) resubmissions: IntCounter,
}

impl GatewayMetrics {
    /// Registers them all.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let model = &["model"];
        let queue = &["model", "version"];
        let metrics = Self {
            offered: counters("offered_total", "Requests for a model, refused or not", model)?,
            accepted: counters("accepted_total", "Requests read, checked and admitted", model)?,
            refused: counters("refused_total", "Requests turned away", &["model", "reason"])?,
            answered: counters("answered_total", "Accepted requests ended", &["model", "outcome"])?,
            in_flight: gauges("gateway_in_flight", "Requests accepted and not ended", model)?,
            request_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "batchfleet_gateway_request_seconds",
                    "From reading a request to its answer",
                )
                .buckets(SECONDS.to_vec()),
                model,
            )?,
            queue_depth: gauges("queue_depth", "Jobs no worker has claimed", queue)?,
            queue_in_flight: gauges("queue_in_flight", "Jobs claimed and not settled", queue)?,
            queue_oldest_age: GaugeVec::new(
                Opts::new(
                    "batchfleet_queue_oldest_age_seconds",
                    "Age of the oldest job no worker has claimed",
                ),
                queue,
            )?,
            backlog_seconds: GaugeVec::new(
                Opts::new(
                    "batchfleet_backlog_seconds",
                    "Predicted time to the answer of a request that comes now",
                ),
                queue,
            )?,
            workers: gauges("gateway_workers", "Workers serving the model", queue)?,
            body_bytes: IntGauge::new(
                "batchfleet_gateway_body_bytes",
                "Bytes held of bodies of requests and answers",
            )?,
            unclaimed_replies: IntCounter::new(
                "batchfleet_gateway_unclaimed_replies_total",
                "Answers to requests that had already ended",
            )?,
            misrouted: IntCounter::new(
                "batchfleet_gateway_misrouted_total",
                "Answers computed from another input than their request's; must stay 0",
            )?,
            interruptions: IntCounter::new(
                "batchfleet_gateway_interruptions_total",
                "Times the queue was interrupted: answers or jobs may have been lost",
            )?,
            resubmissions: IntCounter::new(
                "batchfleet_gateway_resubmissions_total",
                "Requests sent to the queue once more, under the same id",
            )?,
        };
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        // Refusals of requests that name no known model: written as 0 from the start.
        metrics.offered.with_label_values(&[UNKNOWN_MODEL]);
        Ok(metrics)
    }

    fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.offered.clone()),
            Box::new(self.accepted.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.answered.clone()),
            Box::new(self.in_flight.clone()),
            Box::new(self.request_seconds.clone()),
            Box::new(self.queue_depth.clone()),
            Box::new(self.queue_in_flight.clone()),
            Box::new(self.queue_oldest_age.clone()),
            Box::new(self.backlog_seconds.clone()),
            Box::new(self.workers.clone()),
            Box::new(self.body_bytes.clone()),
            Box::new(self.unclaimed_replies.clone()),
            Box::new(self.misrouted.clone()),
            Box::new(self.interruptions.clone()),
            Box::new(self.resubmissions.clone()),
        ]
    }

    /// Counts a request to a model nobody knows.
    pub(crate) fn unknown_model(&self, reason: &'static str) {
        self.offered.with_label_values(&[UNKNOWN_MODEL]).inc();
        self.refused.with_label_values(&[UNKNOWN_MODEL, reason]).inc();
    }

    /// The counters of one model, looked up once. Every outcome is written as 0 from the start.
    pub(crate) fn for_model(&self, model: &str) -> ModelMetrics {
        ModelMetrics {
            model: model.to_owned(),
            offered: self.offered.with_label_values(&[model]),
            accepted: self.accepted.with_label_values(&[model]),
            refused: self.refused.clone(),
            answered: Outcome::ALL
                .map(|outcome| self.answered.with_label_values(&[model, outcome.label()])),
            in_flight: self.in_flight.with_label_values(&[model]),
            request_seconds: self.request_seconds.with_label_values(&[model]),
            load: Load::default(),
        }
    }
}

/// The metrics of one model.
#[derive(Debug)]
pub(crate) struct ModelMetrics {
    model: String,
    offered: IntCounter,
    accepted: IntCounter,
    refused: IntCounterVec,
    answered: [IntCounter; Outcome::ALL.len()],
    in_flight: IntGauge,
    request_seconds: Histogram,
    /// The same, of this version of the model, as the fleet's size follows from it.
    pub(crate) load: Load,
}

impl ModelMetrics {
    /// A request arrived.
    pub(crate) fn offered(&self) {
        self.offered.inc();
    }

    /// It was turned away.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[self.model.as_str(), reason]).inc();
        self.load.refused(reason);
    }

    /// It was let in.
    pub(crate) fn accepted(&self) {
        self.accepted.inc();
        self.in_flight.inc();
        self.load.accepted();
    }

    /// It ended, `seconds` after it arrived.
    pub(crate) fn answered(&self, outcome: Outcome, seconds: f64) {
        self.answered[outcome as usize].inc();
        self.in_flight.dec();
        self.request_seconds.observe(seconds);
        if outcome != Outcome::Cancelled {
            self.load.answered(seconds);
        }
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(format!("batchfleet_gateway_{name}"), help), labels)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(format!("batchfleet_{name}"), help), labels)
}
