//! A collector of traces over OTLP/HTTP.

use std::{collections::HashMap, time::Duration};

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, web};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{Span, status::StatusCode},
};
use prost::Message;
use tokio::{sync::watch, time::timeout};

/// Timeout of a wait for spans, longer than programs buffer them.
const PATIENCE: Duration = Duration::from_secs(20);

/// A received span. `parent` is 0 for a root.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedSpan {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) trace: u128,
    pub(crate) id: u64,
    pub(crate) parent: u64,
    /// Nanoseconds since 1970.
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) attributes: HashMap<String, String>,
    /// The trace and span ids of the linked spans.
    pub(crate) links: Vec<(u128, u64)>,
    pub(crate) failed: bool,
}

impl ReceivedSpan {
    pub(crate) fn milliseconds(&self) -> f64 {
        Duration::from_nanos(self.ended - self.began).as_secs_f64() * 1e3
    }
}

pub(crate) struct Collector {
    url: String,
    spans: watch::Receiver<Vec<ReceivedSpan>>,
    server: ServerHandle,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let (received, spans) = watch::channel(Vec::new());
        let take = move |body: web::Bytes| {
            let sent = ExportTraceServiceRequest::decode(body).unwrap();
            received.send_modify(|all: &mut Vec<ReceivedSpan>| all.extend(unpack(sent)));
            async { HttpResponse::Ok().content_type("application/x-protobuf").finish() }
        };
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::PayloadConfig::new(16 << 20))
                .route("/v1/traces", web::post().to(take.clone()))
        });
        let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { url, spans, server: handle }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Waits until the received spans satisfy `enough`, and returns them.
    pub(crate) async fn wait(&self, enough: impl Fn(&[ReceivedSpan]) -> bool) -> Vec<ReceivedSpan> {
        let mut spans = self.spans.clone();
        let waited = timeout(PATIENCE, spans.wait_for(|spans| enough(spans))).await;
        waited.unwrap_or_else(|_| panic!("only {:#?}", self.received())).unwrap().clone()
    }

    /// All spans received so far.
    pub(crate) fn received(&self) -> Vec<ReceivedSpan> {
        self.spans.borrow().clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.server.stop(false));
    }
}

fn unpack(sent: ExportTraceServiceRequest) -> Vec<ReceivedSpan> {
    let mut all = Vec::new();
    for of_service in sent.resource_spans {
        let resource = attributes(of_service.resource.unwrap().attributes);
        let spans = of_service.scope_spans.into_iter().flat_map(|scope| scope.spans);
        all.extend(spans.map(|span| received(&resource["service.name"], span)));
    }
    all
}

fn received(service: &str, span: Span) -> ReceivedSpan {
    ReceivedSpan {
        service: service.to_owned(),
        name: span.name,
        trace: trace(&span.trace_id),
        id: id(&span.span_id),
        parent: if span.parent_span_id.is_empty() { 0 } else { id(&span.parent_span_id) },
        began: span.start_time_unix_nano,
        ended: span.end_time_unix_nano,
        attributes: attributes(span.attributes),
        links: span.links.iter().map(|link| (trace(&link.trace_id), id(&link.span_id))).collect(),
        failed: span.status.is_some_and(|status| status.code() == StatusCode::Error),
    }
}

fn attributes(pairs: Vec<KeyValue>) -> HashMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => panic!("an attribute of another kind: {other:?}"),
    };
    pairs.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}

fn trace(bytes: &[u8]) -> u128 {
    u128::from_be_bytes(bytes.try_into().unwrap())
}

fn id(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}
