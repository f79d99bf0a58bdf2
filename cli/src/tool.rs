//! What the tools share: they run, say something and end with a status.

use std::process::ExitCode;

use batchfleet_broker::BrokerError;
use batchfleet_loadgen::LoadError;
use batchfleet_service::{InvalidSettings, settings::EXIT_USAGE};
use batchfleet_simulator::SimulateError;

/// Exit status for a server that cannot be used: `EX_UNAVAILABLE` of sysexits.h.
const EXIT_UNAVAILABLE: u8 = 69;

/// Runs a tool to its end.
pub(crate) fn run(tool: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(tool));
    ended.unwrap_or_else(complain)
}

/// Ends a tool that does not wait for anything.
pub(crate) fn end(ended: Result<(), impl Into<anyhow::Error>>) -> ExitCode {
    ended.map_or_else(|error| complain(error.into()), |()| ExitCode::SUCCESS)
}

#[expect(clippy::needless_pass_by_value, reason = "it ends here")]
fn complain(error: anyhow::Error) -> ExitCode {
    eprintln!("error: {}", batchfleet_service::sentence(&error));
    status(&error)
}

fn status(error: &anyhow::Error) -> ExitCode {
    if let Some(error) = error.downcast_ref() {
        return match error {
            BrokerError::Misconfigured(_) => ExitCode::from(EXIT_USAGE),
            _ => ExitCode::from(EXIT_UNAVAILABLE),
        };
    }
    if error.is::<InvalidSettings>()
        || error.downcast_ref().is_some_and(SimulateError::is_of_settings)
    {
        return ExitCode::from(EXIT_USAGE);
    }
    match error.downcast_ref() {
        Some(LoadError::Unreachable { .. } | LoadError::Unanswered { .. }) => {
            ExitCode::from(EXIT_UNAVAILABLE)
        }
        Some(LoadError::Thread(_)) | None => ExitCode::FAILURE,
        Some(_) => ExitCode::from(EXIT_USAGE),
    }
}

/// Prints what a tool has to say.
#[expect(clippy::print_stdout, reason = "it is the tool's output")]
pub(crate) fn say(words: &str) {
    print!("{words}");
}
