//! A gateway and a worker in one process, with the queue in its memory.

use std::{net::SocketAddr, sync::Arc};

use batchfleet_broker::memory::MemoryBroker;
use batchfleet_gateway::{Gateway, GatewaySettings};
use batchfleet_service::Process;
use batchfleet_worker::{ModelSettings, Worker, WorkerError};
use tokio_util::sync::CancellationToken;

/// A serving gateway and the worker behind it.
pub(crate) struct Fleet {
    gateway: Gateway,
    worker: Worker,
    worker_shutdown: CancellationToken,
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
        let worker =
            Worker::start(models, broker.clone(), &process.registry, worker_shutdown.clone())
                .await
                .map_err(WorkerError::report)?;
        let gateway = Gateway::start(gateway, broker.as_ref(), process).await?;
        Ok(Self { gateway, worker, worker_shutdown })
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Serves until the process shuts down. The worker stops last: what the gateway accepted is
    /// still answered.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let served = self.gateway.run().await;
        self.worker_shutdown.cancel();
        self.worker.join().await?;
        Ok(served?)
    }
}
