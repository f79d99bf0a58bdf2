//! Records the spans of traced requests: the wait in the queue and the batch. The batch also has a
//! span in a separate trace, linked to the spans of all its traced requests.

use std::num::{NonZeroU64, NonZeroU128};

use batchfleet_broker::{Delivery, TraceContext};
use batchfleet_service::trace::{KeyValue, Span, SpanKind, Tracer};
use tokio::time::Instant;

use crate::{batch::Batch, engine::EngineRun, job::HeldJob, plan::ServingPlan};

/// The id of the trace of a request, if the request is traced.
pub(crate) fn id(delivery: &Delivery) -> Option<NonZeroU128> {
    delivery.job.trace.map(|context| context.trace)
}

/// Records a batch that ran with `padding` rows added. A request that runs in parts has the spans of
/// each of its batches.
pub(crate) fn ran(plan: &ServingPlan, (batch, padding): (&Batch, u32), run: &EngineRun) {
    let traced: Vec<(&HeldJob, TraceContext)> =
        batch.jobs.iter().filter_map(|job| Some((job, job.delivery.job.trace?))).collect();
    if !plan.tracer.is_on() || traced.is_empty() {
        return;
    }
    let began = run.started - run.input;
    let joined = run.started;
    let inferred = joined + run.infer;
    let split = inferred + run.output;
    let error = run.outputs.as_ref().err().map(ToString::to_string);
    let attributes = attributes(plan, batch, padding);
    let own = Span {
        attributes: attributes.clone(),
        links: traced.iter().map(|(_, context)| (context.trace, context.span)).collect(),
        error: error.clone(),
        ..Span::new(rand::random(), None, "batch", [began, split])
    };
    let of_request = |(job, TraceContext { trace, span }): &(&HeldJob, _)| {
        let travelled = Span {
            kind: SpanKind::Consumer,
            attributes: attributes.clone(),
            links: vec![(own.trace, own.id)],
            error: error.clone(),
            ..Span::new(*trace, Some(*span), "batch", [job.waits_since(), split])
        };
        let computed = Span::new(*trace, Some(travelled.id), "compute", [joined, inferred]);
        let queued = (!job.has_begun()).then(|| queued(&job.delivery, *trace, *span));
        queued.into_iter().chain([travelled, computed])
    };
    let spans: Vec<_> = traced.iter().flat_map(of_request).collect();
    plan.tracer.record(spans.into_iter().chain([own]));
}

/// Records a job that was answered without a run, or without a run of all its rows, and the reason.
pub(crate) fn not_run(tracer: &Tracer, job: &HeldJob, why: &str) {
    if let Some(TraceContext { trace, span }) = job.delivery.job.trace {
        let waited = if job.has_begun() {
            Span::new(trace, Some(span), "batch", [job.waits_since(), Instant::now()])
        } else {
            queued(&job.delivery, trace, span)
        };
        tracer.record([Span { error: Some(why.to_owned()), ..waited }]);
    }
}

/// The span of a job's wait in the queue.
fn queued(delivery: &Delivery, trace: NonZeroU128, parent: NonZeroU64) -> Span {
    let claimed = delivery.claimed_at;
    let added = claimed.checked_sub(delivery.waited).unwrap_or(claimed);
    Span {
        kind: SpanKind::Consumer,
        attributes: vec![
            KeyValue::new("batchfleet.request", delivery.job.id.to_string()),
            KeyValue::new("batchfleet.attempt", i64::from(delivery.job.attempt)),
            KeyValue::new("batchfleet.deliveries", i64::from(delivery.deliveries)),
        ],
        ..Span::new(trace, Some(parent), "queue", [added, claimed])
    }
}

fn attributes(plan: &ServingPlan, batch: &Batch, padding: u32) -> Vec<KeyValue> {
    let requests = i64::try_from(batch.jobs.len()).unwrap_or(i64::MAX);
    vec![
        KeyValue::new("batchfleet.model", plan.spec.queue.to_string()),
        KeyValue::new("batchfleet.provider", plan.provider),
        KeyValue::new("batchfleet.batch.requests", requests),
        KeyValue::new("batchfleet.batch.rows", i64::from(batch.rows)),
        KeyValue::new("batchfleet.batch.padding", i64::from(padding)),
        KeyValue::new("batchfleet.batch.release", batch.release.name()),
    ]
}
