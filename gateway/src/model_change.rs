//! Loads or unloads a model at the request of a client.

use std::sync::Arc;

use batchfleet_oip::{Problem, repository};
use tracing::{error, info};

use crate::{
    ask::Core,
    error::InferError,
    model_control::{ControlledModels, Models},
};

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Load,
    Unload,
}

impl Action {
    /// Checks the names of the parameters of a request.
    ///
    /// # Errors
    ///
    /// A parameter is not supported.
    pub(crate) fn check<'a>(self, names: impl Iterator<Item = &'a str>) -> Result<(), Problem> {
        match self {
            Self::Load => repository::check_load(names),
            Self::Unload => repository::check_unload(names),
        }
    }
}

/// Loads or unloads a model. Goes on if the client leaves.
///
/// # Errors
///
/// Clients may not, there is no such model, the model cannot be loaded, or the gateway shuts down.
pub(crate) async fn change(
    core: Arc<Core>,
    action: Action,
    model: String,
) -> Result<(), InferError> {
    let models = match &core.models {
        Models::Controlled(models) => models,
        Models::Fixed(way) => return Err(Problem::unsupported(*way).into()),
    };
    let (runtime, shutdown) = (models.runtime.clone(), models.shutdown.clone());
    let work = {
        let core = core.clone();
        async move {
            let Models::Controlled(models) = &core.models else { return Ok(()) };
            match action {
                Action::Load => load(models, &core, &model).await,
                Action::Unload => unload(models, &core, &model).await,
            }
        }
    };
    match runtime.spawn(shutdown.run_until_cancelled_owned(work)).await {
        Ok(Some(changed)) => Ok(changed?),
        Ok(None) => Err(InferError::Draining),
        Err(_) => Err(Problem::internal("the task that changes models has crashed").into()),
    }
}

async fn load(models: &ControlledModels, core: &Core, model: &str) -> Result<(), Problem> {
    let available = models.loader.available().await.map_err(|error| failed(model, &error))?;
    if !available.iter().any(|name| name == model) {
        return Err(missing(model));
    }
    let gate = models.gate(model);
    let _operation = gate.operation.lock().await;
    info!(model, "loading model");
    match models.loader.load(model).await {
        Ok(loaded) => {
            let _alone = gate.requests.write().await;
            loaded.serve().await;
            core.catalog.unavailable().loaded(model);
            models.look(model).await?;
            info!(model, "model loaded");
            Ok(())
        }
        Err(reason) => {
            error!(model, reason, "model cannot be loaded: what was served stays");
            if core.catalog.versions(model).is_empty() {
                core.catalog.unavailable().failed(model, &reason);
            }
            Err(failed(model, &reason))
        }
    }
}

async fn unload(models: &ControlledModels, core: &Core, model: &str) -> Result<(), Problem> {
    let Some(gate) = models.known_gate(model) else {
        // As in Triton, to unload what is not loaded is no error.
        return Ok(());
    };
    let _operation = gate.operation.lock().await;
    let _alone = gate.requests.write().await;
    models.loader.unload(model).await;
    core.catalog.unavailable().loaded(model);
    models.look(model).await?;
    info!(model, "model unloaded");
    Ok(())
}

/// In the words of Triton, which its clients compare.
fn missing(model: &str) -> Problem {
    Problem::model_not_found(format!(
        "failed to load '{model}', failed to poll from model repository: it has no model of this name"
    ))
}

/// In the words of Triton, which its clients compare.
fn failed(model: &str, reason: &str) -> Problem {
    Problem::bad("load_failed", format!("load failed for model '{model}': {reason}"))
}
