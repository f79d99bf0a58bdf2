//! The life cycle of a worker: find the models; load, warm up and check each model; serve; drain.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use batchfleet_broker::{Broker, QueueName, WorkerRoles};
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Backend,
    drain::Drain,
    engine::onnx,
    error::WorkerError,
    model::Model,
    report::ModelReport,
    repository::{self, BadModel, ModelSource, Scan, Wanted},
    resources::WorkerResources,
    retry::Outage,
    settings::{ExecutionProvider, ModelSettings},
    unserved::Unserved,
};

/// Models that are loaded, warmed up and checked, but not served yet.
#[derive(Debug)]
pub struct Loaded {
    models: Vec<Model>,
    resources: WorkerResources,
}

impl Loaded {
    /// Loads, warms up and checks the models of a repository. A model that cannot be served is
    /// left out, unless it is requested by name or `--exit-on-error` is set. Once `shutdown` is cancelled, no
    /// further model is loaded. Needs no broker, so a missing device is reported even while the
    /// broker is unreachable.
    pub async fn load(
        settings: &ModelSettings,
        resources: &WorkerResources,
        shutdown: &CancellationToken,
    ) -> Result<Self, WorkerError> {
        settings.validate()?;
        let mut loaded = Self { models: Vec::new(), resources: resources.clone() };
        let (wanted, store) = (&settings.models, settings.store());
        let fetching = settings.model_repository.fetch(wanted, &store);
        let Some(folder) = shutdown.run_until_cancelled(fetching).await.transpose()? else {
            return Ok(loaded);
        };
        let Scan { sources, bad } = scan(folder, wanted.clone()).await?;
        // A model that is requested by name must be served.
        let mut unserved = Unserved::new(settings.exit_on_error || !wanted.is_empty());
        for BadModel { name, version, error } in bad {
            unserved.add(name, version, error.into())?;
        }
        let runtime = runtime(settings, &sources)?;
        // Measure all models before serving any, so that serving does not distort the measurements.
        for source in sources {
            if shutdown.is_cancelled() {
                return Ok(loaded);
            }
            let QueueName { model, version } = source.queue.clone();
            match Model::load_instances(settings, source, runtime.clone(), resources).await {
                Ok(instances) => loaded.models.extend(instances),
                Err(error) => unserved.add(model, Some(version), error)?,
            }
        }
        let unavailable = unserved.announced(!loaded.models.is_empty())?;
        if let Some(first) = loaded.models.first_mut() {
            first.unavailable = unavailable;
        }
        Ok(loaded)
    }

    /// The model versions, sorted.
    pub fn queues(&self) -> BTreeSet<QueueName> {
        self.models.iter().map(|model| model.queue().clone()).collect()
    }

    /// What the load has found, as a text for each model.
    pub fn reports(&self) -> Vec<String> {
        let mut reports: Vec<String> = Vec::new();
        for (index, model) in self.models.iter().enumerate() {
            // All instances of a model are alike.
            if !self.models[..index].iter().any(|earlier| earlier.queue() == model.queue()) {
                reports.push(ModelReport::new(&model.plan).to_string());
            }
        }
        reports
    }

    /// Starts to serve the models. Returns once all models are announced or `shutdown` is
    /// cancelled; call [`Worker::join`] next. Jobs that cannot finish within `drain_timeout` after
    /// `shutdown` are handed back.
    pub async fn serve(
        self,
        broker: Arc<dyn Broker>,
        shutdown: CancellationToken,
        drain_timeout: Duration,
    ) -> Worker {
        // A failing model stops this worker, but not the other holders of the caller's token.
        let shutdown = shutdown.child_token();
        let Self { models, resources } = self;
        let on_gpu = |model: &Model| model.plan.provider != ExecutionProvider::Cpu.name();
        resources.export_machine(models.iter().any(on_gpu));
        let drain = Drain::new(shutdown.clone(), drain_timeout);
        let engines = Engines(models.iter().map(Model::engine_ended).collect());
        let mut worker = Worker { models: JoinSet::new(), engines, shutdown, ready: false };
        let mut announced = Vec::new();
        for model in models {
            let Some(roles) = connect(broker.as_ref(), &model, &worker.shutdown).await else {
                return worker;
            };
            let is_announced = CancellationToken::new();
            announced.push(is_announced.clone());
            let serving = model.serve(roles, resources.clone(), is_announced, drain.clone());
            worker.models.spawn(serving);
        }
        for announced in announced {
            tokio::select! {
                () = announced.cancelled() => {}
                () = worker.shutdown.cancelled() => return worker,
            }
        }
        worker.ready = true;
        worker
    }
}

/// A worker that serves every model of its settings.
#[derive(Debug)]
pub struct Worker {
    /// One task per model, which serves the model and then withdraws its announcement.
    models: JoinSet<Result<(), WorkerError>>,
    engines: Engines,
    shutdown: CancellationToken,
    ready: bool,
}

/// The engines of a worker.
#[derive(Clone, Debug)]
pub struct Engines(Vec<CancellationToken>);

impl Engines {
    /// Waits until the engines have freed their memory, some time after the end of the worker.
    pub async fn ended(self) {
        for ended in self.0 {
            ended.cancelled().await;
        }
    }
}

impl Worker {
    /// Runs [`Loaded::load`] and [`Loaded::serve`] with an unlimited drain timeout.
    pub async fn start(
        settings: &ModelSettings,
        broker: Arc<dyn Broker>,
        resources: &WorkerResources,
        shutdown: CancellationToken,
    ) -> Result<Self, WorkerError> {
        let loaded = Loaded::load(settings, resources, &shutdown).await?;
        Ok(loaded.serve(broker, shutdown, Duration::MAX).await)
    }

    /// Whether every model is announced and claims jobs, and no shutdown has begun.
    pub fn ready(&self) -> bool {
        self.ready && !self.shutdown.is_cancelled()
    }

    /// The worker's engines.
    pub fn engines(&self) -> Engines {
        self.engines.clone()
    }

    /// Waits until the worker has stopped. After shutdown, the worker finishes and answers running
    /// batches, and hands back claimed jobs that have not run. If one model fails, all models
    /// drain. If a model loses its device, `join` returns immediately, because the device's outputs
    /// cannot be trusted.
    pub async fn join(mut self) -> Result<(), WorkerError> {
        let mut outcome = Ok(());
        while let Some(ended) = self.models.join_next().await {
            self.shutdown.cancel();
            let ended = ended.map_err(WorkerError::from).and_then(|ended| ended);
            if ended.as_ref().is_err_and(WorkerError::is_device) {
                return ended;
            }
            outcome = outcome.and(ended);
        }
        outcome
    }
}

/// Finds the models of a repository. Reading a folder may take long, such as on a network disk.
async fn scan(folder: PathBuf, wanted: Vec<Wanted>) -> Result<Scan, WorkerError> {
    Ok(spawn_blocking(move || repository::scan(&folder, &wanted)).await??)
}

/// Opens ONNX Runtime if a model needs it.
fn runtime(
    settings: &ModelSettings,
    sources: &[ModelSource],
) -> Result<Option<Arc<onnx::Runtime>>, WorkerError> {
    if sources.iter().all(|source| source.config.backend == Backend::Echo) {
        return Ok(None);
    }
    let runtime = onnx::Runtime::open(&settings.library()?)?;
    Ok(Some(Arc::new(runtime)))
}

/// Connects to the model's queue. Retries while the broker is unreachable; `None` on shutdown.
async fn connect(
    broker: &dyn Broker,
    model: &Model,
    shutdown: &CancellationToken,
) -> Option<WorkerRoles> {
    let mut outage = Outage::new("reach the broker");
    loop {
        match broker.worker(model.queue().clone(), model.worker).await {
            Ok(roles) => {
                outage.over();
                return Some(roles);
            }
            Err(error) => outage.failed(&error),
        }
        tokio::select! {
            () = outage.pause() => {}
            () = shutdown.cancelled() => return None,
        }
    }
}
