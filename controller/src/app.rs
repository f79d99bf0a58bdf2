//! Builds a controller from its parts and runs it.

use std::{future::pending, sync::Arc};

use actix_web::dev::ServerHandle;
use batchfleet_broker::{Observer, sharded::WORKERS_PER_SHARD};
use batchfleet_service::{
    InvalidSettings, LongTasks, OutageSettings, Process, Readiness, TaskEnded, follow_outages,
};
use futures_util::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    runtime::{Controller, events::Reporter, watcher},
};
use tokio::{select, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    cluster::Cluster,
    crd::ModelFleet,
    external::{self, DepthSource},
    late_broker::LateBroker,
    lease::LeaderCandidate,
    metrics::ControllerMetrics,
    objects::MANAGER,
    reconcile::{Context, EventSink, FleetStates, after, reconcile},
    settings::ControllerSettings,
    snapshot::Snapshots,
};

/// Controls the fleets of a namespace until shutdown. While Redis is unreachable, also at the start, the
/// controller keeps the objects of fleets, and their statuses say so.
///
/// # Errors
/// Contradictory settings, or a cluster or Redis that cannot be reached.
pub async fn control(settings: &ControllerSettings, process: Process) -> anyhow::Result<()> {
    let defaults = settings.workers()?;
    let client = Client::try_default().await?;
    let namespace =
        settings.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    settings.redis.addresses()?;
    let broker = Arc::new(LateBroker::new());
    // The start time makes the identity unique: a process that restarts under the same name is a
    // new candidate.
    let identity = format!("{}-{}", settings.identity, Timestamp::now().as_millisecond());
    let (leading, leads) = watch::channel(false);
    let mut tasks = LongTasks::default();
    let leases = Api::namespaced(client.clone(), &namespace);
    let candidate = LeaderCandidate::new(leases, MANAGER, identity.clone());
    let released = elect(candidate, leading, &process.shutdown, &mut tasks);
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(identity) };
    let observer: Arc<dyn Observer> = broker.clone();
    follow_redis(&observer, &process.readiness, settings.outage, &mut tasks);
    let snapshots = Arc::new(Snapshots::new(observer.clone()));
    let source = DepthSource {
        snapshots: snapshots.clone(),
        observer: observer.clone(),
        namespace: namespace.clone(),
    };
    let external = serve_depths(settings, source, &client, &process.shutdown, &mut tasks)?;
    let (cluster, watches) = Cluster::new(&client, &namespace);
    let context = Arc::new(Context {
        cluster,
        snapshots,
        observer,
        controller: broker.clone(),
        events: EventSink { client: client.clone(), reporter },
        defaults,
        users: settings.model_users(&client, &namespace)?.map(Arc::new),
        metrics: ControllerMetrics::registered(&process.registry)?,
        leads,
        started: Instant::now(),
        fleets: FleetStates::default(),
    });
    info!(namespace, "controlling fleets");
    tidy(&context, &mut tasks);
    // Only fleets trigger turns. Changes of a fleet's objects do not, because each fleet has a turn
    // every tick anyway.
    let turns = Controller::new(
        Api::<ModelFleet>::namespaced(client, &namespace),
        watcher::Config::default(),
    )
    .graceful_shutdown_on(process.shutdown.clone().cancelled_owned())
    .run(reconcile, |fleet, error, context| after(&fleet, error, &context), context)
    .for_each(|_| async {});
    select! {
        () = turns => {}
        Err(failed) = connect(settings, &broker, &process) => return Err(failed),
        () = watches => return Err(TaskEnded::returned("watches of the cluster").into()),
        ended = tasks.ended() => return Err(ended.into()),
    }
    if let Some(external) = external {
        external.stop(false).await;
    }
    select! {
        () = released.cancelled() => Ok(()),
        ended = tasks.ended() => Err(ended.into()),
    }
}

/// Connects to Redis. Then never returns, because the end of this function is the end of the program.
async fn connect(
    settings: &ControllerSettings,
    broker: &LateBroker,
    process: &Process,
) -> anyhow::Result<()> {
    if let Some(connected) = settings.redis.connect(&process.shutdown, WORKERS_PER_SHARD).await? {
        broker.connected(connected.as_ref()).await?;
        info!("connected to Redis");
        process.readiness.ready();
    }
    pending().await
}

/// Starts the election. Returns a token that is cancelled once the lease is released, after the
/// shutdown.
fn elect(
    candidate: LeaderCandidate,
    leading: watch::Sender<bool>,
    shutdown: &CancellationToken,
    tasks: &mut LongTasks,
) -> CancellationToken {
    let released = CancellationToken::new();
    let (shutdown, done) = (shutdown.clone(), released.clone());
    tasks.spawn("leader election", async move {
        candidate.run(leading, shutdown).await;
        done.cancel();
        // To end is right now, and must not count as a failure.
        pending::<()>().await;
    });
    released
}

/// Serves queue depths to autoscalers, if the settings name an address.
fn serve_depths(
    settings: &ControllerSettings,
    source: DepthSource,
    client: &Client,
    shutdown: &CancellationToken,
    tasks: &mut LongTasks,
) -> Result<Option<ServerHandle>, InvalidSettings> {
    let settings = &settings.external_metrics;
    let Some(listen) = settings.listen else { return Ok(None) };
    let serving = external::serve(listen, settings, source, client)?;
    if let Some(maintenance) = serving.maintenance {
        tasks.spawn("certificates of the metrics API", maintenance.run());
    }
    let shutdown = shutdown.clone();
    tasks.spawn("metrics API", async move {
        // Whatever the outcome, the server must not end before the shutdown.
        drop(serving.server.await);
        if shutdown.is_cancelled() {
            pending::<()>().await;
        }
    });
    Ok(Some(serving.handle))
}

/// Starts the tasks that forget deleted fleets, and keep the Redis users of models.
fn tidy(context: &Arc<Context>, tasks: &mut LongTasks) {
    let forgetting = Arc::clone(context);
    tasks.spawn("deleted fleets", async move { forgetting.forget_deleted().await });
    if let Some(users) = context.users.clone() {
        let context = Arc::clone(context);
        tasks.spawn("Redis users of models", async move { users.run(context).await });
    }
}

fn follow_redis(
    observer: &Arc<dyn Observer>,
    readiness: &Readiness,
    settings: OutageSettings,
    tasks: &mut LongTasks,
) {
    let (observer, readiness) = (observer.clone(), readiness.clone());
    let following = follow_outages(move || observer.health(), readiness, settings);
    tasks.spawn("connection to Redis", following);
}
