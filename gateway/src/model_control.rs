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
use batchfleet_oip::Problem;
use parking_lot::RwLock;
use tokio::{
    runtime::Handle,
    sync::{self, OwnedRwLockReadGuard, mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;
use tracing::error;

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

/// A request to look at the workers now, after those of a model have changed.
pub(crate) struct LookNow {
    /// The versions of this model that no worker serves any more are forgotten.
    pub(crate) model: String,
    /// Told once the catalogue is up to date.
    pub(crate) done: oneshot::Sender<()>,
}

/// The right of a request to use a model; the model is not replaced before this is dropped.
pub(crate) type Passage = OwnedRwLockReadGuard<()>;

/// Keeps the requests for a model and its replacement apart.
#[derive(Debug, Default)]
pub(crate) struct ModelGate {
    /// Held while the model is loaded or unloaded.
    pub(crate) operation: sync::Mutex<()>,
    /// Read by requests, written by the replacement.
    pub(crate) requests: Arc<sync::RwLock<()>>,
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
    pub(crate) loader: Arc<dyn ModelLoader>,
    gates: RwLock<HashMap<String, Arc<ModelGate>>>,
    looks: mpsc::Sender<LookNow>,
    /// The runtime of the workers; the threads of HTTP and gRPC have their own.
    pub(crate) runtime: Handle,
    pub(crate) shutdown: CancellationToken,
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
    pub(crate) fn gate(&self, model: &str) -> Arc<ModelGate> {
        self.gates.write().entry(model.to_owned()).or_default().clone()
    }

    /// The gate of a model that was ever loaded.
    pub(crate) fn known_gate(&self, model: &str) -> Option<Arc<ModelGate>> {
        self.gates.read().get(model).cloned()
    }

    /// Waits until the catalogue has the workers of now.
    pub(crate) async fn look(&self, model: &str) -> Result<(), Problem> {
        let (done, looked) = oneshot::channel();
        let sent = self.looks.send(LookNow { model: model.to_owned(), done }).await;
        let ended = || Problem::internal("the observation of the workers has ended");
        sent.map_err(|_| ended())?;
        looked.await.map_err(|_| ended())
    }
}
