//! Builds a controller from its parts, top to bottom, and runs it.

use std::sync::Arc;

use batchfleet_broker::Broker;
use batchfleet_service::Process;
use futures_util::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    runtime::{
        Controller,
        events::{Recorder, Reporter},
        watcher,
    },
};
use tokio::{sync::watch, time::Instant};
use tracing::info;

use crate::{
    cluster::Others,
    crd::ModelFleet,
    external::{self, Source},
    lease::Candidate,
    metrics::ControllerMetrics,
    objects::MANAGER,
    reconcile::{Context, Fleets, after, reconcile},
    settings::ControllerSettings,
};

/// Controls the fleets of a namespace until shutdown.
///
/// # Errors
/// Settings that make no sense, and a cluster or a Redis that cannot be found.
pub async fn control(settings: &ControllerSettings, process: Process) -> anyhow::Result<()> {
    let defaults = settings.workers()?;
    let client = Client::try_default().await?;
    let namespace =
        settings.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let Some(broker) = settings.redis.connect(&process.shutdown).await? else { return Ok(()) };
    // A process that starts anew under the same name is another one.
    let me = format!("{}-{}", settings.identity, Timestamp::now().as_millisecond());
    let (leading, leads) = watch::channel(false);
    let candidate =
        Candidate::new(Api::namespaced(client.clone(), &namespace), MANAGER, me.clone());
    let standing = tokio::spawn(candidate.stand(leading, process.shutdown.clone()));
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(me) };
    let observer = broker.observer().await?;
    let metrics = &settings.external_metrics;
    let external = match metrics.listen {
        Some(listen) => {
            let source = Source { observer: observer.clone(), namespace: namespace.clone() };
            Some(external::serve(listen, metrics, source)?.0)
        }
        None => None,
    };
    let context = Arc::new(Context {
        observer,
        controller: broker.controller().await?,
        recorder: Recorder::new(client.clone(), reporter),
        defaults,
        metrics: ControllerMetrics::register(&process.registry)?,
        leads,
        started: Instant::now(),
        fleets: Fleets::default(),
        others: Others::default(),
        client: client.clone(),
    });
    info!(namespace, "controlling");
    process.readiness.ready();
    // Each fleet is looked at every tick, whatever happens to its objects, so only fleets are
    // watched.
    Controller::new(Api::<ModelFleet>::namespaced(client, &namespace), watcher::Config::default())
        .graceful_shutdown_on(process.shutdown.clone().cancelled_owned())
        .run(reconcile, |fleet, error, context| after(&fleet, error, &context), context)
        .for_each(|_| async {})
        .await;
    if let Some(external) = external {
        external.stop(false).await;
    }
    Ok(standing.await?)
}
