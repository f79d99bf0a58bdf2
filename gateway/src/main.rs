//! `batchfleet-gateway`: one gateway over Redis.

use std::process::ExitCode;

use batchfleet_broker::{BrokerError, redis::RedisBroker};
use batchfleet_gateway::{Gateway, Settings};
use batchfleet_service::{InvalidSettings, Process, run, settings::parse};

fn main() -> ExitCode {
    match parse::<Settings>() {
        Ok(settings) => run(&settings.process, |process| serve(&settings, process)),
        Err(status) => ExitCode::from(status),
    }
}

async fn serve(settings: &Settings, process: Process) -> anyhow::Result<()> {
    settings.gateway.check()?;
    let redis = settings.redis.url()?;
    let connecting = RedisBroker::connect(&redis);
    let broker = match process.shutdown.run_until_cancelled(connecting).await {
        None => return Ok(()),
        Some(Err(BrokerError::Misconfigured(what))) => return Err(InvalidSettings(what).into()),
        Some(broker) => broker?,
    };
    Ok(Gateway::start(&settings.gateway, &broker, &process).await?.run().await?)
}
