//! Queue depths for autoscalers, as `external.metrics.k8s.io/v1beta1`: an API that Kubernetes' own
//! API server passes on, so that nothing else need be installed for autoscalers to see a queue.
//!
//! Every controller serves it, leading or not, by a look into Redis at each question: a number that
//! cannot be had is an error, never a zero, and an autoscaler that gets an error leaves its fleet
//! alone. Whoever reaches the port may ask; the same numbers stand at the gateways' `/metrics`.

mod certificate;
mod documents;
#[cfg(test)]
mod tests;

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
use serde::Deserialize;
use serde_json::Value;
use tracing::{info, warn};

use self::documents::Labels;
use crate::settings::ExternalMetricsSettings;

/// Jobs that no worker has claimed: what autoscalers go by. The gateways export it under this name
/// as well, so that an adapter to Prometheus can serve it in place of the controller.
pub(crate) const QUEUE_DEPTH: &str = "batchfleet_queue_depth";

/// What is asked about.
pub(crate) struct Source {
    pub(crate) observer: Arc<dyn Observer>,
    /// The only one with queues that are known here.
    pub(crate) namespace: String,
}

/// Serves until the handle is told to stop.
///
/// # Errors
/// A certificate that is none, or an address that cannot be had.
pub(crate) fn serve(
    listen: SocketAddr,
    settings: &ExternalMetricsSettings,
    source: Source,
) -> Result<(ServerHandle, SocketAddr), InvalidSettings> {
    let wrong = |error: io::Error| {
        InvalidSettings::new(format_args!("--external-metrics-listen {listen}: {error}"))
    };
    let tls = certificate::settings(settings)?;
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
    tokio::spawn(server);
    Ok((handle, address))
}

fn routes(app: &mut ServiceConfig) {
    let root = format!("/apis/{}", documents::GROUP);
    let version = format!("{root}/{}", documents::VERSION);
    app.route(&root, web::get().to(async || HttpResponse::Ok().json(documents::group())))
        .route(&version, web::get().to(async || HttpResponse::Ok().json(documents::resources())))
        .route(&format!("{version}/namespaces/{{namespace}}/{{metric}}"), web::get().to(values))
        .default_service(web::to(async || refuse(StatusCode::NOT_FOUND, "nothing is served here")));
}

/// What is asked of the queues.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    #[serde(default)]
    label_selector: String,
}

async fn values(
    path: Path<(String, String)>,
    question: Query<Question>,
    source: Data<Source>,
) -> HttpResponse {
    let (namespace, metric) = path.into_inner();
    if metric != QUEUE_DEPTH {
        let known = format!("the only metric is {QUEUE_DEPTH}");
        return refuse(StatusCode::NOT_FOUND, &known);
    }
    let labels = match Labels::parse(&question.label_selector) {
        Ok(labels) => labels,
        Err(what) => return refuse(StatusCode::BAD_REQUEST, &what),
    };
    if namespace != source.namespace {
        return HttpResponse::Ok().json(documents::values(&[], Timestamp::now()));
    }
    match source.depths(&labels).await {
        Ok(depths) => HttpResponse::Ok().json(documents::values(&depths, Timestamp::now())),
        Err(error) => {
            warn!(%error, "an autoscaler gets no queue depth");
            refuse(StatusCode::SERVICE_UNAVAILABLE, "the queues cannot be looked at")
        }
    }
}

fn refuse(status: StatusCode, message: &str) -> HttpResponse {
    let refusal: Value = documents::refusal(status.as_u16(), message);
    HttpResponse::build(status).json(refusal)
}

impl Source {
    /// How many jobs wait in each queue with these labels that a worker or a gateway knows.
    async fn depths(&self, labels: &Labels) -> Result<Vec<(QueueName, u64)>, BrokerError> {
        let (fleet, reports) = (self.observer.fleet().await?, self.observer.traffic().await?);
        let observed = fleet.workers.into_iter().map(|worker| worker.announcement);
        let expected = fleet.promises.into_iter().map(|promise| promise.expected);
        let served = observed.chain(expected).map(|announcement| announcement.model.queue);
        let asked = reports.into_iter().flat_map(|report| report.traffic).map(|said| said.queue);
        let queues: BTreeSet<_> = served.chain(asked).filter(|queue| labels.fit(queue)).collect();
        let mut depths = Vec::with_capacity(queues.len());
        for queue in queues {
            let depth = self.observer.backlog(&queue).await?.depth();
            depths.push((queue, depth));
        }
        Ok(depths)
    }
}
