//! `batchfleet-worker`: one worker over Redis.

use std::{process::ExitCode, sync::Arc};

use batchfleet_broker::{BrokerError, redis::RedisBroker};
use batchfleet_service::{InvalidSettings, Process, run, settings::parse};
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
    let connecting = RedisBroker::connect(&settings.redis_url);
    let broker = match shutdown.run_until_cancelled(connecting).await {
        None => return Ok(()),
        Some(Err(BrokerError::Misconfigured(what))) => return Err(InvalidSettings(what).into()),
        Some(broker) => Arc::new(broker?),
    };
    let worker = Worker::start(&settings.models, broker, &registry, shutdown).await;
    let worker = worker.map_err(WorkerError::report)?;
    if worker.ready() {
        readiness.ready();
    }
    Ok(worker.join().await?)
}
