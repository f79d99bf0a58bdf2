//! The workers of a process.

use batchfleet_worker::{EXIT_DEVICE, Worker, WorkerError, leave};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

/// Starts workers, and stops them together.
pub(crate) struct Workers {
    shutdown: CancellationToken,
    tasks: TaskTracker,
    ended: mpsc::UnboundedSender<Result<(), WorkerError>>,
}

/// Receives the results of workers that ended although nothing stopped them.
pub(crate) struct EndedWorkers(mpsc::UnboundedReceiver<Result<(), WorkerError>>);

/// A worker that can be stopped before the others.
pub(crate) struct RunningWorker {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Workers {
    /// No workers yet.
    pub(crate) fn new() -> (Self, EndedWorkers) {
        let (ended, ends) = mpsc::unbounded_channel();
        let workers = Self { shutdown: CancellationToken::new(), tasks: TaskTracker::new(), ended };
        (workers, EndedWorkers(ends))
    }

    /// Cancelled when all workers are to stop.
    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Runs a worker until `stop`, a child of [`Workers::shutdown`]. After the loss of a device the process
    /// exits immediately.
    pub(crate) fn run(&self, worker: Worker, stop: CancellationToken) -> RunningWorker {
        let (ended, until, all) = (self.ended.clone(), stop.clone(), self.shutdown.clone());
        let task = self.tasks.spawn(async move {
            let engines = worker.engines();
            let result = worker.join().await;
            if let Err(error) = &result
                && error.is_device()
            {
                leave(EXIT_DEVICE, || error!(%error, "device lost: exiting at once"));
            }
            if result.is_err() || !until.is_cancelled() {
                // Without a receiver the process is about to end.
                ended.send(result).ok();
                return;
            }
            // The end of the process frees the engines as well.
            all.run_until_cancelled(engines.ended()).await;
        });
        RunningWorker { stop, task }
    }

    /// Stops all workers: they finish what they have claimed.
    pub(crate) async fn stop(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl EndedWorkers {
    /// Waits until a worker ends by itself; cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<(), WorkerError> {
        // Never `None` while workers can be started.
        self.0.recv().await.unwrap_or(Ok(()))
    }

    /// The error of a worker that has failed, if any.
    pub(crate) fn failure(&mut self) -> Result<(), WorkerError> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }
}

impl RunningWorker {
    /// Stops the worker. Returns after its engines have freed their memory.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // A panic is reported where all workers are waited for.
        self.task.await.ok();
    }
}
