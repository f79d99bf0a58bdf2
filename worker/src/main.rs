//! `batchfleet-worker`: the worker program, with Redis as its broker.

use std::process::ExitCode;

use batchfleet_service::{LongTasks, Process, follow_outages, run, settings::parse};
use batchfleet_worker::{EXIT_DEVICE, Loaded, WorkerError, WorkerResources, WorkerSettings, leave};
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
    settings.redis.addresses()?;
    let resources = WorkerResources::new(&process).map_err(WorkerError::report)?;
    let loaded = Loaded::load(&settings.models, &resources, &shutdown).await;
    let loaded = loaded.map_err(WorkerError::report)?;
    let Some(broker) = settings.redis.connect(&shutdown, settings.workers_per_shard).await? else {
        return Ok(());
    };
    let (observer, readiness) = (broker.observer().await?, process.readiness.clone());
    let mut tasks = LongTasks::default();
    let following = follow_outages(move || observer.health(), readiness, settings.outage);
    tasks.spawn("connection to Redis", following);
    let worker = loaded.serve(broker, shutdown, settings.process.drain_timeout).await;
    if worker.ready() {
        process.readiness.ready();
    }
    let joined = tokio::select! {
        joined = worker.join() => joined,
        ended = tasks.ended() => return Err(ended.into()),
    };
    match joined {
        Err(error) if error.is_device() => leave(EXIT_DEVICE, || {
            error!(%error, "device lost: exiting, for other workers to take over");
        }),
        outcome => outcome.map_err(WorkerError::report),
    }
}
