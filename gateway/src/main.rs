//! `batchfleet-gateway`: one gateway over Redis.

use std::process::ExitCode;

use batchfleet_broker::sharded::WORKERS_PER_SHARD;
use batchfleet_gateway::{Gateway, ModelControl, Settings};
use batchfleet_service::{Process, run, settings::parse};

fn main() -> ExitCode {
    match parse::<Settings>() {
        Ok(settings) => {
            run(env!("CARGO_BIN_NAME"), &settings.process, |process| serve(&settings, process))
        }
        Err(status) => ExitCode::from(status),
    }
}

/// Why clients may not load and unload models.
const FLEET: &str = "the models of a fleet are loaded by its workers, from --model-repository; change the \
    repository, or the ModelFleet";

async fn serve(settings: &Settings, process: Process) -> anyhow::Result<()> {
    settings.gateway.check()?;
    let Some(broker) = settings.redis.connect(&process.shutdown, WORKERS_PER_SHARD).await? else {
        return Ok(());
    };
    let control = ModelControl::Refused(FLEET);
    Gateway::start(&settings.gateway, broker.as_ref(), &process, control).await?.run().await
}
