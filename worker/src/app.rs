//! A worker from its settings to its end: find models, load and warm each, serve, drain.

use std::sync::Arc;

use batchfleet_broker::{Announcement, Broker, Consumer, ModelSpec, WorkerId};
use batchfleet_policy::{BatchMode, BatchPolicy};
use prometheus::Registry;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    announce::announce,
    config::Backend,
    engine::{
        self, Engine, EngineHandle,
        echo::Echo,
        onnx::{self, Onnx},
    },
    error::WorkerError,
    metrics::{ModelMetrics, WorkerMetrics},
    pipeline::{Pipeline, Plan},
    repository::{self, ModelSource},
    retry::Outage,
    settings::ModelSettings,
    warmup::{Climb, warm_up},
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
        let mut announced = Vec::new();
        for source in sources {
            let model = Model::load(settings, source, runtime.clone()).await?;
            let id = WorkerId::random();
            let Some(consumer) = connect(broker.as_ref(), &model, id, &shutdown).await else {
                break;
            };
            let told = Arc::new(Notify::new());
            announced.push(Arc::clone(&told));
            let metrics = metrics.of_model(&model.plan.spec.queue, model.provider);
            worker.models.spawn(model.serve(id, consumer, metrics, told, shutdown.clone()));
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
    worker: WorkerId,
    shutdown: &CancellationToken,
) -> Option<Arc<dyn Consumer>> {
    let mut outage = Outage::new("reach the broker");
    loop {
        match broker.consumer(model.plan.spec.queue.clone(), worker).await {
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

/// A loaded and warmed model.
struct Model {
    engine: EngineHandle,
    provider: &'static str,
    plan: Plan,
}

impl Model {
    /// Loads and warms it on the thread that will run it.
    async fn load(
        settings: &ModelSettings,
        source: ModelSource,
        runtime: Option<Arc<onnx::Runtime>>,
    ) -> Result<Self, WorkerError> {
        let settings = settings.clone();
        let name = source.queue.to_string();
        let load = move || {
            let engine = engine(&settings, &source, runtime.as_deref())?;
            prepare(&settings, &source, engine)
        };
        let (engine, (provider, plan)) = engine::start(name, load).await?;
        Ok(Self { engine, provider, plan })
    }

    /// Claims, runs and answers until shutdown; announces it all the while.
    async fn serve(
        self,
        worker: WorkerId,
        consumer: Arc<dyn Consumer>,
        metrics: ModelMetrics,
        told: Arc<Notify>,
        shutdown: CancellationToken,
    ) -> Result<(), WorkerError> {
        let drained = CancellationToken::new();
        let announcement = Announcement::new(worker, ModelSpec::clone(&self.plan.spec));
        let leave = announce(Arc::clone(&consumer), announcement, told, drained.clone());
        let leave = tokio::spawn(leave);
        let pipeline = Pipeline::new(self.plan, self.engine, consumer, metrics, shutdown);
        let outcome = pipeline.run().await;
        drained.cancel();
        leave.await?;
        outcome
    }
}

fn engine(
    settings: &ModelSettings,
    source: &ModelSource,
    runtime: Option<&onnx::Runtime>,
) -> Result<Box<dyn Engine>, WorkerError> {
    let max_batch = settings.max_batch.get();
    Ok(match runtime {
        Some(runtime) if source.config.backend == Backend::OnnxRuntime => {
            Box::new(Onnx::load(source, runtime, max_batch)?)
        }
        _ => Box::new(Echo::load(source, max_batch)?),
    })
}

/// Warms an engine, which tells the rest of its plan.
fn prepare(
    settings: &ModelSettings,
    source: &ModelSource,
    mut engine: Box<dyn Engine>,
) -> Result<(Box<dyn Engine>, (&'static str, Plan)), WorkerError> {
    let climb = match settings.batch {
        BatchMode::Auto => {
            Climb { up_to: settings.max_batch.get(), patience: Some(settings.slo_p99 * 2) }
        }
        // Whoever sets N by hand has decided about latency too.
        BatchMode::Fixed(rows) => Climb { up_to: rows, patience: None },
    };
    let profile = warm_up(engine.as_mut(), &source.config.warmup, climb)
        .map_err(|error| WorkerError::WarmUp { model: source.queue.clone(), error })?;
    let policy =
        BatchPolicy { mode: settings.batch, max_batch: profile.usable, slo: settings.slo_p99 };
    let plan = Plan {
        spec: Arc::new(engine.spec().clone()),
        text_only: engine.text_only(),
        cost: profile.cost,
        policy,
        linger: settings.linger,
    };
    info!(model = %source.queue, limit = policy.limit(&plan.cost, 1), "ready to serve");
    let provider = engine.provider();
    Ok((engine, (provider, plan)))
}
