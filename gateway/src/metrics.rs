//! What a gateway counts. The books balance at every scrape: offered = accepted + refused (+ the
//! ones being admitted), accepted = the sum of answered over its outcomes + in flight.

mod fleet;
mod triton;

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use batchfleet_broker::BrokerError;
use batchfleet_service::metrics::{Described, Families, family};
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use self::{
    fleet::FleetMetrics,
    triton::{Told, Triton},
};
use strum::IntoEnumIterator;

use crate::{refusal::Refusal, traffic::Load};

/// Upper bounds for times from half a millisecond to half a minute, in seconds.
pub(crate) const SECONDS: [f64; 20] = [
    0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1.0, 2.5, 5.0, 10.0, 30.0,
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

    /// As the metrics call it.
    pub(crate) const fn label(self) -> &'static str {
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
    /// Moved when it ends with its outputs within the latency target.
    within_slo: IntCounterVec,
    /// Accepted and not yet ended.
    in_flight: IntGaugeVec,
    /// From the first byte of the request's head read until its answer is ready to send.
    request_seconds: HistogramVec,
    /// Facts of the fleet.
    pub(crate) fleet: FleetMetrics,
    /// The aliases.
    pub(crate) triton: Triton,
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

    /// The counters of one model, looked up once. Every outcome and every refusal of a correct
    /// request is written as 0 from the start.
    pub(crate) fn for_model(&self, model: &str) -> ModelMetrics {
        for refusal in Refusal::iter() {
            self.refused.with_label_values(&[model, refusal.code()]);
        }
        ModelMetrics {
            model: model.to_owned(),
            offered: self.offered.with_label_values(&[model]),
            accepted: self.accepted.with_label_values(&[model]),
            refused: self.refused.clone(),
            answered: Outcome::ALL
                .map(|outcome| self.answered.with_label_values(&[model, outcome.label()])),
            within_slo: self.within_slo.with_label_values(&[model]),
            slo: AtomicU64::new(0),
            in_flight: self.in_flight.with_label_values(&[model]),
            request_seconds: self.request_seconds.with_label_values(&[model]),
            load: Load::default(),
            told: Told::default(),
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
    within_slo: IntCounter,
    /// The latency target in seconds, as the bits of an `f64`.
    slo: AtomicU64,
    in_flight: IntGauge,
    request_seconds: Histogram,
    /// The same, of this version of the model, as the fleet's size follows from it.
    pub(crate) load: Load,
    /// The same, under Triton's names.
    pub(crate) told: Told,
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
        self.told.refused(reason);
    }

    /// The latency target is so long.
    pub(crate) fn aim(&self, slo: Duration) {
        self.slo.store(slo.as_secs_f64().to_bits(), Relaxed);
    }

    /// It was let in.
    pub(crate) fn accepted(&self) {
        self.accepted.inc();
        self.in_flight.inc();
        self.load.accepted();
    }

    /// Requests of all versions that were let in and have not ended.
    pub(crate) fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// It ended, `seconds` after it arrived.
    pub(crate) fn answered(&self, outcome: Outcome, seconds: f64) {
        self.answered[outcome as usize].inc();
        self.in_flight.dec();
        self.request_seconds.observe(seconds);
        match outcome {
            Outcome::Ok if seconds <= f64::from_bits(self.slo.load(Relaxed)) => {
                self.within_slo.inc();
            }
            Outcome::Ok => {}
            failed => self.told.ended(failed),
        }
        self.load.ended(outcome, seconds);
    }
}
