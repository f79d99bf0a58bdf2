//! Logs on standard error, as JSON or text.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::{
    InvalidSettings,
    settings::{LogFormat, ProcessSettings},
};

/// Starts logging. Must be called once per process.
pub(crate) fn init(settings: &ProcessSettings) -> Result<(), InvalidSettings> {
    // This crate logs the start and stop of servers, so the log lines of `actix_server` are
    // redundant.
    let filter = EnvFilter::try_new(format!("actix_server=warn,{}", settings.log))
        .map_err(|error| InvalidSettings::new(format_args!("--log {}: {error}", settings.log)))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match settings.log_format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Text => lines.with_target(false).try_init(),
    };
    started.map_err(|error| InvalidSettings::new(format_args!("logging: {error}")))
}
