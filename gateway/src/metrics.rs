//! What a gateway counts. The books balance at every scrape: offered = accepted + refused (+ the
//! ones being admitted), accepted = the sum of answered over its outcomes + in flight.

mod fleet;
mod triton;

use std::time::Duration;

use batchfleet_broker::{Backlog, BrokerError, QueueName};
use batchfleet_oip::statistics::ModelStatistics;
use batchfleet_service::metrics::{Described, Families, family};
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use strum::{IntoEnumIterator, VariantArray};

use self::{
    fleet::FleetMetrics,
    triton::{ModelTriton, Triton},
};
use crate::{outcome::RequestOutcome, refusal::Refusal, traffic::SECONDS};

/// The label for requests to models nobody knows: no model can have this name.
const UNKNOWN_MODEL: &str = "(unknown)";

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
    /// Moved when it ends with its outputs within the latency target.
    within_slo: IntCounterVec,
    /// Accepted and not yet ended.
    in_flight: IntGaugeVec,
    /// From the first byte of the request's head read until its answer is ready to send.
    request_seconds: HistogramVec,
    /// Facts of the fleet.
    pub(crate) fleet: FleetMetrics,
    /// The aliases.
    triton: Triton,
    /// Moved at each look at Redis.
    pub(crate) broker_seconds: Histogram,
    broker_errors: IntCounterVec,
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

/// What a gateway counts, and what it means.
///
/// # Errors
/// If two metrics share a name.
pub fn describe_metrics() -> prometheus::Result<Vec<Described>> {
    let mut make = Families::default();
    GatewayMetrics::make(&mut make)?;
    Ok(make.described())
}

impl GatewayMetrics {
    /// Registers them all.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self::make(&mut Families::new(registry))?;
        // What names no known model, and what has not gone wrong: written as 0 from the start.
        metrics.offered.with_label_values(&[UNKNOWN_MODEL]);
        for reason in ["model_not_found", "unauthorized"] {
            metrics.refused.with_label_values(&[UNKNOWN_MODEL, reason]);
        }
        for code in BrokerError::CODES {
            metrics.broker_errors.with_label_values(&[code]);
        }
        Ok(metrics)
    }

    #[expect(clippy::too_many_lines, reason = "a list of what there is")]
    fn make(make: &mut Families) -> prometheus::Result<Self> {
        const NONE: &[&str] = &[];
        let model = &["model"];
        let mut alone = |name, unit, help| {
            let counter = make.counter(family(name, unit, &[], help));
            Ok::<_, prometheus::Error>(counter?.with_label_values(NONE))
        };
        let unclaimed_replies = alone(
            "batchfleet_gateway_unclaimed_replies_total",
            "replies",
            "Answers to requests that had already ended: given up, or answered before (duplicates)",
        )?;
        let misrouted = alone(
            "batchfleet_gateway_misrouted_total",
            "replies",
            "Answers computed from another input than their request's; must stay 0",
        )?;
        let interruptions = alone(
            "batchfleet_gateway_interruptions_total",
            "interruptions",
            "Times the queue was interrupted: answers or jobs may have been lost",
        )?;
        let resubmissions = alone(
            "batchfleet_gateway_resubmissions_total",
            "requests",
            "Requests sent to the queue once more, under the same id",
        )?;
        let body_bytes = make.gauge(family(
            "batchfleet_gateway_body_bytes",
            "bytes",
            &[],
            "Bytes held of bodies of requests and answers",
        ))?;
        let broker_seconds = make.histogram(
            family(
                "batchfleet_gateway_broker_seconds",
                "seconds",
                &[],
                "Round trip to Redis of a question asked five times a second",
            ),
            &SECONDS,
        )?;
        Ok(Self {
            offered: make.counter(family(
                "batchfleet_gateway_offered_total",
                "requests",
                model,
                "Requests for a model, refused or not",
            ))?,
            accepted: make.counter(family(
                "batchfleet_gateway_accepted_total",
                "requests",
                model,
                "Requests read, checked and admitted",
            ))?,
            refused: make.counter(family(
                "batchfleet_gateway_refused_total",
                "requests",
                &["model", "reason"],
                "Requests turned away, by error code",
            ))?,
            answered: make.counter(family(
                "batchfleet_gateway_answered_total",
                "requests",
                &["model", "outcome"],
                "Accepted requests ended: ok, model_error, poison, expired, unavailable or cancelled",
            ))?,
            within_slo: make.counter(family(
                "batchfleet_gateway_within_slo_total",
                "requests",
                model,
                "Requests answered with outputs within the latency target of the slowest worker",
            ))?,
            in_flight: make.gauge(family(
                "batchfleet_gateway_in_flight",
                "requests",
                model,
                "Requests accepted and not ended",
            ))?,
            request_seconds: make.histogram(
                family(
                    "batchfleet_gateway_request_seconds",
                    "seconds",
                    model,
                    "From reading a request to its answer, whatever that is",
                ),
                &SECONDS,
            )?,
            fleet: FleetMetrics::make(make)?,
            triton: Triton::make(make)?,
            broker_errors: make.counter(family(
                "batchfleet_gateway_broker_errors_total",
                "calls",
                &["code"],
                "Jobs and looks that Redis did not take or answer, by why",
            ))?,
            broker_seconds: broker_seconds.with_label_values(NONE),
            body_bytes: body_bytes.with_label_values(NONE),
            unclaimed_replies,
            misrouted,
            interruptions,
            resubmissions,
        })
    }

    /// Counts a request to a model nobody knows.
    pub(crate) fn unknown_model(&self, reason: &'static str) {
        self.offered.with_label_values(&[UNKNOWN_MODEL]).inc();
        self.refused.with_label_values(&[UNKNOWN_MODEL, reason]).inc();
    }

    /// Counts a call that the broker did not take or answer.
    pub(crate) fn broker_failed(&self, error: &BrokerError) {
        self.broker_errors.with_label_values(&[error.code()]).inc();
    }

    /// The metrics of one model version, looked up once. Every outcome and every refusal of a
    /// correct request is written as 0 from the start.
    pub(crate) fn for_model(&self, queue: &QueueName) -> ModelMetrics {
        let model = queue.model.as_str();
        for refusal in Refusal::iter() {
            self.refused.with_label_values(&[model, refusal.code()]);
        }
        let answered =
            |outcome: &RequestOutcome| self.answered.with_label_values(&[model, outcome.label()]);
        ModelMetrics {
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

/// The metrics of the requests for one model version. Written only.
#[derive(Debug)]
pub(crate) struct ModelMetrics {
    model: String,
    offered: IntCounter,
    accepted: IntCounter,
    refused: IntCounterVec,
    /// In the order of [`RequestOutcome`].
    answered: Vec<IntCounter>,
    within_slo: IntCounter,
    in_flight: IntGauge,
    request_seconds: Histogram,
    /// The same counts under Triton's names.
    triton: ModelTriton,
}

impl ModelMetrics {
    /// Counts a request that arrived.
    pub(crate) fn offered(&self) {
        self.offered.inc();
    }

    /// Counts a request that was refused with this error code.
    pub(crate) fn refused(&self, code: &'static str) {
        self.refused.with_label_values(&[self.model.as_str(), code]).inc();
        self.triton.refused(code);
    }

    /// Counts a request that was let in.
    pub(crate) fn accepted(&self) {
        self.accepted.inc();
        self.in_flight.inc();
    }

    /// Counts the end of an accepted request that `took` so long, within the latency target if
    /// `in_time`.
    pub(crate) fn ended(&self, outcome: RequestOutcome, took: Duration, in_time: bool) {
        self.answered[outcome as usize].inc();
        self.in_flight.dec();
        self.request_seconds.observe(took.as_secs_f64());
        if outcome == RequestOutcome::Ok && in_time {
            self.within_slo.inc();
        }
        self.triton.ended(outcome);
    }

    /// Updates the gauges after a look at the queue; `in_flight` requests of this gateway are.
    pub(crate) fn observe(&self, backlog: &Backlog, in_flight: u64) {
        self.triton.observe(backlog, in_flight);
    }

    /// Updates the counters that follow the totals of `/stats`.
    pub(crate) fn publish(&self, statistics: &ModelStatistics) {
        self.triton.publish(statistics);
    }
}
