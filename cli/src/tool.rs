//! Common parts of the tools: runtime, exit status and output.

use std::{
    io::{self, Write as _},
    process::{ExitCode, exit},
};

use batchfleet_broker::BrokerError;
use batchfleet_loadgen::LoadError;
use batchfleet_service::{self as service, InvalidSettings, settings::EXIT_USAGE};
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

/// Prints the output of a tool. A reader that has closed the pipe has read what it wanted; a tool whose
/// output is lost for another reason, such as a full disk, ends with a failure.
pub(crate) fn say(text: &str) {
    let mut output = io::stdout().lock();
    let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        service::complain(&format!("error: cannot write the output: {error}"));
        exit(1);
    }
}
