//! `batchfleet-gateway`: one gateway over Redis.

use std::process::ExitCode;

use batchfleet_broker::sharded::WORKERS_PER_SHARD;
use batchfleet_gateway::{Gateway, Settings};
use batchfleet_service::{Process, run, settings::parse};

fn main() -> ExitCode {
    match parse::<Settings>() {
        Ok(settings) => {
            run(env!("CARGO_BIN_NAME"), &settings.process, |process| serve(&settings, process))
        }
        Err(status) => ExitCode::from(status),
    }
}

async fn serve(settings: &Settings, process: Process) -> anyhow::Result<()> {
    settings.gateway.check()?;
    let Some(broker) = settings.redis.connect(&process.shutdown, WORKERS_PER_SHARD).await? else {
        return Ok(());
    };
    Gateway::start(&settings.gateway, broker.as_ref(), &process).await?.run().await
}
