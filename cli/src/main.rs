//! `batchfleet`: everything in one process, and the tools.

mod demo;
mod explain;
mod fleet;
mod load;
mod play;
mod set_n;
mod tool;

use std::process::ExitCode;

use batchfleet_gateway::GatewaySettings;
use batchfleet_service::{ProcessSettings, settings::parse};
use batchfleet_simulator::{SimulateSettings, stdio::StdioSettings};
use batchfleet_worker::ModelSettings;
use clap::{Args, Parser, Subcommand};

use crate::fleet::Fleet;

/// How others know it.
const NAME: &str = "batchfleet";

/// Batched inference over HTTP: many clients, one queue, batches of N, each caller its own answer
#[derive(Parser)]
#[command(name = "batchfleet", version)]
struct Settings {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve models: gateway and worker in this process, the queue in its memory
    // Nothing balances load over one process, so nobody needs time to learn that it goes.
    // And whoever starts it wants to see something.
    #[command(
        mut_arg("lame_duck", |arg| arg.default_value("0s")),
        mut_arg("live_page", |arg| arg.default_value("everywhere"))
    )]
    Serve(Box<ServeSettings>),
    /// Show what batching does: real digits from many clients, one by one against batched
    Demo(Box<demo::DemoSettings>),
    /// Say how many workers a load needs, before there are any
    Simulate(Box<SimulateSettings>),
    /// Lend the decisions to another simulator: JSON lines in, JSON lines out
    Policy(StdioSettings),
    /// Send requests to any server of the protocol, check every answer and report
    Load(Box<load::LoadSettings>),
    /// Say how a model's requests are batched, why, and what more load would change
    Explain(explain::ExplainSettings),
    /// Publish N, or the latency target it follows from, to all workers of a model
    #[command(name = "set-n")]
    SetN(set_n::SetNSettings),
}

#[derive(Args, Clone)]
struct ServeSettings {
    #[command(flatten)]
    gateway: GatewaySettings,
    #[command(flatten)]
    models: ModelSettings,
    #[command(flatten)]
    process: ProcessSettings,
}

fn main() -> ExitCode {
    let settings = match parse::<Settings>() {
        Ok(settings) => settings,
        Err(status) => return ExitCode::from(status),
    };
    match settings.command {
        Command::Serve(settings) => {
            batchfleet_service::run(NAME, &settings.process.clone(), async move |process| {
                Fleet::start(&settings.gateway, &settings.models, &process).await?.run().await
            })
        }
        Command::Demo(settings) => {
            batchfleet_service::run(NAME, &settings.process(), async move |process| {
                demo::show(&settings, &process).await
            })
        }
        Command::Simulate(settings) => tool::end(batchfleet_simulator::simulate(&settings)),
        Command::Policy(settings) => tool::end(batchfleet_simulator::stdio::policy(&settings)),
        Command::Load(settings) => tool::run(load::main(&settings)),
        Command::Explain(settings) => tool::run(explain::main(&settings)),
        Command::SetN(settings) => tool::run(set_n::main(&settings)),
    }
}
