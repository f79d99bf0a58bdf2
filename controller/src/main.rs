//! `batchfleet-controller`.

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use batchfleet_controller::crd;
use batchfleet_service::settings::parse;
use clap::{Parser, Subcommand};

/// Settings of the controller process.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "batchfleet-controller",
    version,
    about = "Keeps each ModelFleet as large as its load needs"
)]
struct ControllerSettings {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// What the controller can do.
#[derive(Subcommand, Clone, Copy, Debug)]
enum Command {
    /// Print the custom resource definition of `ModelFleet`
    Crd,
}

fn main() -> ExitCode {
    match parse::<ControllerSettings>() {
        Ok(ControllerSettings { command: Command::Crd }) => print_crd(),
        Err(status) => ExitCode::from(status),
    }
}

fn print_crd() -> ExitCode {
    let printed = crd::yaml().and_then(|yaml| Ok(stdout().write_all(yaml.as_bytes())?));
    if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
