//! Traces inferences over gRPC: the span, its parent and its attributes.

use batchfleet_broker::TraceParent;
use batchfleet_service::trace::KeyValue;
use http::{HeaderMap, HeaderName};
use tonic::Code;

use crate::trace::{Trace, Traces};

const PARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const SERVICE: &str = "inference.GRPCInferenceService";

/// Begins the trace of an inference by this method.
pub(super) fn begin(traces: &Traces, metadata: &HeaderMap, method: &'static str) -> Trace {
    traces.begin(parent(metadata), || {
        let attributes = vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", SERVICE),
            KeyValue::new("rpc.method", method),
        ];
        (format!("{SERVICE}/{method}"), attributes)
    })
}

/// The status of the answer, as an attribute of the span.
pub(super) fn status(code: Code) -> KeyValue {
    KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(code)))
}

/// The caller's span. Malformed or repeated metadata is ignored, as W3C Trace Context asks.
fn parent(metadata: &HeaderMap) -> Option<TraceParent> {
    let mut values = metadata.get_all(PARENT).into_iter();
    let (first, None) = (values.next()?, values.next()) else { return None };
    TraceParent::parse(first.to_str().ok()?.trim())
}
