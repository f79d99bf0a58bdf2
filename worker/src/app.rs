//! The life cycle of a worker: find the models; load, warm up and check each model; serve; drain.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{Broker, QueueName, WorkerRoles};
use batchfleet_service::{Process, metrics::MetricGroup};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Backend,
    drain::Drain,
    engine::{onnx, turns::DeviceTurns},
    error::WorkerError,
    gpus,
    metrics::WorkerMetrics,
    model::Model,
    report::ModelReport,
    repository::{self, BadModel, ModelSource, Scan},
    retry::Outage,
    settings::{ExecutionProvider, ModelSettings},
    unserved::Unserved,
};

/// Models that are loaded, warmed up and checked, but not served yet.
#[derive(Debug)]
pub struct Loaded {
    models: Vec<Model>,
    metrics: WorkerMetrics,
}

impl Loaded {
    /// Loads, warms up and checks the models of a repository. A model that cannot be served is
    /// left out, unless it is requested by name or `--exit-on-error` is set. Once `shutdown` is cancelled, no
    /// further model is loaded. Needs no broker, so a missing device is reported even while the
    /// broker is unreachable.
    pub async fn load(
        settings: &ModelSettings,
        process: &Process,
        shutdown: &CancellationToken,
    ) -> Result<Self, WorkerError> {
        settings.validate()?;
        let metrics = WorkerMetrics::register(&process.registry)?;
        let tracer = &process.tracer;
        let (wanted, store) = (&settings.models, settings.store());
        let fetching = settings.model_repository.fetch(wanted, &store);
        let Some(folder) = shutdown.run_until_cancelled(fetching).await.transpose()? else {
            return Ok(Self { models: Vec::new(), metrics });
        };
        let Scan { sources, bad } = repository::scan(&folder, wanted)?;
        // A model that is requested by name must be served.
        let mut unserved = Unserved::new(settings.exit_on_error || !wanted.is_empty());
        for BadModel { name, version, error } in bad {
            unserved.add(name, version, error.into())?;
        }
        let runtime = runtime(settings, &sources)?;
        // Measure all models before serving any, so that serving does not distort the measurements.
        let (mut models, mut turns) = (Vec::new(), DeviceTurns::default());
        for source in sources {
            if shutdown.is_cancelled() {
                return Ok(Self { models, metrics });
            }
            let QueueName { model, version } = source.queue.clone();
            let (runtime, tracer) = (runtime.clone(), tracer.clone());
            match Model::load_instances(settings, source, runtime, &mut turns, tracer).await {
                Ok(instances) => models.extend(instances),
                Err(error) => unserved.add(model, Some(version), error)?,
            }
        }
        let unavailable = unserved.announced(!models.is_empty())?;
        if let Some(first) = models.first_mut() {
            first.unavailable = unavailable;
        }
        for model in &models {
            process.liveness.require(model.liveness());
        }
        Ok(Self { models, metrics })
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
        if self.models.iter().any(|model| model.plan.provider != ExecutionProvider::Cpu.name()) {
            gpus::watch(self.metrics.gpus.clone(), shutdown.clone());
        }
        tokio::spawn(self.metrics.machine.clone().watch(shutdown.clone()));
        let drain = Drain::new(shutdown.clone(), drain_timeout);
        let mut worker = Worker { models: JoinSet::new(), shutdown, ready: false };
        let mut announced = Vec::new();
        for model in self.models {
            let Some(roles) = connect(broker.as_ref(), &model, &worker.shutdown).await else {
                return worker;
            };
            let is_announced = CancellationToken::new();
            announced.push(is_announced.clone());
            let metrics = self.metrics.of_model(model.queue(), model.plan.provider);
            metrics.memcpy_nodes.set(model.plan.memcpy_nodes.into());
            worker.models.spawn(model.serve(roles, metrics, is_announced, drain.clone()));
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
    shutdown: CancellationToken,
    ready: bool,
}

impl Worker {
    /// Runs [`Loaded::load`] and [`Loaded::serve`] with an unlimited drain timeout.
    pub async fn start(
        settings: &ModelSettings,
        broker: Arc<dyn Broker>,
        process: &Process,
        shutdown: CancellationToken,
    ) -> Result<Self, WorkerError> {
        let loaded = Loaded::load(settings, process, &shutdown).await?;
        Ok(loaded.serve(broker, shutdown, Duration::MAX).await)
    }

    /// Whether every model is announced and claims jobs, and no shutdown has begun.
    pub fn ready(&self) -> bool {
        self.ready && !self.shutdown.is_cancelled()
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
