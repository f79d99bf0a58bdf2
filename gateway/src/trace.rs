//! Which requests are traced, and what is recorded of them here. Workers record the rest: the wait
//! in the queue, the batch, the run.

use actix_web::{
    HttpRequest,
    http::{StatusCode, header::HeaderMap},
};
use batchfleet_broker::{TraceContext, TraceParent};
use batchfleet_service::trace::{KeyValue, Span, SpanKind, Tracer};
use tokio::time::Instant;

use batchfleet_oip::infer::InferRequest;

use crate::{error::InferError, model::Model};

const PARENT: &str = "traceparent";
const ROUTE: &str = "/v2/models/{model}/infer";
const VERSION_ROUTE: &str = "/v2/models/{model}/versions/{version}/infer";

/// Decides which requests are traced.
pub(crate) struct Traces {
    tracer: Tracer,
    /// The share of requests whose callers leave it to us.
    share: f64,
}

impl Traces {
    pub(crate) fn new(tracer: Tracer, share: f64) -> Self {
        Self { tracer, share }
    }

    /// A request begins. A caller that names its trace also says whether it is recorded.
    pub(crate) fn begin(&self, request: &HttpRequest) -> Trace {
        if !self.tracer.is_on() {
            return Trace(None);
        }
        let parent = parent(request.headers());
        let sampled = parent.map(|parent| parent.sampled);
        if !sampled.unwrap_or_else(|| rand::random_bool(self.share)) {
            return Trace(None);
        }
        let trace = parent.map(|parent| parent.context.trace);
        let trace = trace.unwrap_or_else(|| rand::random_range(1..=u128::MAX));
        let parent = parent.map(|parent| parent.context.span);
        let versioned = request.match_info().get("version").is_some();
        let route = if versioned { VERSION_ROUTE } else { ROUTE };
        let now = Instant::now();
        let span = Span {
            kind: SpanKind::Server,
            attributes: vec![
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("http.route", route),
                KeyValue::new("url.path", request.path().to_owned()),
            ],
            ..Span::new(trace, parent, format!("POST {route}"), [now, now])
        };
        Trace(Some(Box::new(Recording { tracer: self.tracer.clone(), span, read: None })))
    }
}

/// The caller's span; one that is not well-formed, or not the only one, is none.
fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(PARENT);
    let (first, None) = (values.next()?, values.next()) else { return None };
    TraceParent::parse(first.to_str().ok()?.trim())
}

/// A request as far as it is traced. Recorded when dropped, however it ended.
pub(crate) struct Trace(Option<Box<Recording>>);

struct Recording {
    tracer: Tracer,
    /// The whole request.
    span: Span,
    /// When it had been read and checked.
    read: Option<Instant>,
}

impl Trace {
    /// What is done for the request is to be recorded as part of this.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        self.0
            .as_deref()
            .map(|Recording { span, .. }| TraceContext { trace: span.trace, span: span.id })
    }

    /// The request has been read: it asks `model` this.
    pub(crate) fn read(&mut self, model: &Model, asked: &InferRequest) {
        let Some(Recording { span, read, .. }) = self.0.as_deref_mut() else { return };
        *read = Some(Instant::now());
        span.attributes.extend([
            KeyValue::new("batchfleet.model", model.spec.queue.to_string()),
            KeyValue::new("batchfleet.rows", i64::from(asked.rows)),
        ]);
    }

    /// It ends with an error.
    pub(crate) fn failed(&mut self, error: &InferError) {
        let Some(Recording { span, .. }) = self.0.as_deref_mut() else { return };
        span.attributes.push(KeyValue::new("error.type", error.code()));
        span.error = Some(error.to_string());
    }

    /// Its answer is ready.
    pub(crate) fn answered(mut self, status: StatusCode) {
        let Some(Recording { span, .. }) = self.0.as_deref_mut() else { return };
        let status = i64::from(status.as_u16());
        span.attributes.push(KeyValue::new("http.response.status_code", status));
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
