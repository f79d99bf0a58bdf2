//! Builds a gateway from its parts, top to bottom, and runs it.

use std::{io, net::SocketAddr, sync::Arc};

use actix_web::{dev::Server, web::Data};
use batchfleet_broker::{
    Broker, BrokerError, GatewayId, GatewayRoles, Inbound, Observer, Producer, Replies,
};
use batchfleet_service::Process;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Duration, Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    body::{BodyBudget, Bounds},
    catalog::Catalog,
    clients::{Clients, KeysError},
    dispatch::{Dispatcher, hand_over},
    http::{self, Api},
    live::{self, Live, LiveControls},
    metrics::GatewayMetrics,
    offload::Offload,
    roster::Roster,
    settings::GatewaySettings,
    sweep,
    trace::Traces,
};

/// How often workers and queues are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// A queue this full, as a share of its memory, takes no more: what is left is for answers.
const FULL: f64 = 0.8;
/// How often it is said what was asked.
const REPORT: Duration = Duration::from_secs(1);

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The queues are out of reach.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The address is taken, or not ours.
    #[error("cannot listen on --listen {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The clients' keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Two parts of the process use one metric name.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// A gateway that accepts connections.
pub struct Gateway {
    server: Server,
    address: SocketAddr,
    tasks: JoinSet<()>,
    api: Data<Api>,
}

impl Gateway {
    /// Connects, starts the tasks that learn models and receive replies, and binds.
    ///
    /// # Errors
    ///
    /// [`StartError`]
    pub async fn start(
        settings: &GatewaySettings,
        broker: &dyn Broker,
        process: &Process,
    ) -> Result<Self, StartError> {
        let id = GatewayId::random();
        let metrics = GatewayMetrics::register(&process.registry)?;
        let GatewayRoles { producer, replies } = broker.gateway(id).await?;
        let observer = broker.observer().await?;
        let reporter = producer.clone();
        let draining = CancellationToken::new();
        let dispatcher = Arc::new(Dispatcher::new(
            id,
            producer,
            settings.max_in_flight,
            draining.clone(),
            metrics.clone(),
        ));
        let api = Data::new(Api {
            catalog: Catalog::new(metrics.clone()),
            dispatcher: dispatcher.clone(),
            metrics: metrics.clone(),
            clients: Clients::new(&settings.clients)?,
            body: Bounds { bytes: settings.max_body, time: settings.body_timeout },
            budget: BodyBudget::new(settings.max_body_bytes_in_flight, metrics.body_bytes.clone()),
            offload: Offload::new(),
            deadline: settings.deadline,
            max_deadline: settings.max_deadline,
            readiness: process.readiness.clone(),
            started: Instant::now(),
            live: Live::new(settings.live_page, id),
            traces: Traces::new(process.tracer.clone(), settings.trace_sample),
        });
        // The first look comes before the first request, so that no known model is a 404.
        api.catalog.update(observer.fleet().await?);
        let mut tasks = JoinSet::new();
        let interrupted = Arc::new(Notify::new());
        tasks.spawn(hand_over(dispatcher.clone()));
        tasks.spawn(receive(replies, dispatcher.clone(), interrupted.clone()));
        tasks.spawn(sweep::run(dispatcher, interrupted));
        tasks.spawn(look(observer, api.clone()));
        let (plays, page) = (api.clone(), api.clone());
        process.pages.show(move |request| live::answer(&page, live::Port::Admin, request));
        tasks.spawn(report(reporter, api.clone()));
        tasks.spawn(api.clients.clone().follow());
        let going = going(settings.lame_duck, process.shutdown.clone(), draining);
        let (server, address) = http::listen(settings, api, process.shutdown.clone(), going)
            .map_err(|error| StartError::Listen(settings.listen, error))?;
        plays.live.opened(address.port());
        info!(%address, port_name = "http", gateway = %id, "listening");
        process.readiness.ready();
        Ok(Self { server, address, tasks, api: plays })
    }

    /// The bound address; tells the port when the settings asked for any.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The live controls. The live page offers them only while a receiver exists, and only to
    /// browsers on this machine.
    pub fn live_controls(&self) -> watch::Receiver<LiveControls> {
        self.api.live.controls()
    }

    /// Serves until shutdown; accepted requests are answered before it returns.
    ///
    /// # Errors
    ///
    /// What broke the listener.
    pub async fn run(mut self) -> io::Result<()> {
        let served = self.server.await;
        self.tasks.shutdown().await;
        served
    }
}

/// Ends when the listener should close: some time after the signal to stop. Until then this gateway
/// serves as before, but is not ready, and closes each connection after its next answer, so that
/// clients and load balancers move on without an error.
async fn going(lame_duck: Duration, shutdown: CancellationToken, draining: CancellationToken) {
    shutdown.cancelled().await;
    sleep(lame_duck).await;
    draining.cancel();
}

/// Task: replies from the broker to the requests they belong to.
pub(crate) async fn receive(
    mut inbox: Box<dyn Replies>,
    dispatcher: Arc<Dispatcher>,
    interrupted: Arc<Notify>,
) {
    loop {
        match inbox.receive().await {
            Inbound::Replies(replies) => {
                for reply in replies {
                    dispatcher.resolve(reply);
                }
            }
            Inbound::Interrupted(_) => {
                warn!("the queue was interrupted; looking for what it may have lost");
                dispatcher.metrics.interruptions.inc();
                interrupted.notify_one();
            }
        }
    }
}

/// Task: looks at workers and queues; the catalogue, admission and the queue metrics follow.
async fn look(observer: Arc<dyn Observer>, api: Data<Api>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut roster = Roster::default();
    let mut was_reachable = true;
    loop {
        ticks.tick().await;
        let looked = look_once(observer.as_ref(), &mut roster, &api).await;
        if let Err(error) = &looked {
            api.metrics.broker_failed(error);
        }
        match &looked {
            Err(error) if was_reachable => warn!(%error, "cannot look at the queues"),
            Ok(()) if !was_reachable => info!("can look at the queues again"),
            _ => {}
        }
        was_reachable = looked.is_ok();
        api.catalog.all().iter().for_each(|model| model.tick());
        api.live.tick();
    }
}

/// Task: says what was asked of the fleet here, for whoever decides how large it should be.
async fn report(producer: Arc<dyn Producer>, api: Data<Api>) {
    let mut ticks = interval(REPORT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let models = api.catalog.all();
        for model in &models {
            api.catalog.publish(model);
        }
        let traffic: Vec<_> = models.iter().map(|model| model.traffic()).collect();
        if let Err(error) = producer.report(&traffic).await {
            // The task that looks tells when the queues are out of reach.
            debug!(%error, "not said what was asked");
        }
    }
}

async fn look_once(
    observer: &dyn Observer,
    roster: &mut Roster,
    api: &Api,
) -> Result<(), BrokerError> {
    let snapshot = observer.fleet().await?;
    api.catalog.update(roster.complete(snapshot, Instant::now()));
    for model in api.catalog.all() {
        let backlog = observer.backlog(&model.spec.queue).await?;
        api.catalog.report(&model, api.started.elapsed(), backlog);
    }
    api.catalog.elect(api.started.elapsed());
    let asked = Instant::now();
    let memory = observer.memory().await?;
    api.metrics.broker_seconds.observe(asked.elapsed().as_secs_f64());
    let fullest = memory.iter().map(|shard| shard.used).fold(0.0, f64::max);
    api.metrics.fleet.broker_memory.set(fullest);
    api.dispatcher.set_queue_full(fullest >= FULL);
    Ok(())
}
