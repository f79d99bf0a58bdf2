//! Chooses the requests to trace, and records the gateway's part of each trace. Workers record the
//! rest: the wait in the queue, the batch, and the run of the model.

use batchfleet_broker::{QueueName, TraceContext, TraceParent};
use batchfleet_service::trace::{KeyValue, Span, SpanKind, Tracer};
use tokio::time::Instant;

use crate::error::InferError;

/// Decides which requests are traced.
pub(crate) struct Traces {
    tracer: Tracer,
    /// The fraction of requests to trace if the caller leaves the choice to the gateway.
    share: f64,
}

impl Traces {
    pub(crate) fn new(tracer: Tracer, share: f64) -> Self {
        Self { tracer, share }
    }

    /// Begins the trace of a request. A `parent` span, sent by the caller, determines whether the
    /// request is traced. `describe` returns the span's name and attributes, if the request is
    /// traced.
    pub(crate) fn begin(
        &self,
        parent: Option<TraceParent>,
        describe: impl FnOnce() -> (String, Vec<KeyValue>),
    ) -> Trace {
        let sampled =
            || parent.map_or_else(|| rand::random_bool(self.share), |parent| parent.sampled);
        if !self.tracer.is_on() || !sampled() {
            return Trace::off();
        }
        let trace = parent.map(|parent| parent.context.trace);
        let trace = trace.unwrap_or_else(rand::random);
        let parent = parent.map(|parent| parent.context.span);
        let now = Instant::now();
        let (name, attributes) = describe();
        let span = Span {
            kind: SpanKind::Server,
            attributes,
            ..Span::new(trace, parent, name, [now, now])
        };
        Trace(Some(Box::new(Recording { tracer: self.tracer.clone(), span, read: None })))
    }
}

/// The trace of one request, if the request is traced. Recorded when dropped.
pub(crate) struct Trace(Option<Box<Recording>>);

struct Recording {
    tracer: Tracer,
    /// The whole request.
    span: Span,
    /// When the request had been read and checked.
    read: Option<Instant>,
}

impl Trace {
    /// The trace of a request that is not traced.
    pub(crate) fn off() -> Self {
        Self(None)
    }

    /// The span of the request, which spans of workers belong to.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        self.0
            .as_deref()
            .map(|Recording { span, .. }| TraceContext { trace: span.trace, span: span.id })
    }

    /// Adds an attribute to the span of the request.
    pub(crate) fn attribute(&mut self, attribute: KeyValue) {
        if let Some(Recording { span, .. }) = self.0.as_deref_mut() {
            span.attributes.push(attribute);
        }
    }

    /// Records that the request has been read, with its model version and its rows.
    pub(crate) fn read(&mut self, queue: &QueueName, rows: u32) {
        let Some(Recording { span, read, .. }) = self.0.as_deref_mut() else { return };
        *read = Some(Instant::now());
        span.attributes.extend([
            KeyValue::new("batchfleet.model", queue.to_string()),
            KeyValue::new("batchfleet.rows", i64::from(rows)),
        ]);
    }

    /// Records the error with which the request ends.
    pub(crate) fn failed(&mut self, error: &InferError) {
        let Some(Recording { span, .. }) = self.0.as_deref_mut() else { return };
        span.attributes.push(KeyValue::new("error.type", error.code()));
        span.error = Some(error.to_string());
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.span.ended = Instant::now();
        let whole = self.span.clone();
        let (trace, id, began) = (whole.trace, whole.id, whole.began);
        let reading = self.read.map(|read| Span::new(trace, Some(id), "read", [began, read]));
        self.tracer.record(reading.into_iter().chain([whole]));
    }
}
