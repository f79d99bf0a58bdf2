//! `batchfleet-gateway`: one gateway over Redis.

use std::process::ExitCode;

use batchfleet_broker::redis::RedisBroker;
use batchfleet_gateway::{Gateway, Settings};
use batchfleet_service::settings::parse;

fn main() -> ExitCode {
    let settings = match parse::<Settings>() {
        Ok(settings) => settings,
        Err(status) => return ExitCode::from(status),
    };
    batchfleet_service::run(&settings.process.clone(), async move |process| {
        settings.gateway.check()?;
        let broker = RedisBroker::connect(&settings.redis_url).await?;
        let gateway = Gateway::start(&settings.gateway, &broker, &process).await?;
        Ok(gateway.run().await?)
    })
}
