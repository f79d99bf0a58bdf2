//! Traces inference requests over HTTP: the span, its parent and its attributes.

use actix_web::{HttpRequest, HttpResponse, http::header::HeaderMap};
use batchfleet_broker::TraceParent;
use batchfleet_service::trace::KeyValue;

use crate::trace::{Trace, Traces};

const PARENT: &str = "traceparent";
const ROUTE: &str = "/v2/models/{model}/infer";
const VERSION_ROUTE: &str = "/v2/models/{model}/versions/{version}/infer";
const V1_ROUTE: &str = "/v1/models/{model}:predict";
const V1_VERSION_ROUTE: &str = "/v1/models/{model}/versions/{version}:predict";

/// Begins the trace of an inference request.
pub(super) fn begin(traces: &Traces, request: &HttpRequest) -> Trace {
    traces.begin(parent(request.headers()), || {
        let versioned = request.match_info().get("version").is_some();
        let route = match (request.path().starts_with("/v1/"), versioned) {
            (false, false) => ROUTE,
            (false, true) => VERSION_ROUTE,
            (true, false) => V1_ROUTE,
            (true, true) => V1_VERSION_ROUTE,
        };
        let attributes = vec![
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("http.route", route),
            KeyValue::new("url.path", request.path().to_owned()),
        ];
        (format!("POST {route}"), attributes)
    })
}

/// The status of the answer, as an attribute of the span.
pub(super) fn status(answer: &HttpResponse) -> KeyValue {
    KeyValue::new("http.response.status_code", i64::from(answer.status().as_u16()))
}

/// The caller's span. A malformed or repeated header is ignored, as W3C Trace Context asks.
fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(PARENT);
    let (first, None) = (values.next()?, values.next()) else { return None };
    TraceParent::parse(first.to_str().ok()?.trim())
}
