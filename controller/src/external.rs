//! Serves queue depths to autoscalers as `external.metrics.k8s.io/v1beta1`. The API server of
//! Kubernetes forwards this API to the controller, so no metrics adapter is needed.
//!
//! Every controller serves the API, leader or not, and reads Redis for each request. If a depth
//! cannot be read, the response is an error and never 0: an autoscaler that gets an error does not
//! scale. With `--external-metrics-service` only the API server may connect, with its client
//! certificate.

mod certificate;
mod documents;
mod error;
mod maintenance;
#[cfg(test)]
mod tests;
mod trust;

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::ServerHandle,
    http::StatusCode,
    web::{self, Data, Path, Query, ServiceConfig},
};
use batchfleet_broker::{BrokerError, Observer, QueueName};
use batchfleet_service::InvalidSettings;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use self::{documents::Labels, maintenance::Maintenance, trust::Trust};
use crate::{objects::QUEUE_DEPTH, settings::ExternalMetricsSettings, snapshot::Snapshots};

/// The source of the queue depths.
pub(crate) struct DepthSource {
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) observer: Arc<dyn Observer>,
    /// Namespace of the fleets. Other namespaces have no queues.
    pub(crate) namespace: String,
}

/// The running API.
pub(crate) struct ExternalMetrics {
    /// Stops the server.
    pub(crate) handle: ServerHandle,
    /// Ends when the server has stopped.
    pub(crate) server: JoinHandle<io::Result<()>>,
    #[cfg_attr(not(test), expect(dead_code, reason = "tests listen on any free port"))]
    pub(crate) address: SocketAddr,
    /// Keeps the certificates current, while it runs.
    pub(crate) maintenance: Option<Maintenance>,
}

/// Serves the API until the handle is stopped.
///
/// # Errors
/// If the certificate is invalid or the address cannot be bound.
pub(crate) fn serve(
    listen: SocketAddr,
    settings: &ExternalMetricsSettings,
    source: DepthSource,
    client: &Client,
) -> Result<ExternalMetrics, InvalidSettings> {
    let wrong = |error: io::Error| {
        InvalidSettings::new(format_args!("--external-metrics-listen {listen}: {error}"))
    };
    let (tls, maintenance) = match &settings.service {
        Some(service) => {
            let trust = Arc::new(Trust::new());
            let maintenance = Maintenance::new(trust.clone(), client, &source.namespace, service);
            (certificate::maintained(trust)?, Some(maintenance))
        }
        None => (certificate::settings(settings)?, None),
    };
    let source = Data::new(source);
    let server = HttpServer::new(move || App::new().app_data(source.clone()).configure(routes))
        .workers(1)
        .disable_signals()
        .bind_rustls_0_23(listen, tls)
        .map_err(wrong)?;
    let address = server.addrs().first().copied().unwrap_or(listen);
    info!(%address, port_name = "external-metrics", "listening");
    let server = server.run();
    let handle = server.handle();
    let server = tokio::spawn(server);
    Ok(ExternalMetrics { handle, server, address, maintenance })
}

fn routes(app: &mut ServiceConfig) {
    let root = format!("/apis/{}", documents::GROUP);
    let version = format!("{root}/{}", documents::VERSION);
    app.route(&root, web::get().to(async || HttpResponse::Ok().json(documents::group())))
        .route(&version, web::get().to(async || HttpResponse::Ok().json(documents::resources())))
        .route(&format!("{version}/namespaces/{{namespace}}/{{metric}}"), web::get().to(values))
        .default_service(web::to(async || refuse(StatusCode::NOT_FOUND, "no such path")));
}

/// Query string of a request for metric values.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricQuery {
    #[serde(default)]
    label_selector: String,
}

async fn values(
    path: Path<(String, String)>,
    query: Query<MetricQuery>,
    source: Data<DepthSource>,
) -> HttpResponse {
    let (namespace, metric) = path.into_inner();
    if metric != QUEUE_DEPTH {
        let known = format!("the only metric is {QUEUE_DEPTH}");
        return refuse(StatusCode::NOT_FOUND, &known);
    }
    let labels = match Labels::parse(&query.label_selector) {
        Ok(labels) => labels,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error),
    };
    if namespace != source.namespace {
        return HttpResponse::Ok().json(documents::values(&[], Timestamp::now()));
    }
    match source.depths(&labels).await {
        Ok(depths) => HttpResponse::Ok().json(documents::values(&depths, Timestamp::now())),
        Err(error) => {
            warn!(%error, "failed to read queue depths for an autoscaler");
            refuse(StatusCode::SERVICE_UNAVAILABLE, "failed to read the queue depths")
        }
    }
}

fn refuse(status: StatusCode, message: &str) -> HttpResponse {
    let refusal: Value = documents::refusal(status.as_u16(), message);
    HttpResponse::build(status).json(refusal)
}

impl DepthSource {
    /// Returns the depth of each queue that matches the labels and is known to a worker or a
    /// gateway.
    async fn depths(&self, labels: &Labels) -> Result<Vec<(QueueName, u64)>, BrokerError> {
        let snapshot = self.snapshots.latest().await?;
        let workers = snapshot.fleet.workers.iter().map(|worker| &worker.announcement);
        let promised = snapshot.fleet.promises.iter().map(|promise| &promise.expected);
        let served = workers.chain(promised).map(|announcement| &announcement.model.queue);
        let traffic = snapshot.traffic.iter().flat_map(|report| &report.traffic);
        let requested = traffic.map(|traffic| &traffic.queue);
        let queues: BTreeSet<_> =
            served.chain(requested).filter(|queue| labels.fit(queue)).collect();
        let mut depths = Vec::with_capacity(queues.len());
        for queue in queues {
            let depth = self.observer.backlog(queue).await?.depth();
            depths.push((queue.clone(), depth));
        }
        Ok(depths)
    }
}
