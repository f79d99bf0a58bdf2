//! `batchfleet-worker`: the worker program, with Redis as its broker.

use std::{process::ExitCode, sync::Arc};

use batchfleet_service::{Process, run, settings::parse};
use batchfleet_worker::{EXIT_DEVICE, Loaded, WorkerError, WorkerSettings, leave};
use tracing::error;

fn main() -> ExitCode {
    match parse::<WorkerSettings>() {
        Ok(settings) => {
            run(env!("CARGO_BIN_NAME"), &settings.process, |process| serve(&settings, process))
        }
        Err(status) => ExitCode::from(status),
    }
}

async fn serve(settings: &WorkerSettings, process: Process) -> anyhow::Result<()> {
    let shutdown = process.shutdown.clone();
    // Check the Redis address first, because loading models may take minutes.
    settings.redis.address()?;
    let loaded = Loaded::load(&settings.models, &process, &shutdown).await;
    let loaded = loaded.map_err(WorkerError::report)?;
    let Some(broker) = settings.redis.connect(&shutdown).await? else { return Ok(()) };
    let worker = loaded.serve(Arc::new(broker), shutdown, settings.process.drain_timeout).await;
    if worker.ready() {
        process.readiness.ready();
    }
    match worker.join().await {
        Err(error) if error.is_device() => {
            error!(%error, "device lost: exiting, for other workers to take over");
            leave(EXIT_DEVICE)
        }
        outcome => Ok(outcome?),
    }
}
