//! A gateway and a worker in one process, with the queue in memory: `batchfleet serve`.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use batchfleet_broker::{Broker, memory::MemoryBroker};
use batchfleet_gateway::{Gateway, GatewaySettings, LivePage};
use batchfleet_service::Process;
use batchfleet_worker::{EXIT_DEVICE, ModelSettings, Worker, WorkerError, leave};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::error;

use crate::live_controls;

/// A running gateway and its worker.
pub(crate) struct OneProcess {
    gateway: Gateway,
    worker: Worker,
    worker_shutdown: CancellationToken,
    /// The task behind the controls of the live page; aborted on drop.
    _live_controls: Option<AbortOnDropHandle<()>>,
}

impl OneProcess {
    /// Loads the models, then starts to listen.
    pub(crate) async fn start(
        gateway: &GatewaySettings,
        models: &ModelSettings,
        process: &Process,
    ) -> anyhow::Result<Self> {
        gateway.check()?;
        // Each job occupies a seat of the gateway, so the queue never holds more jobs than seats.
        let broker = Arc::new(MemoryBroker::new(gateway.max_in_flight));
        let worker_shutdown = CancellationToken::new();
        let worker = Worker::start(models, broker.clone(), process, worker_shutdown.clone())
            .await
            .map_err(WorkerError::report)?;
        // The callers of the live page have no credentials and speak plain HTTP, so the controls are
        // off where either is not enough.
        let has_controls = gateway.live_page == LivePage::Everywhere
            && !gateway.has_access_control()
            && gateway.tls.tls_cert.is_none();
        let gateway = Gateway::start(gateway, broker.as_ref(), process).await?;
        let live_controls = if has_controls {
            let (wishes, controller) = (gateway.live_controls(), broker.controller().await?);
            let following = live_controls::follow(wishes, gateway.address(), controller);
            let following = process.shutdown.clone().run_until_cancelled_owned(following);
            let task = tokio::spawn(async { following.await.unwrap_or_default() });
            Some(AbortOnDropHandle::new(task))
        } else {
            None
        };
        Ok(Self { gateway, worker, worker_shutdown, _live_controls: live_controls })
    }

    /// The address for clients.
    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Serves until the shutdown. The worker stops after the gateway, so that accepted requests are
    /// answered. If the worker fails, the process ends, so that a supervisor can restart it.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { gateway, worker, worker_shutdown, _live_controls } = self;
        let mut worker = pin!(worker.join());
        let served = tokio::select! {
            served = gateway.run() => served,
            failed = &mut worker => return ended(failed).map_err(WorkerError::report),
        };
        worker_shutdown.cancel();
        ended(worker.await).map_err(WorkerError::report)?;
        served
    }
}

/// Handles the end of the worker. After the loss of a device the process exits immediately.
fn ended(result: Result<(), WorkerError>) -> Result<(), WorkerError> {
    match result {
        Err(error) if error.is_device() => {
            leave(EXIT_DEVICE, || error!(%error, "device lost: exiting at once"))
        }
        result => result,
    }
}
