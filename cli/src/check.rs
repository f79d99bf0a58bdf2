//! `batchfleet check`: what a worker would find in a model, and what its config should say.

use std::process::ExitCode;

use batchfleet_service::Process;
use batchfleet_worker::{Loaded, ModelSettings, WorkerError, WorkerResources};
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::tool::say;

/// Settings of `batchfleet check`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CheckSettings {
    #[command(flatten)]
    models: ModelSettings,
}

/// Loads the models as a worker does, and prints a report on each. The first model that cannot be
/// served is an error.
pub(crate) async fn main(settings: &CheckSettings) -> anyhow::Result<ExitCode> {
    let models = ModelSettings { exit_on_error: true, ..settings.models.clone().of_folder() };
    let resources = WorkerResources::new(&Process::default()).map_err(WorkerError::report)?;
    let loaded = Loaded::load(&models, &resources, &CancellationToken::new()).await;
    let reports = loaded.map_err(WorkerError::report)?.reports();
    say(&reports.join("\n"));
    Ok(ExitCode::SUCCESS)
}
