//! Sends spans to an OpenTelemetry collector over OTLP/HTTP. Only this file uses OpenTelemetry.
//!
//! A span is recorded after its end, with measured times. Tracing therefore does not delay
//! responses, and untraced requests have no cost.

use std::{
    borrow::Cow,
    fs,
    num::{NonZeroU64, NonZeroU128},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
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

/// Path for spans at the collector.
const PATH: &str = "v1/traces";
/// Timeout of a request to the collector.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Capacity of the queue of spans to send. Spans are dropped while the queue is full.
const QUEUE: usize = 8192;
/// Longest time for which a span waits in the queue.
const INTERVAL: Duration = Duration::from_secs(1);

/// Spans that were recorded and not sent.
static LOST: AtomicU64 = AtomicU64::new(0);

/// The number of spans lost since the process started.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Settings of traces.
#[derive(Args, Clone, Debug, Default)]
pub struct TraceSettings {
    /// URL of the OpenTelemetry collector that traces are sent to, over OTLP/HTTP, such as
    /// `http://collector:4318` [default: no traces]
    #[arg(long, env = "BATCHFLEET_TRACE_ENDPOINT", value_name = "URL")]
    pub trace_endpoint: Option<Url>,
}

/// A span that has ended.
#[derive(Clone, Debug)]
pub struct Span {
    /// Id of the trace.
    pub trace: NonZeroU128,
    /// Id of the span.
    pub id: NonZeroU64,
    /// Id of the parent span.
    pub parent: Option<NonZeroU64>,
    /// The operation.
    pub name: Cow<'static, str>,
    /// The relation to the parent span.
    pub kind: SpanKind,
    /// Start time.
    pub began: Instant,
    /// End time.
    pub ended: Instant,
    /// Attributes.
    pub attributes: Vec<KeyValue>,
    /// Related spans that are not the parent: ids of trace and span.
    pub links: Vec<(NonZeroU128, NonZeroU64)>,
    /// The error, if the operation failed.
    pub error: Option<String>,
}

impl Span {
    /// Creates an internal span with a random id, without attributes, links and error.
    pub fn new(
        trace: NonZeroU128,
        parent: Option<NonZeroU64>,
        name: impl Into<Cow<'static, str>>,
        [began, ended]: [Instant; 2],
    ) -> Self {
        Self {
            trace,
            id: rand::random(),
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

/// Sends spans to the collector if the settings contain one. Clones share one queue. Recording
/// never blocks: while the queue is full, spans are dropped.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Recorder>>);

#[derive(Debug)]
struct Recorder {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    /// Spans that the processor holds.
    held: Arc<AtomicUsize>,
}

impl Recorder {
    /// Whether the processor has room for one more span. The processor itself drops spans without
    /// a count that others can read.
    fn has_room(&self) -> bool {
        let room = |held: usize| (held < QUEUE).then_some(held + 1);
        let has_room = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        if !has_room {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        has_room
    }
}

impl Tracer {
    /// Creates a tracer for spans of `service`, which is off if the settings contain no collector.
    /// The collector does not have to be reachable yet.
    pub(crate) fn start(settings: &TraceSettings, service: &str) -> Result<Self, InvalidSettings> {
        let Some(endpoint) = &settings.trace_endpoint else { return Ok(Self(None)) };
        let exporter = exporter(endpoint, service).map_err(|error| {
            InvalidSettings::new(format_args!("--trace-endpoint {endpoint}: {error}"))
        })?;
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_scheduled_delay(INTERVAL)
            .build();
        let held = Arc::<AtomicUsize>::default();
        let exporter =
            Exporter { sender: exporter, is_broken: AtomicBool::new(false), held: held.clone() };
        let processor = BatchSpanProcessor::new(exporter, config);
        let scope = InstrumentationScope::builder("batchfleet")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Ok(Self(Some(Arc::new(Recorder { processor, scope, held }))))
    }

    /// Returns whether spans are sent.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Records related spans. All their monotonic times are converted with a single reading of the
    /// wall clock, so that the spans remain consistent.
    pub fn record(&self, spans: impl IntoIterator<Item = Span>) {
        let Some(recorder) = self.0.as_deref() else { return };
        let Recorder { processor, scope, .. } = recorder;
        let (now, time) = (Instant::now(), SystemTime::now());
        let at = |then: Instant| time - now.saturating_duration_since(then);
        for span in spans.into_iter().filter(|_| recorder.has_room()) {
            let mut links = SpanLinks::default();
            links.links = span.links.iter().map(|&(trace, id)| link(trace, id)).collect();
            processor.on_end(SpanData {
                span_context: context(span.trace, span.id, false),
                parent_span_id: SpanId::from_bytes(
                    span.parent.map_or(0, NonZeroU64::get).to_be_bytes(),
                ),
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

    /// Sends the queued spans and stops. Blocks until the collector has received the spans or the
    /// timeout has passed.
    pub(crate) fn flush(&self) {
        if let Some(recorder) = &self.0
            && let Err(error) = recorder.processor.shutdown_with_timeout(TIMEOUT)
        {
            warn!(%error, "failed to send the last traces");
        }
    }
}

/// Exports spans, and logs when the collector becomes unreachable and reachable again.
#[derive(Debug)]
struct Exporter {
    sender: SpanExporter,
    is_broken: AtomicBool,
    held: Arc<AtomicUsize>,
}

impl opentelemetry_sdk::trace::SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.sender.export(batch).await;
        self.held.fetch_sub(spans, Ordering::Relaxed);
        if exported.is_err() {
            LOST.fetch_add(spans as u64, Ordering::Relaxed);
        }
        match (&exported, self.is_broken.swap(exported.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                warn!(%error, "failed to send traces: dropping them");
            }
            (Ok(()), true) => info!("sending traces again"),
            _ => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.sender.shutdown_with_timeout(timeout)
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
        .with_timeout(TIMEOUT)
        .build()?;
    exporter.set_resource(&resource(service));
    Ok(exporter)
}

/// Creates a blocking HTTP client. The span processor uses the client on its own thread.
fn client(endpoint: &Url) -> Result<Client, Box<dyn std::error::Error>> {
    let mut client = Client::builder().timeout(TIMEOUT).no_proxy();
    match endpoint.scheme() {
        // Plain HTTP needs no certificates, so the system's certificates are not loaded.
        "http" => client = client.tls_certs_only([]),
        "https" => {}
        _ => return Err("expected an http:// or https:// URL".into()),
    }
    // reqwest is built without a TLS provider of its own. Installing the provider fails harmlessly
    // if a provider is already installed.
    rustls::crypto::ring::default_provider().install_default().ok();
    Ok(client.build()?)
}

/// Returns the resource to which spans are attributed. `OTEL_RESOURCE_ATTRIBUTES` may add
/// attributes.
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

fn link(trace: NonZeroU128, id: NonZeroU64) -> Link {
    Link::with_context(context(trace, id, true))
}

fn context(trace: NonZeroU128, id: NonZeroU64, remote: bool) -> SpanContext {
    let (trace, id) = (TraceId::from(trace.get()), SpanId::from(id.get()));
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
    fn a_collector_has_an_http_or_https_url() {
        let settings = |url: &str| TraceSettings { trace_endpoint: Some(url.parse().unwrap()) };
        let refused = Tracer::start(&settings("grpc://collector:4317"), "test").unwrap_err();
        let expected =
            "--trace-endpoint grpc://collector:4317: expected an http:// or https:// URL";
        assert_eq!(refused.to_string(), expected);
        assert!(Tracer::start(&settings("http://127.0.0.1:1"), "test").unwrap().is_on());
    }
}
