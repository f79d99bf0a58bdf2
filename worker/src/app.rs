//! A worker from its settings to its end: find models, load and warm each, serve, drain.

use std::sync::Arc;

use batchfleet_broker::{Broker, Consumer};
use prometheus::Registry;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Backend,
    engine::onnx,
    error::WorkerError,
    metrics::WorkerMetrics,
    model::Model,
    repository::{self, ModelSource},
    retry::Outage,
    settings::ModelSettings,
};

/// A worker that serves every model of its settings.
#[derive(Debug)]
pub struct Worker {
    /// One task per model: its pipeline, then its leave.
    models: JoinSet<Result<(), WorkerError>>,
    shutdown: CancellationToken,
    ready: bool,
}

impl Worker {
    /// Loads and warms every model, then serves them. Returns once all are announced, or when
    /// `shutdown` is cancelled before that; then [`Worker::join`].
    pub async fn start(
        settings: &ModelSettings,
        broker: Arc<dyn Broker>,
        registry: &Registry,
        shutdown: CancellationToken,
    ) -> Result<Self, WorkerError> {
        settings.validate()?;
        let metrics = WorkerMetrics::register(registry)?;
        let sources = repository::scan(&settings.model_repository, &settings.models)?;
        let runtime = runtime(settings, &sources)?;
        // A failing model ends this worker only, never those that share the token.
        let shutdown = shutdown.child_token();
        let mut worker = Self { models: JoinSet::new(), shutdown: shutdown.clone(), ready: false };
        // All are timed before any of them computes for somebody else.
        let mut models = Vec::new();
        for source in sources {
            if shutdown.is_cancelled() {
                return Ok(worker);
            }
            models.push(Model::load(settings, source, runtime.clone()).await?);
        }
        let mut announced = Vec::new();
        for model in models {
            let Some(consumer) = connect(broker.as_ref(), &model, &shutdown).await else {
                return Ok(worker);
            };
            let told = Arc::new(Notify::new());
            announced.push(Arc::clone(&told));
            let metrics = metrics.of_model(model.queue(), model.plan.provider);
            worker.models.spawn(model.serve(consumer, metrics, told, shutdown.clone()));
        }
        for announced in announced {
            tokio::select! {
                () = announced.notified() => {}
                () = shutdown.cancelled() => return Ok(worker),
            }
        }
        worker.ready = true;
        Ok(worker)
    }

    /// Whether every model is announced and claims jobs, rather than shutdown came first.
    pub fn ready(&self) -> bool {
        self.ready && !self.shutdown.is_cancelled()
    }

    /// Waits for the end: after shutdown, running batches are finished and answered, and what was
    /// claimed but not run is handed back. One model that fails drains all.
    pub async fn join(mut self) -> Result<(), WorkerError> {
        let mut outcome = Ok(());
        while let Some(ended) = self.models.join_next().await {
            self.shutdown.cancel();
            outcome = outcome.and(ended.map_err(WorkerError::from).and_then(|ended| ended));
        }
        outcome
    }
}

/// ONNX Runtime, if any model needs it.
fn runtime(
    settings: &ModelSettings,
    sources: &[ModelSource],
) -> Result<Option<Arc<onnx::Runtime>>, WorkerError> {
    if sources.iter().all(|source| source.config.backend == Backend::Echo) {
        return Ok(None);
    }
    let device = settings.device.unwrap_or_default().into();
    let (provider, threads) = (settings.execution_provider, settings.threads());
    let runtime = onnx::Runtime::open(&settings.library()?, provider, device, threads)?;
    Ok(Some(Arc::new(runtime)))
}

/// The role on the model's queue, however long the broker is away; `None` on shutdown.
async fn connect(
    broker: &dyn Broker,
    model: &Model,
    shutdown: &CancellationToken,
) -> Option<Arc<dyn Consumer>> {
    let mut outage = Outage::new("reach the broker");
    loop {
        match broker.consumer(model.queue().clone(), model.worker).await {
            Ok(consumer) => {
                outage.over();
                return Some(consumer);
            }
            Err(error) => outage.failed(&error),
        }
        tokio::select! {
            () = outage.pause() => {}
            () = shutdown.cancelled() => return None,
        }
    }
}
