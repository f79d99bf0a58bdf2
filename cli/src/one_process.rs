//! A gateway and its workers in one process, with the queue in memory: `batchfleet serve`.

use std::{net::SocketAddr, sync::Arc};

use batchfleet_broker::{Broker, memory::MemoryBroker};
use batchfleet_gateway::{Gateway, GatewaySettings, LivePage};
use batchfleet_service::Process;
use batchfleet_worker::{ModelSettings, WorkerError, WorkerResources};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    live_controls,
    model_control::{self, ModelControlSettings, WorkerParts},
    workers::{EndedWorkers, Workers},
};

/// A running gateway and its workers.
pub(crate) struct OneProcess {
    gateway: Gateway,
    workers: Arc<Workers>,
    ended: EndedWorkers,
    /// The task behind the controls of the live page; aborted on drop.
    _live_controls: Option<AbortOnDropHandle<()>>,
}

impl OneProcess {
    /// Loads the models, then starts to listen.
    pub(crate) async fn start(
        gateway: &GatewaySettings,
        models: &ModelSettings,
        control: &ModelControlSettings,
        process: &Process,
    ) -> anyhow::Result<Self> {
        gateway.check()?;
        // Each job occupies a seat of the gateway, so the queue never holds more jobs than seats.
        let broker = Arc::new(MemoryBroker::new(gateway.max_in_flight));
        let (workers, ended) = Workers::new();
        let workers = Arc::new(workers);
        let resources = WorkerResources::new(process).map_err(WorkerError::report)?;
        let parts = WorkerParts { resources, broker: broker.clone(), workers: workers.clone() };
        let control = model_control::start(control, models, parts).await;
        let control = control.map_err(WorkerError::report)?;
        // The callers of the live page have no credentials and speak plain HTTP, so the controls are
        // off where either is not enough.
        let has_controls = gateway.live_page == LivePage::Everywhere
            && !gateway.has_access_control()
            && gateway.tls.tls_cert.is_none();
        let gateway = Gateway::start(gateway, broker.as_ref(), process, control).await?;
        let live_controls = if has_controls {
            let (wishes, controller) = (gateway.live_controls(), broker.controller().await?);
            let following = live_controls::follow(wishes, gateway.address(), controller);
            let following = process.shutdown.clone().run_until_cancelled_owned(following);
            let task = tokio::spawn(async { following.await.unwrap_or_default() });
            Some(AbortOnDropHandle::new(task))
        } else {
            None
        };
        Ok(Self { gateway, workers, ended, _live_controls: live_controls })
    }

    /// The address for clients.
    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Serves until the shutdown. The workers stop after the gateway, so that accepted requests are
    /// answered. If a worker fails, the process ends, so that a supervisor can restart it.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { gateway, workers, mut ended, _live_controls } = self;
        let served = tokio::select! {
            served = gateway.run() => served,
            ended = ended.next() => return ended.map_err(WorkerError::report),
        };
        workers.stop().await;
        ended.failure().map_err(WorkerError::report)?;
        served
    }
}
