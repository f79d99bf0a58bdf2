//! `batchfleet-controller`: controls the fleets of a namespace.

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use batchfleet_controller::{Command, ControllerSettings, control, crd, make_secrets};
use batchfleet_service::{run, settings::parse};

fn main() -> ExitCode {
    match parse::<ControllerSettings>() {
        Ok(settings) => match &settings.command {
            Some(Command::Crd) => print_crd(),
            Some(Command::Secrets(secrets)) => {
                run(env!("CARGO_BIN_NAME"), &settings.process, |_| make_secrets(secrets))
            }
            None => run(env!("CARGO_BIN_NAME"), &settings.process, |process| {
                control(&settings, process)
            }),
        },
        Err(status) => ExitCode::from(status),
    }
}

fn print_crd() -> ExitCode {
    let printed = crd::yaml().and_then(|yaml| Ok(stdout().write_all(yaml.as_bytes())?));
    if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
