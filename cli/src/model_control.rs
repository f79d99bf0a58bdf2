//! Loads and unloads the models of a folder while they are served: `--model-control explicit`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use batchfleet_broker::{Broker, QueueName};
use batchfleet_gateway::{LoadedModel, ModelControl, ModelLoader};
use batchfleet_service::InvalidSettings;
use batchfleet_worker::{Loaded, Location, ModelSettings, WorkerError, WorkerResources};
use clap::{Args, ValueEnum};
use parking_lot::Mutex;
use tokio::{sync, task::spawn_blocking};
use tracing::error;

use crate::workers::{RunningWorker, Workers};

/// Why clients may not load and unload models.
const NOT_EXPLICIT: &str = "explicit model load / unload is not allowed: start `batchfleet serve` with \
    --model-control explicit";

/// The name for all models.
const ALL: &str = "*";

/// Which models are loaded, and when.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ModelControlSettings {
    /// `none`: all models are loaded at the start. `explicit`: clients load and unload models, and those of
    /// --load-model are loaded at the start. Each client may load and unload the models that it may use
    #[arg(
        long,
        alias = "model-control-mode",
        env = "BATCHFLEET_MODEL_CONTROL",
        default_value = "none",
        value_name = "MODE"
    )]
    pub(crate) model_control: ModelControlMode,

    /// Model to load at the start with --model-control explicit, `*` for all; repeatable, or separated
    /// by commas [default: none]
    #[arg(
        long = "load-model",
        env = "BATCHFLEET_LOAD_MODEL",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub(crate) load_models: Vec<String>,
}

/// Who decides which models are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModelControlMode {
    /// All models are loaded at the start.
    #[default]
    None,
    /// Clients load and unload models.
    Explicit,
}

impl ModelControlSettings {
    /// Rejects settings that contradict each other.
    fn validate(&self, models: &ModelSettings) -> Result<(), InvalidSettings> {
        if self.model_control == ModelControlMode::None {
            return match self.load_models.first() {
                None => Ok(()),
                Some(name) => Err(InvalidSettings::new(format_args!(
                    "--load-model {name} means nothing without --model-control explicit"
                ))),
            };
        }
        if self.load_models.len() > 1 && self.load_models.iter().any(|name| name == ALL) {
            return Err(InvalidSettings::new("--load-model '*' names all models: drop the others"));
        }
        match &models.model_repository {
            Location::Folder(_) => Ok(()),
            Location::Store(url) => Err(InvalidSettings::new(format_args!(
                "--model-control explicit needs a folder, and --model-repository is {url}"
            ))),
        }
    }
}

/// Starts the workers of a process. Returns whether clients may load and unload models.
pub(crate) async fn start(
    settings: &ModelControlSettings,
    models: &ModelSettings,
    parts: WorkerParts,
) -> Result<ModelControl, WorkerError> {
    settings.validate(models)?;
    if settings.model_control == ModelControlMode::None {
        let WorkerParts { resources, broker, workers } = parts;
        let stop = workers.shutdown().clone();
        let loaded = Loaded::load(models, &resources, &stop).await?;
        workers.run(loaded.serve(broker, stop.clone(), Duration::MAX).await, stop);
        return Ok(ModelControl::Refused(NOT_EXPLICIT));
    }
    let (served, loading) = (Arc::default(), Arc::default());
    let loader = FolderLoader { models: models.clone(), parts, served, loading };
    let mut names = settings.load_models.clone();
    if names.iter().any(|name| name == ALL) {
        names = models.available()?;
    }
    let mut failed = BTreeMap::new();
    for name in names {
        match loader.loaded(&name).await {
            Ok(loaded) => loader.serve(name, loaded).await,
            Err(error) if models.exit_on_error => return Err(error),
            Err(error) => {
                error!(model = name, %error, "this model cannot be loaded: serving the others");
                failed.insert(name, error.to_string());
            }
        }
    }
    Ok(ModelControl::Explicit { loader: Arc::new(loader), failed })
}

/// What workers need.
#[derive(Clone)]
pub(crate) struct WorkerParts {
    pub(crate) resources: WorkerResources,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) workers: Arc<Workers>,
}

/// Loads models of a folder, each into a worker of its own. Clones share the workers.
#[derive(Clone)]
struct FolderLoader {
    models: ModelSettings,
    parts: WorkerParts,
    /// The workers by the names of their models.
    served: Arc<Mutex<HashMap<String, Served>>>,
    /// One load at a time, because a load measures how long batches take.
    loading: Arc<sync::Mutex<()>>,
}

/// A worker and the versions that it serves.
struct Served {
    worker: RunningWorker,
    queues: BTreeSet<QueueName>,
}

impl FolderLoader {
    async fn loaded(&self, model: &str) -> Result<Loaded, WorkerError> {
        let settings = self.models.clone().only(model)?;
        let _loading = self.loading.lock().await;
        let WorkerParts { resources, workers, .. } = &self.parts;
        Loaded::load(&settings, resources, workers.shutdown()).await
    }

    /// Serves a model in place of what was served under its name.
    async fn serve(&self, model: String, loaded: Loaded) {
        let WorkerParts { broker, workers, .. } = &self.parts;
        let (queues, stop) = (loaded.queues(), workers.shutdown().child_token());
        let worker = loaded.serve(broker.clone(), stop.clone(), Duration::MAX).await;
        let worker = workers.run(worker, stop);
        let served = Served { worker, queues: queues.clone() };
        let before = self.served.lock().insert(model, served);
        self.stop(before, &queues).await;
    }

    /// Stops a worker, and removes the metrics of the versions that are not `kept`.
    async fn stop(&self, served: Option<Served>, kept: &BTreeSet<QueueName>) {
        let Some(Served { worker, queues }) = served else { return };
        worker.stop().await;
        for queue in queues.difference(kept) {
            self.parts.resources.forget(queue);
        }
    }
}

#[async_trait]
impl ModelLoader for FolderLoader {
    async fn available(&self) -> Result<Vec<String>, String> {
        let models = self.models.clone();
        let listed = spawn_blocking(move || models.available()).await;
        listed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    async fn load(&self, model: &str) -> Result<Box<dyn LoadedModel>, String> {
        let loaded = self.loaded(model).await.map_err(|error| error.to_string())?;
        Ok(Box::new(Replacement { loader: self.clone(), model: model.to_owned(), loaded }))
    }

    async fn unload(&self, model: &str) {
        let served = self.served.lock().remove(model);
        self.stop(served, &BTreeSet::new()).await;
    }
}

/// A model that is loaded, and not served yet.
struct Replacement {
    loader: FolderLoader,
    model: String,
    loaded: Loaded,
}

#[async_trait]
impl LoadedModel for Replacement {
    async fn serve(self: Box<Self>) {
        let Self { loader, model, loaded } = *self;
        loader.serve(model, loaded).await;
    }
}
