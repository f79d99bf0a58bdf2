//! Loads and unloads models while the gateway serves, at the request of clients.
//!
//! Requests for a model and the replacement of the model exclude each other: a request holds a
//! [`Passage`] until its answer. A replacement waits for the answers to all requests before it, while
//! requests that arrive meanwhile wait for the replacement. So the workers that served the model are idle
//! when they stop, and each request is checked against the model that answers it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use batchfleet_oip::{Problem, repository};
use parking_lot::RwLock;
use tokio::{
    runtime::Handle,
    sync::{self, OwnedRwLockReadGuard, mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{ask::Core, error::InferError, observe::LookNow};

/// Whether clients may load and unload models.
pub enum ModelControl {
    /// They may not; contains the way to change what is served, for the refusal.
    Refused(&'static str),
    /// They may.
    Explicit {
        /// Loads the models.
        loader: Arc<dyn ModelLoader>,
        /// The models that could not be loaded at the start, with the reasons.
        failed: BTreeMap<String, String>,
    },
}

/// Loads the models of a repository. Implemented by a program that runs gateway and workers.
#[async_trait]
pub trait ModelLoader: Send + Sync {
    /// The names of the models in the repository, loaded or not.
    ///
    /// # Errors
    ///
    /// The repository cannot be read, for the given reason.
    async fn available(&self) -> Result<Vec<String>, String>;

    /// Loads a model, beside what is served under its name. Nothing is served differently yet.
    ///
    /// # Errors
    ///
    /// The model cannot be served, for the given reason.
    async fn load(&self, model: &str) -> Result<Box<dyn LoadedModel>, String>;

    /// Stops the workers of a model and frees their memory. Does nothing if the model is not loaded.
    async fn unload(&self, model: &str);
}

/// A model that is loaded, but not served yet. Dropping it frees its memory.
#[async_trait]
pub trait LoadedModel: Send {
    /// Serves the model in place of what was served under its name.
    async fn serve(self: Box<Self>);
}

/// The right of a request to use a model; the model is not replaced before this is dropped.
pub(crate) type Passage = OwnedRwLockReadGuard<()>;

/// Keeps the requests for a model and its replacement apart.
#[derive(Debug, Default)]
struct ModelGate {
    /// Held while the model is loaded or unloaded.
    operation: sync::Mutex<()>,
    /// Read by requests, written by the replacement.
    requests: Arc<sync::RwLock<()>>,
}

/// Loads and unloads models, if clients may.
pub(crate) enum Models {
    /// Clients may not; contains the way to change what is served.
    Fixed(&'static str),
    /// Clients may.
    Controlled(ControlledModels),
}

/// Loads and unloads models.
pub(crate) struct ControlledModels {
    loader: Arc<dyn ModelLoader>,
    gates: RwLock<HashMap<String, Arc<ModelGate>>>,
    looks: mpsc::Sender<LookNow>,
    /// The runtime of the workers; the threads of HTTP and gRPC have their own.
    runtime: Handle,
    shutdown: CancellationToken,
}

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

impl Models {
    /// Waits while the model of this name is replaced.
    pub(crate) async fn enter(&self, model: &str) -> Option<Passage> {
        let Self::Controlled(models) = self else { return None };
        let requests = models.gates.read().get(model)?.requests.clone();
        Some(requests.read_owned().await)
    }

    /// The names of all models in the repository, if clients may load them.
    pub(crate) async fn available(&self) -> Vec<String> {
        let Self::Controlled(models) = self else { return Vec::new() };
        models.loader.available().await.unwrap_or_else(|error| {
            error!(error, "cannot list the model repository");
            Vec::new()
        })
    }
}

impl ControlledModels {
    /// `loaded` are the names of the models that are served.
    pub(crate) fn new(
        loader: Arc<dyn ModelLoader>,
        loaded: impl Iterator<Item = String>,
        looks: mpsc::Sender<LookNow>,
        shutdown: CancellationToken,
    ) -> Self {
        let gates = RwLock::new(loaded.map(|model| (model, Arc::default())).collect());
        Self { loader, gates, looks, runtime: Handle::current(), shutdown }
    }

    /// The gate of a model. Each model of the repository that was ever loaded has one, so that unknown
    /// names take no memory.
    fn gate(&self, model: &str) -> Arc<ModelGate> {
        self.gates.write().entry(model.to_owned()).or_default().clone()
    }

    async fn load(&self, core: &Core, model: &str) -> Result<(), Problem> {
        let available = self.loader.available().await.map_err(|error| failed(model, &error))?;
        if !available.iter().any(|name| name == model) {
            return Err(missing(model));
        }
        let gate = self.gate(model);
        let _operation = gate.operation.lock().await;
        info!(model, "loading model");
        match self.loader.load(model).await {
            Ok(loaded) => {
                let _alone = gate.requests.write().await;
                loaded.serve().await;
                core.catalog.unavailable().loaded(model);
                self.look(model).await?;
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

    async fn unload(&self, core: &Core, model: &str) -> Result<(), Problem> {
        let Some(gate) = self.gates.read().get(model).cloned() else {
            // As in Triton, to unload what is not loaded is no error.
            return Ok(());
        };
        let _operation = gate.operation.lock().await;
        let _alone = gate.requests.write().await;
        self.loader.unload(model).await;
        core.catalog.unavailable().loaded(model);
        self.look(model).await?;
        info!(model, "model unloaded");
        Ok(())
    }

    /// Waits until the catalogue has the workers of now.
    async fn look(&self, model: &str) -> Result<(), Problem> {
        let (done, looked) = oneshot::channel();
        let sent = self.looks.send(LookNow { model: model.to_owned(), done }).await;
        let ended = || Problem::internal("the observation of the workers has ended");
        sent.map_err(|_| ended())?;
        looked.await.map_err(|_| ended())
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
                Action::Load => models.load(&core, &model).await,
                Action::Unload => models.unload(&core, &model).await,
            }
        }
    };
    match runtime.spawn(shutdown.run_until_cancelled_owned(work)).await {
        Ok(Some(changed)) => Ok(changed?),
        Ok(None) => Err(InferError::Draining),
        Err(_) => Err(Problem::internal("the task that changes models has crashed").into()),
    }
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
