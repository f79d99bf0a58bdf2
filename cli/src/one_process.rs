//! A gateway and a worker in one process, with the queue in its memory.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use batchfleet_broker::{Broker, memory::MemoryBroker};
use batchfleet_gateway::{Gateway, GatewaySettings, LivePage};
use batchfleet_service::Process;
use batchfleet_worker::{EXIT_DEVICE, ModelSettings, Worker, WorkerError, leave};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::error;

use crate::play;

/// A serving gateway and the worker behind it.
pub(crate) struct Fleet {
    gateway: Gateway,
    worker: Worker,
    worker_shutdown: CancellationToken,
    /// What is tried out on the live page; ends with this.
    _play: Option<AbortOnDropHandle<()>>,
}

impl Fleet {
    /// Loads the models, then opens the door.
    pub(crate) async fn start(
        gateway: &GatewaySettings,
        models: &ModelSettings,
        process: &Process,
    ) -> anyhow::Result<Self> {
        gateway.check()?;
        // Every job has a seat at the one gateway, so its seats bound the queue.
        let broker = Arc::new(MemoryBroker::new(gateway.max_in_flight));
        let worker_shutdown = CancellationToken::new();
        let worker = Worker::start(models, broker.clone(), process, worker_shutdown.clone())
            .await
            .map_err(WorkerError::report)?;
        // Callers from here would need a key.
        let plays = gateway.live_page == LivePage::Everywhere && gateway.clients.api_keys.is_none();
        let gateway = Gateway::start(gateway, broker.as_ref(), process).await?;
        let play = if plays {
            let (wishes, controller) = (gateway.live_controls(), broker.controller().await?);
            let playing = play::follow(wishes, gateway.address(), controller);
            let playing = process.shutdown.clone().run_until_cancelled_owned(playing);
            Some(AbortOnDropHandle::new(tokio::spawn(async { playing.await.unwrap_or_default() })))
        } else {
            None
        };
        Ok(Self { gateway, worker, worker_shutdown, _play: play })
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Serves until the process shuts down. The worker stops last: what the gateway accepted is
    /// still answered. A worker that ends by itself has failed, and takes the process along: whoever
    /// supervises it starts a new one.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { gateway, worker, worker_shutdown, _play } = self;
        let mut worker = pin!(worker.join());
        let served = tokio::select! {
            served = gateway.run() => served,
            failed = &mut worker => return Ok(settle(failed)?),
        };
        worker_shutdown.cancel();
        settle(worker.await)?;
        Ok(served?)
    }
}

/// How a worker ended; after the loss of its device the process does at once.
fn settle(ended: Result<(), WorkerError>) -> Result<(), WorkerError> {
    match ended {
        Err(error) if error.is_device() => {
            error!(%error, "leaving at once: the device is lost to this process");
            leave(EXIT_DEVICE)
        }
        ended => ended,
    }
}
