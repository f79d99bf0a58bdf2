//! What the workers of one process share.

use std::sync::{Arc, Once};

use batchfleet_broker::QueueName;
use batchfleet_service::{
    Liveness, Process,
    metrics::{Labels, MetricGroup},
    trace::Tracer,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{engine::turns::DeviceTurns, error::WorkerError, gpus, metrics::WorkerMetrics};

/// The metrics, the traces, the liveness checks and the devices of a process, for all its workers.
/// Clones share them.
#[derive(Clone, Debug)]
pub struct WorkerResources {
    pub(crate) metrics: WorkerMetrics,
    pub(crate) tracer: Tracer,
    pub(crate) liveness: Liveness,
    /// Models of all workers take turns on a device.
    pub(crate) turns: Arc<Mutex<DeviceTurns>>,
    exports: Arc<Exports>,
    shutdown: CancellationToken,
}

/// The tasks that export the state of the machine, each started at most once.
#[derive(Debug)]
struct Exports {
    machine: Once,
    gpus: Once,
}

impl WorkerResources {
    /// Registers the metrics of workers with the process.
    ///
    /// # Errors
    ///
    /// The process already has the metrics of workers.
    pub fn new(process: &Process) -> Result<Self, WorkerError> {
        Ok(Self {
            metrics: WorkerMetrics::register(&process.registry)?,
            tracer: process.tracer.clone(),
            liveness: process.liveness.clone(),
            turns: Arc::default(),
            exports: Arc::new(Exports { machine: Once::new(), gpus: Once::new() }),
            shutdown: process.shutdown.clone(),
        })
    }

    /// Removes the metrics of a model version that no worker of the process serves any more.
    pub fn forget(&self, queue: &QueueName) {
        let version = queue.version.to_string();
        self.metrics.remove_series(&|labels: &Labels<'_>| {
            labels.get("model") == Some(&queue.model.as_str())
                && labels.get("version") == Some(&version.as_str())
        });
    }

    /// Starts to export the state of the machine, and of the GPUs if `uses_gpus`, until the shutdown of
    /// the process.
    pub(crate) fn export_machine(&self, uses_gpus: bool) {
        let shutdown = || self.shutdown.clone();
        self.exports.machine.call_once(|| {
            drop(tokio::spawn(self.metrics.machine.clone().watch(shutdown())));
        });
        if uses_gpus {
            self.exports.gpus.call_once(|| gpus::watch(self.metrics.gpus.clone(), shutdown()));
        }
    }
}
