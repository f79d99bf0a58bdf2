//! `batchfleet-worker`: one worker process on Redis.

use std::{process::ExitCode, sync::Arc};

use batchfleet_broker::redis::RedisBroker;
use batchfleet_service::{Process, run, settings::parse};
use batchfleet_worker::{Worker, WorkerError, WorkerSettings};

fn main() -> ExitCode {
    match parse::<WorkerSettings>() {
        Ok(settings) => run(&settings.process, |process| serve(&settings, process)),
        Err(status) => ExitCode::from(status),
    }
}

async fn serve(settings: &WorkerSettings, process: Process) -> anyhow::Result<()> {
    let Process { registry, readiness, shutdown } = process;
    settings.models.validate()?;
    let broker = Arc::new(RedisBroker::connect(&settings.redis_url).await?);
    let worker = Worker::start(&settings.models, broker, &registry, shutdown)
        .await
        .map_err(WorkerError::report)?;
    if worker.ready() {
        readiness.ready();
    }
    Ok(worker.join().await?)
}
