//! Builds and runs a gateway.

use std::{
    future::pending, net::SocketAddr, num::NonZero, sync::Arc, thread::available_parallelism,
};

use batchfleet_broker::{Broker, BrokerError, GatewayId, Observer, Producer};
use batchfleet_service::{LongTasks, Process};
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    access::AccessLog,
    api::Api,
    ask::Core,
    availability::{self, Outlook},
    body::Bounds,
    catalog::Catalog,
    clients::{Clients, ClientsError},
    dispatch::Dispatcher,
    live::{
        self, LiveControls,
        state::{Live, Port},
    },
    memory::{self, MemoryBudget},
    metrics::GatewayMetrics,
    model_control::{ControlledModels, LookNow, ModelControl, Models},
    observe,
    offload::Offload,
    peers,
    refusal_pace::RefusalPace,
    server::{self, Addresses, ListenError, Server},
    settings::GatewaySettings,
    tensor_port::TensorPort,
    tls::{Tls, TlsError},
    trace::Traces,
    usage::Usage,
};

/// The reason why a gateway fails to start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Redis is unreachable, or configured in a way that risks the loss of jobs.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// An address is in use, or does not belong to this machine.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A TLS file cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Access control cannot start.
    #[error(transparent)]
    Clients(#[from] ClientsError),
    /// Two parts of the process use the same metric name.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// A gateway that accepts connections.
pub struct Gateway {
    server: Server,
    addresses: Addresses,
    tasks: LongTasks,
    api: Arc<Api>,
}

impl Gateway {
    /// Connects to the broker, starts the gateway's tasks, and opens the port for clients. `control`
    /// tells whether clients may load and unload models.
    ///
    /// # Errors
    ///
    /// [`StartError`]
    pub async fn start(
        settings: &GatewaySettings,
        broker: &dyn Broker,
        process: &Process,
        control: ModelControl,
    ) -> Result<Self, StartError> {
        let id = GatewayId::random();
        let metrics = GatewayMetrics::new(&process.registry)?;
        let roles = broker.gateway(id).await?;
        let producer = roles.producer.clone();
        let observer = broker.observer().await?;
        let draining = CancellationToken::new();
        let (seats, stop) = (settings.max_in_flight, draining.clone());
        let (dispatcher, mut tasks) = Dispatcher::start(id, roles, seats, stop, &metrics);
        let certificates = settings.tls.tls_client_ca.is_some();
        let clients = Clients::new(&settings.clients, certificates, &metrics.access)?;
        clients.prepare().await;
        let catalog = Catalog::new(metrics.clone(), settings.forget_after);
        // Read the announced models before binding the port: no request for them gets 404.
        catalog.update(observer.fleet().await?);
        let (looks, look_requests) = mpsc::channel(1);
        let core = Arc::new(Core {
            models: models(control, &catalog, looks, process.shutdown.clone()),
            catalog,
            clients,
            dispatcher,
            usage: Usage::new(settings.usage_series, metrics.usage.clone()),
            metrics,
            deadline: settings.deadline,
            max_deadline: settings.max_deadline,
            pace: RefusalPace::default(),
        });
        let api = Arc::new(api(settings, core.clone(), id, process));
        let (page, ticking, redis) = (api.clone(), api.clone(), observer.clone());
        process.pages.show(move |request| {
            let is_allowed = redis.health().denied.is_none();
            let reaches_redis = is_allowed && page.core.dispatcher.is_reachable();
            peers::answer(request, reaches_redis)
                .or_else(|| live::answer(&page, Port::Admin, request))
        });
        let tasks_of = GatewayTasks { producer, observer, core: core.clone(), look_requests };
        tasks_of.spawn(settings, process, move || ticking.live.tick(), &mut tasks);
        if let Some(address) = settings.tensors_listen {
            offer_inputs(settings, address, process.admin_address, &core, &mut tasks).await?;
        }
        warn_if_open(settings);
        let tls = Tls::new(&settings.tls, &core.metrics.access, &api.connection_memory)?;
        if let Some(tls) = tls.clone() {
            tasks.spawn("TLS certificates", tls.follow());
        }
        // The server has as many threads.
        batchfleet_heap::keep_less(available_parallelism().map_or(1, NonZero::get));
        let budgets = vec![api.budget.clone(), api.connection_memory.clone()];
        tasks.spawn("return of freed memory", memory::return_freed(budgets));
        let going = going(settings.lame_duck, process.shutdown.clone(), draining);
        let (server, addresses) =
            server::listen(settings, tls, api.clone(), process.shutdown.clone(), going)?;
        let address = addresses.http;
        api.live.opened(address.port());
        info!(%address, port_name = "http", gateway = %id, "listening");
        if let Some(address) = addresses.grpc {
            info!(%address, port_name = "grpc", gateway = %id, "listening");
        }
        process.readiness.ready();
        Ok(Self { server, addresses, tasks, api })
    }

    /// The bound address. If the settings ask for port 0, the address contains the port that the
    /// system chose.
    pub fn address(&self) -> SocketAddr {
        self.addresses.http
    }

    /// The bound address for gRPC, if the settings name one.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.addresses.grpc
    }

    /// The live controls. The live page offers the controls only while a receiver exists, and only
    /// to browsers on this machine.
    pub fn live_controls(&self) -> watch::Receiver<LiveControls> {
        self.api.live.controls()
    }

    /// Serves until shutdown, and answers all accepted requests before returning.
    ///
    /// # Errors
    ///
    /// The listener failed, or [`TaskEnded`](batchfleet_service::TaskEnded): a task of the gateway
    /// has ended or panicked.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let served = tokio::select! {
            served = self.server => served,
            ended = self.tasks.ended() => return Err(ended.into()),
        };
        self.tasks.shutdown().await;
        Ok(served?)
    }
}

/// What the tasks of a gateway beside those of its dispatcher share.
struct GatewayTasks {
    producer: Arc<dyn Producer>,
    observer: Arc<dyn Observer>,
    core: Arc<Core>,
    look_requests: mpsc::Receiver<LookNow>,
}

impl GatewayTasks {
    /// Starts the tasks; `tick` is called after each poll of the queues.
    fn spawn(
        self,
        settings: &GatewaySettings,
        process: &Process,
        tick: impl Fn() + Send + 'static,
        tasks: &mut LongTasks,
    ) {
        let Self { producer, observer, core, look_requests } = self;
        let outlook = Outlook {
            producer: producer.clone(),
            observer: observer.clone(),
            admin: process.admin_address,
        };
        let (readiness, when) = (process.readiness.clone(), settings.ready_when());
        let following = availability::follow(outlook, core.clone(), readiness, when);
        tasks.spawn("connection to Redis", following);
        let looking = observe::look(observer, core.clone(), look_requests, tick);
        tasks.spawn("observation of the fleet", looking);
        tasks.spawn("traffic reports", observe::report(producer, core.clone()));
        let clients = core.clients.clone();
        tasks.spawn("API keys", async move {
            clients.follow().await;
            // Without a file of keys there is nothing to follow.
            pending::<()>().await;
        });
    }
}

/// Opens the port for workers, and begins to offer inputs there.
async fn offer_inputs(
    settings: &GatewaySettings,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    core: &Core,
    tasks: &mut LongTasks,
) -> Result<(), ListenError> {
    let flag = "--tensors-listen";
    let port = TensorPort::bind(address);
    let port = port.await.map_err(|error| ListenError { flag, address, error })?;
    info!(address = %port.address, port_name = "tensors", "listening");
    let advertised = settings.tensors_advertise.unwrap_or(port.address);
    if advertised.ip().is_unspecified() && admin.is_none_or(|admin| admin.ip().is_loopback()) {
        warn!(
            "workers cannot fetch inputs: set --tensors-advertise to the address of this gateway"
        );
    }
    let (from, most) = (settings.fetch_from, settings.max_body_bytes_in_flight);
    let requests = core.dispatcher.offer_inputs(from, advertised, most);
    tasks.spawn("port for workers", port.serve(requests, core.metrics.tensors.clone()));
    Ok(())
}

/// How models are loaded and unloaded, given those that are announced.
fn models(
    control: ModelControl,
    catalog: &Catalog,
    looks: mpsc::Sender<LookNow>,
    shutdown: CancellationToken,
) -> Models {
    match control {
        ModelControl::Refused(way) => Models::Fixed(way),
        ModelControl::Explicit { loader, failed } => {
            for (model, reason) in &failed {
                catalog.unavailable().failed(model, reason);
            }
            let loaded = catalog.all().into_iter().map(|model| model.spec.queue.model.clone());
            Models::Controlled(ControlledModels::new(loader, loaded, looks, shutdown))
        }
    }
}

/// Logs that the gateway has no access control, as a warning if other machines can reach it.
fn warn_if_open(settings: &GatewaySettings) {
    if settings.has_access_control() {
        return;
    }
    if settings.listen.ip().is_loopback() {
        info!("requests need no API key: --api-keys is not set");
        return;
    }
    warn!(
        address = %settings.listen,
        "requests need no authentication: any client that reaches this address may use all models; set \
         --api-keys, --jwt-issuer or --tls-client-ca, or listen on 127.0.0.1"
    );
}

/// Builds the state shared by the HTTP handlers.
fn api(settings: &GatewaySettings, core: Arc<Core>, id: GatewayId, process: &Process) -> Api {
    let body_bytes = core.metrics.body_bytes.clone();
    let connection_bytes = core.metrics.connections.bytes.clone();
    Api {
        body: Bounds { bytes: settings.max_body, time: settings.body_timeout },
        budget: MemoryBudget::new(settings.max_body_bytes_in_flight, body_bytes),
        connection_memory: MemoryBudget::new(settings.max_connection_bytes, connection_bytes),
        offload: Offload::new(),
        readiness: process.readiness.clone(),
        strict_readiness: settings.strict_readiness,
        access_log: AccessLog::new(settings.access_log),
        live: Live::new(settings.live_page, id, settings.tls.tls_cert.is_some()),
        traces: Traces::new(process.tracer.clone(), settings.trace_sample),
        core,
    }
}

/// Completes `lame_duck` after the shutdown signal, when the listener should close. Until then the
/// gateway accepts requests but reports itself as not ready, and closes each connection after its
/// next response, so that clients and load balancers move on without an error.
async fn going(lame_duck: Duration, shutdown: CancellationToken, draining: CancellationToken) {
    shutdown.cancelled().await;
    sleep(lame_duck).await;
    draining.cancel();
}
