//! Common parts of the tools: runtime, exit status and output.

use std::process::ExitCode;

use batchfleet_broker::BrokerError;
use batchfleet_loadgen::LoadError;
use batchfleet_service::{InvalidSettings, settings::EXIT_USAGE};
use batchfleet_simulator::SimulateError;

/// Exit status for an unreachable or failing server: `EX_UNAVAILABLE` in sysexits.h.
const EXIT_UNAVAILABLE: u8 = 69;

/// Runs an async tool.
pub(crate) fn run(tool: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(tool));
    end_with(ended)
}

/// The exit code of a synchronous tool.
pub(crate) fn end(ended: Result<(), impl Into<anyhow::Error>>) -> ExitCode {
    end_with(ended.map(|()| ExitCode::SUCCESS).map_err(Into::into))
}

/// The exit code of a synchronous tool that chooses its status.
pub(crate) fn end_with(ended: anyhow::Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(complain)
}

#[expect(clippy::needless_pass_by_value, reason = "the end of the error")]
fn complain(error: anyhow::Error) -> ExitCode {
    batchfleet_service::complain(&format!("error: {}", batchfleet_service::sentence(&error)));
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

/// Prints the output of a tool.
#[expect(clippy::print_stdout, reason = "the output of a tool")]
pub(crate) fn say(text: &str) {
    print!("{text}");
}
