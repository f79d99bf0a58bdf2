//! Spans to an OpenTelemetry collector, over OTLP/HTTP. The only file that knows OpenTelemetry.
//!
//! Spans are recorded when they are over, with the times at which things happened: whoever is traced
//! pays for it after the answer, and nobody else does.

use std::{
    borrow::Cow,
    fs, process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use clap::Args;
use opentelemetry::{
    InstrumentationScope,
    trace::{Link, SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState},
};
pub use opentelemetry::{KeyValue, trace::SpanKind};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanExporter as _, SpanLinks,
        SpanProcessor,
    },
};
use reqwest::{Url, blocking::Client};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::InvalidSettings;

/// Where a collector takes spans, below its address.
const PATH: &str = "v1/traces";
/// How long a collector may take for what it is sent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Spans that may wait to be sent; more are dropped.
const WAITING: usize = 8192;
/// How long they wait at most.
const EVERY: Duration = Duration::from_secs(1);

/// Where traces go.
#[derive(Args, Clone, Debug, Default)]
pub struct TraceSettings {
    /// The OpenTelemetry collector that traces are sent to, over OTLP/HTTP, such as
    /// `http://collector:4318` [default: none are made]
    #[arg(long, env = "BATCHFLEET_TRACE_ENDPOINT", value_name = "URL")]
    pub trace_endpoint: Option<Url>,
}

/// A span that is over. Ids are never 0.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace it belongs to.
    pub trace: u128,
    /// Itself.
    pub id: u64,
    /// The span it is part of.
    pub parent: Option<u64>,
    /// What it is.
    pub name: Cow<'static, str>,
    /// How it stands to its parent.
    pub kind: SpanKind,
    /// When it began.
    pub began: Instant,
    /// When it ended.
    pub ended: Instant,
    /// What else is known of it.
    pub attributes: Vec<KeyValue>,
    /// Spans that it has to do with, without being part of them: their traces and themselves.
    pub links: Vec<(u128, u64)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl Span {
    /// Part of a trace, and nothing else known of it.
    pub fn new(
        trace: u128,
        parent: Option<u64>,
        name: impl Into<Cow<'static, str>>,
        [began, ended]: [Instant; 2],
    ) -> Self {
        Self {
            trace,
            id: rand::random_range(1..=u64::MAX),
            parent,
            name: name.into(),
            kind: SpanKind::Internal,
            began,
            ended,
            attributes: Vec::new(),
            links: Vec::new(),
            error: None,
        }
    }
}

/// Takes spans to the collector, if there is one; clones share the way. What it cannot take in time
/// is dropped: nobody waits for a trace.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Recorder>>);

#[derive(Debug)]
struct Recorder {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

impl Tracer {
    /// A way to the collector for spans of `service`; none if the settings name no collector. The
    /// collector need not be there yet.
    pub(crate) fn start(settings: &TraceSettings, service: &str) -> Result<Self, InvalidSettings> {
        let Some(endpoint) = &settings.trace_endpoint else { return Ok(Self(None)) };
        let exporter = exporter(endpoint, service).map_err(|error| {
            InvalidSettings::new(format_args!("--trace-endpoint {endpoint}: {error}"))
        })?;
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(WAITING)
            .with_scheduled_delay(EVERY)
            .build();
        let exporter = Exporter { exporter, is_broken: AtomicBool::new(false) };
        let processor = BatchSpanProcessor::new(exporter, config);
        let scope = InstrumentationScope::builder("batchfleet")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Ok(Self(Some(Arc::new(Recorder { processor, scope }))))
    }

    /// Whether spans go anywhere.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Takes spans that have to do with each other, so that their times must fit together.
    pub fn record(&self, spans: impl IntoIterator<Item = Span>) {
        let Some(Recorder { processor, scope }) = self.0.as_deref() else { return };
        let (now, time) = (Instant::now(), SystemTime::now());
        let at = |then: Instant| time - now.saturating_duration_since(then);
        for span in spans {
            let mut links = SpanLinks::default();
            links.links = span.links.iter().map(|&(trace, id)| link(trace, id)).collect();
            processor.on_end(SpanData {
                span_context: context(span.trace, span.id, false),
                parent_span_id: SpanId::from_bytes(span.parent.unwrap_or(0).to_be_bytes()),
                parent_span_is_remote: span.kind != SpanKind::Internal,
                span_kind: span.kind,
                name: span.name,
                start_time: at(span.began),
                end_time: at(span.ended),
                attributes: span.attributes,
                dropped_attributes_count: 0,
                events: SpanEvents::default(),
                links,
                status: span.error.map_or(Status::Unset, Status::error),
                instrumentation_scope: scope.clone(),
            });
        }
    }

    /// Sends what waits, and no more. Blocks until the collector has it, or its time is over.
    pub(crate) fn end(&self) {
        if let Some(recorder) = &self.0
            && let Err(error) = recorder.processor.shutdown_with_timeout(PATIENCE)
        {
            warn!(%error, "the last traces were not sent");
        }
    }
}

/// Says once that the collector is away, and once that it is back.
#[derive(Debug)]
struct Exporter {
    exporter: SpanExporter,
    is_broken: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        match (&exported, self.is_broken.swap(exported.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                warn!(%error, "traces do not reach the collector: dropping them");
            }
            (Ok(()), true) => info!("traces reach the collector again"),
            _ => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }
}

fn exporter(endpoint: &Url, service: &str) -> Result<SpanExporter, Box<dyn std::error::Error>> {
    let client = client(endpoint)?;
    let base = endpoint.as_str().trim_end_matches('/');
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{base}/{PATH}"))
        .with_timeout(PATIENCE)
        .build()?;
    exporter.set_resource(&resource(service));
    Ok(exporter)
}

/// It blocks, and must be made where that does no harm: it is used on a thread of its own.
fn client(endpoint: &Url) -> Result<Client, Box<dyn std::error::Error>> {
    let mut client = Client::builder().timeout(PATIENCE).no_proxy();
    match endpoint.scheme() {
        // Not even the system's certificates are looked for.
        "http" => client = client.tls_certs_only([]),
        "https" => {}
        _ => return Err("expected an http:// or https:// URL".into()),
    }
    // Without the features that bring a second implementation of TLS, it must be told which one. It
    // is no error if it was told before.
    rustls::crypto::ring::default_provider().install_default().ok();
    Ok(client.build()?)
}

/// Who makes the spans; `OTEL_RESOURCE_ATTRIBUTES` may say more.
fn resource(service: &str) -> Resource {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().to_owned();
    Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", format!("{host}:{}", process::id())))
        .with_attribute(KeyValue::new("host.name", host))
        .build()
}

fn link(trace: u128, id: u64) -> Link {
    Link::with_context(context(trace, id, true))
}

fn context(trace: u128, id: u64, remote: bool) -> SpanContext {
    let (trace, id) =
        (TraceId::from_bytes(trace.to_be_bytes()), SpanId::from_bytes(id.to_be_bytes()));
    SpanContext::new(trace, id, TraceFlags::SAMPLED, remote, TraceState::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_collector_nothing_is_recorded() {
        assert!(!Tracer::start(&TraceSettings::default(), "test").unwrap().is_on());
    }

    #[test]
    fn a_collector_is_spoken_to_over_http_or_https() {
        let settings = |url: &str| TraceSettings { trace_endpoint: Some(url.parse().unwrap()) };
        let refused = Tracer::start(&settings("grpc://collector:4317"), "test").unwrap_err();
        let expected =
            "--trace-endpoint grpc://collector:4317: expected an http:// or https:// URL";
        assert_eq!(refused.to_string(), expected);
        assert!(Tracer::start(&settings("http://127.0.0.1:1"), "test").unwrap().is_on());
    }
}
