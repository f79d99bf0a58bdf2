//! One model of a worker: loaded and warmed on the thread that will run it, then served.

use std::sync::Arc;

use batchfleet_broker::{Announcement, Consumer, ModelSpec, QueueName, WorkerId};
use batchfleet_policy::{BatchMode, BatchPolicy};
use tokio::sync::Notify;
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
    metrics::ModelMetrics,
    pipeline::{Pipeline, Plan},
    repository::ModelSource,
    settings::ModelSettings,
    warmup::{Climb, warm_up},
};

/// A loaded and warmed model.
#[derive(Debug)]
pub(crate) struct Model {
    /// Under which name its queue is read.
    pub(crate) worker: WorkerId,
    /// How it will be served.
    pub(crate) plan: Plan,
    engine: EngineHandle,
}

impl Model {
    /// Loads and warms it.
    pub(crate) async fn load(
        settings: &ModelSettings,
        source: ModelSource,
        runtime: Option<Arc<onnx::Runtime>>,
    ) -> Result<Self, WorkerError> {
        let settings = settings.clone();
        let name = source.queue.to_string();
        let load = move || {
            let mut engine = engine(&settings, &source, runtime.as_deref())?;
            let plan = plan(&settings, &source, engine.as_mut())?;
            Ok::<_, WorkerError>((engine, plan))
        };
        let (engine, plan) = engine::start(name, load).await?;
        Ok(Self { worker: WorkerId::random(), plan, engine })
    }

    /// The queue it serves.
    pub(crate) fn queue(&self) -> &QueueName {
        &self.plan.spec.queue
    }

    /// Claims, runs and answers until shutdown; announces it all the while.
    pub(crate) async fn serve(
        self,
        consumer: Arc<dyn Consumer>,
        metrics: ModelMetrics,
        announced: Arc<Notify>,
        shutdown: CancellationToken,
    ) -> Result<(), WorkerError> {
        let drained = CancellationToken::new();
        let announcement = Announcement::new(self.worker, ModelSpec::clone(&self.plan.spec));
        let announcing =
            tokio::spawn(announce(consumer.clone(), announcement, announced, drained.clone()));
        let pipeline = Pipeline::new(self.plan, self.engine, consumer, metrics, shutdown);
        let outcome = pipeline.run().await;
        drained.cancel();
        announcing.await?;
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

/// Warms the engine up: its times make the plan.
fn plan(
    settings: &ModelSettings,
    source: &ModelSource,
    engine: &mut dyn Engine,
) -> Result<Plan, WorkerError> {
    let climb = match settings.batch {
        BatchMode::Auto => Climb { up_to: u32::MAX, patience: Some(settings.slo_p99 * 2) },
        // Whoever sets N by hand has decided about latency too.
        BatchMode::Fixed(rows) => Climb { up_to: rows, patience: None },
    };
    let profile = warm_up(engine, &source.config.warmup, climb)
        .map_err(|error| WorkerError::WarmUp { model: source.queue.clone(), error })?;
    let policy =
        BatchPolicy { mode: settings.batch, max_batch: profile.usable, slo: settings.slo_p99 };
    let limit = policy.limit(&profile.cost, 1);
    let provider = engine.provider();
    info!(model = %source.queue, provider, limit, "loaded and warmed up");
    Ok(Plan {
        spec: Arc::new(engine.spec().clone()),
        provider,
        text_only: engine.text_only(),
        cost: profile.cost,
        policy,
        linger: settings.linger,
    })
}
