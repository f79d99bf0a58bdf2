//! The program `batchfleet`: serves models from one process, and contains the tools.

mod check;
mod demo;
mod digest;
mod explain;
mod live_controls;
mod load;
mod model_control;
mod one_process;
mod redis_acl;
mod server;
mod set_n;
mod tool;
mod workers;

use std::process::ExitCode;

use batchfleet_gateway::GatewaySettings;
use batchfleet_service::{ProcessSettings, settings::parse};
use batchfleet_simulator::{SimulateSettings, stdio::StdioSettings};
use batchfleet_worker::ModelSettings;
use clap::{Args, Parser, Subcommand};

use crate::{model_control::ModelControlSettings, one_process::OneProcess};

/// The service name in traces.
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
    /// Serve models with gateway and worker in one process and the queue in memory
    // Without a load balancer no lame duck period is needed. The live page is useful on a laptop.
    #[command(
        mut_arg("lame_duck", |arg| arg.default_value("0s")),
        mut_arg("live_page", |arg| arg.default_value("everywhere"))
    )]
    Serve(Box<ServeSettings>),
    /// Compare serving one by one with batches, on handwritten digits from many clients
    Demo(Box<demo::DemoSettings>),
    /// Load models as a worker does, check and time them, and print what their configs should say
    // The folder of the models is the only argument.
    #[command(mut_arg("model_repository", |arg| {
        arg.long(None::<&str>).help("A model repository, or the folder of one model")
    }))]
    Check(Box<check::CheckSettings>),
    /// Calculate how many workers a load needs, by simulation
    Simulate(Box<SimulateSettings>),
    /// Serve the decisions to another simulator, as JSON lines
    Policy(StdioSettings),
    /// Send load to any server of the protocol, check every answer, and report
    Load(Box<load::LoadSettings>),
    /// Explain how a model's requests are batched, why, and what more load would change
    Explain(explain::ExplainSettings),
    /// Print the digest of each model version in a folder, by which --model and a fleet pin it
    Digest(digest::DigestSettings),
    /// Print the Redis user of the workers of a model, for Redis' `aclfile` or `ACL SETUSER`
    RedisAcl(redis_acl::RedisAclSettings),
    /// Publish N or the latency target to all workers of a model
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
    control: ModelControlSettings,
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
                let ServeSettings { gateway, models, control, .. } = settings.as_ref();
                OneProcess::start(gateway, models, control, &process).await?.run().await
            })
        }
        Command::Demo(settings) => {
            batchfleet_service::run(NAME, &settings.process(), async move |process| {
                demo::show(&settings, &process).await
            })
        }
        Command::Check(settings) => tool::run(check::main(&settings)),
        Command::Simulate(settings) => tool::end(batchfleet_simulator::simulate(&settings)),
        Command::Policy(settings) => tool::end(batchfleet_simulator::stdio::policy(&settings)),
        Command::Load(settings) => tool::run(load::main(&settings)),
        Command::Explain(settings) => tool::run(explain::main(&settings)),
        Command::Digest(settings) => tool::end_with(digest::main(&settings)),
        Command::RedisAcl(settings) => tool::end_with(redis_acl::main(&settings)),
        Command::SetN(settings) => tool::run(set_n::main(&settings)),
    }
}
