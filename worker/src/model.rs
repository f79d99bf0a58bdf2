//! One model of a worker: loaded and warmed up on the thread of its engine, then served.

use std::{num::NonZeroU32, sync::Arc};

use batchfleet_broker::{
    Announcement, ModelSpec, QueueName, TargetSubscription, WorkerId, WorkerRoles,
};
use batchfleet_policy::{BatchMode, BatchPolicy, QueueLoad};
use batchfleet_service::{InvalidSettings, trace::Tracer};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    announce::Announcer,
    config::Backend,
    drain::Drain,
    engine::{
        self, Engine, EngineHandle,
        echo::Echo,
        onnx::{self, Onnx},
    },
    error::WorkerError,
    instances::{Instance, WorkerDevice, instances},
    metrics::ModelMetrics,
    pipeline::{Jobs, Pipeline},
    plan::ServingPlan,
    repository::ModelSource,
    retry::Outage,
    settings::ModelSettings,
    tuner::SharedTuner,
    warmup::{Climb, Profile, warm_up},
    watchdog,
};

/// `--max-batch-time` must be at least this multiple of the longest expected batch time, because
/// batches take longer on a busy machine.
const WATCHDOG_MARGIN: u32 = 3;

/// A loaded and warmed-up model.
#[derive(Debug)]
pub(crate) struct Model {
    /// The worker's id on the model's queue.
    pub(crate) worker: WorkerId,
    /// The name of the machine or pod.
    host: String,
    /// How to serve the model.
    pub(crate) plan: ServingPlan,
    engine: EngineHandle,
}

impl Model {
    /// Loads and warms up every instance of the model in `source`. Each instance has its own
    /// session, queue position and id, and is one more worker to gateways.
    pub(crate) async fn load_instances(
        settings: &ModelSettings,
        source: ModelSource,
        runtime: Option<Arc<onnx::Runtime>>,
        tracer: Tracer,
    ) -> Result<Vec<Self>, WorkerError> {
        let device = WorkerDevice {
            provider: settings.execution_provider,
            number: settings.device.unwrap_or_default(),
        };
        let instances = instances(&source.config.instances, device, settings.threads())
            .map_err(|problem| source.contradiction(problem))?;
        let mut models = Vec::new();
        for instance in instances {
            let (source, runtime, tracer) = (source.clone(), runtime.clone(), tracer.clone());
            models.push(Self::load(settings, source, runtime, instance, tracer).await?);
        }
        Ok(models)
    }

    async fn load(
        settings: &ModelSettings,
        source: ModelSource,
        runtime: Option<Arc<onnx::Runtime>>,
        instance: Instance,
        tracer: Tracer,
    ) -> Result<Self, WorkerError> {
        let (settings, host) = (settings.clone(), settings.host_name.clone());
        let name = source.queue.to_string();
        let load = move || {
            let mut engine = engine(&settings, &source, runtime.as_deref(), instance)?;
            let plan = plan(&settings, &source, engine.as_mut())?;
            let plan = ServingPlan { tracer, ..plan };
            Ok::<_, WorkerError>((engine, plan))
        };
        let (engine, plan) = engine::start(name, load).await?;
        Ok(Self { worker: WorkerId::random(), host, plan, engine })
    }

    /// The model's queue.
    pub(crate) fn queue(&self) -> &QueueName {
        &self.plan.spec.queue
    }

    /// Announces the model and serves its queue until the drain. Cancels `announced` after the
    /// first announcement.
    pub(crate) async fn serve(
        self,
        roles: WorkerRoles,
        metrics: ModelMetrics,
        announced: CancellationToken,
        drain: Drain,
    ) -> Result<(), WorkerError> {
        let max_batch_time = self.plan.max_batch_time;
        let clock = self.engine.clock().clone();
        watchdog::guard(self.queue().clone(), &clock, max_batch_time)?;
        let spec = ModelSpec::clone(&self.plan.spec);
        let announcement = Announcement {
            host: self.host,
            tracing: self.plan.tracer.is_on(),
            ..Announcement::new(self.worker, spec)
        };
        let WorkerRoles { claims, consumer, target } = roles;
        let jobs = Jobs { claims, consumer: consumer.clone() };
        let pipeline = Pipeline::new(self.plan, self.engine, jobs, metrics.clone(), drain.clone());
        let (tuner, drained) = (pipeline.tuner(), CancellationToken::new());
        let guided = tokio::spawn(guide(target, tuner.clone()));
        let announcer = Announcer { consumer, announcement, tuner, metrics, clock, max_batch_time };
        let announcing =
            tokio::spawn(announcer.run(announced.clone(), drain.clone(), drained.clone()));
        // A worker that claims before its first announcement would be presumed dead.
        tokio::select! {
            () = announced.cancelled() => {}
            () = drain.begun() => {}
        }
        let outcome = pipeline.run().await;
        guided.abort();
        drained.cancel();
        announcing.await?;
        outcome
    }
}

/// Passes the queue's guidance (batch target and number of workers) to `tuner` until aborted.
async fn guide(mut target: Box<dyn TargetSubscription>, tuner: SharedTuner) {
    let mut outage = Outage::new("read the batch target");
    loop {
        match target.guidance().await {
            Ok(guidance) => {
                outage.over();
                tuner.lock().adopt(guidance);
            }
            // The last target stays in effect.
            Err(error) => {
                outage.failed(&error);
                outage.pause().await;
            }
        }
    }
}

fn engine(
    settings: &ModelSettings,
    source: &ModelSource,
    runtime: Option<&onnx::Runtime>,
    instance: Instance,
) -> Result<Box<dyn Engine>, WorkerError> {
    let max_batch = settings.max_batch.get();
    Ok(match runtime {
        Some(runtime) if source.config.backend == Backend::OnnxRuntime => {
            Box::new(Onnx::load(source, runtime, instance, max_batch)?)
        }
        _ => Box::new(Echo::load(source, max_batch)?),
    })
}

/// Warms up the engine, and makes the plan from the measured batch times.
fn plan(
    settings: &ModelSettings,
    source: &ModelSource,
    engine: &mut dyn Engine,
) -> Result<ServingPlan, WorkerError> {
    let sizes = settings.batch_sizes.iter().map(|rows| rows.get()).collect();
    let climb = match settings.batch {
        BatchMode::Auto => Climb { sizes, up_to: u32::MAX, patience: Some(settings.slo_p99 * 2) },
        // A fixed N takes precedence over the latency target.
        BatchMode::Fixed(rows) => Climb { sizes, up_to: rows, patience: None },
    };
    let model = source.queue.clone();
    let Profile { cost, usable, mismatch } = warm_up(engine, &source.config.warmup, &climb)
        .map_err(|error| WorkerError::WarmUp { model: model.clone(), error })?;
    let checked = source.config.parameters.get("golden_check").is_none_or(|check| check != "off");
    if let Some(mismatch) = mismatch.filter(|_| checked) {
        return Err(WorkerError::Golden { model, mismatch });
    }
    let policy = BatchPolicy::new(settings.batch, usable, settings.slo_p99);
    let limit = policy.choose(&cost, &QueueLoad::unknown(1)).n;
    let provider = engine.provider();
    info!(%model, provider, limit, "loaded and warmed up");
    let mut spec = engine.spec().clone();
    if cost.has_fixed_sizes() {
        let largest = NonZeroU32::new(cost.largest());
        spec.max_batch = spec.max_batch.min(largest);
    }
    let plan = ServingPlan {
        spec: Arc::new(spec),
        provider,
        cost,
        policy,
        linger: settings.linger,
        max_batch_time: settings.max_batch_time,
        tracer: Tracer::default(),
    };
    check_watchdog(&plan, limit)?;
    Ok(plan)
}

/// Rejects settings with which the watchdog would mistake a slow batch for a hang.
fn check_watchdog(plan: &ServingPlan, limit: u32) -> Result<(), InvalidSettings> {
    let (model, max_batch_time) = (&plan.spec.queue, plan.max_batch_time);
    let takes = plan.cost.latency(limit);
    if takes >= max_batch_time {
        return Err(InvalidSettings::new(format_args!(
            "model {model} takes {takes:?} for a batch of {limit} rows, which --max-batch-time \
             {max_batch_time:?} takes for a hang: raise it to {:?} or more",
            takes * WATCHDOG_MARGIN
        )));
    }
    // A single request may have more rows than N.
    let largest = plan.spec.max_rows();
    let longest = plan.cost.latency(largest);
    if longest * WATCHDOG_MARGIN > max_batch_time {
        warn!(
            %model, largest, ?longest, ?max_batch_time,
            "--max-batch-time may take the largest request for a hang"
        );
    }
    Ok(())
}
