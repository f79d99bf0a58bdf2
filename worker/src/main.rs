//! `batchfleet-worker`: one worker over Redis.

use std::{process::ExitCode, sync::Arc};

use batchfleet_broker::{BrokerError, redis::RedisBroker};
use batchfleet_service::{InvalidSettings, Process, run, settings::parse};
use batchfleet_worker::{EXIT_DEVICE, Loaded, WorkerError, WorkerSettings, leave};
use tracing::error;

fn main() -> ExitCode {
    match parse::<WorkerSettings>() {
        Ok(settings) => run(&settings.process, |process| serve(&settings, process)),
        Err(status) => ExitCode::from(status),
    }
}

async fn serve(settings: &WorkerSettings, process: Process) -> anyhow::Result<()> {
    let Process { registry, readiness, shutdown, .. } = process;
    // Loading models may take minutes: a wrong address is better known before.
    let redis = settings.redis.url()?;
    RedisBroker::check(&redis).map_err(InvalidSettings::new)?;
    let loaded = Loaded::load(&settings.models, &registry, &shutdown).await;
    let loaded = loaded.map_err(WorkerError::report)?;
    let connecting = RedisBroker::connect(&redis);
    let broker = match shutdown.run_until_cancelled(connecting).await {
        None => return Ok(()),
        Some(Err(BrokerError::Misconfigured(what))) => return Err(InvalidSettings(what).into()),
        Some(broker) => Arc::new(broker?),
    };
    let worker = loaded.serve(broker, shutdown, settings.process.drain_timeout).await;
    if worker.ready() {
        readiness.ready();
    }
    match worker.join().await {
        Err(error) if error.is_device() => {
            error!(%error, "leaving at once, for other workers to take over");
            leave(EXIT_DEVICE)
        }
        outcome => Ok(outcome?),
    }
}
