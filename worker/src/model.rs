//! One model of a worker: loaded and warmed up on the thread of its engine, then served.

use std::sync::Arc;

use batchfleet_broker::{
    Announcement, ModelSpec, QueueName, QueuePolicy, TargetSubscription, UnavailableModel,
    WorkerId, WorkerRoles,
};
use batchfleet_service::{LongTasks, TaskEnded, trace::Tracer};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    announce::Announcer,
    busy::BusyShare,
    config::Backend,
    drain::Drain,
    engine::{
        self, Engine, EngineHandle,
        echo::Echo,
        onnx::{self, Onnx},
        turns::DeviceTurn,
    },
    error::WorkerError,
    graph::Graph,
    instances::{Instance, WorkerDevices, instances},
    pipeline::{Jobs, Pipeline},
    plan::ServingPlan,
    prepare::{facts, plan},
    probe::Probed,
    repository::ModelSource,
    rescue::LastRenewal,
    resources::WorkerResources,
    retry::Outage,
    settings::{ExecutionProvider, ModelSettings},
    tuner::SharedTuner,
    watchdog,
};

/// A loaded and warmed-up model.
#[derive(Debug)]
pub(crate) struct Model {
    /// The worker's id on the model's queue.
    pub(crate) worker: WorkerId,
    /// The name of the machine or pod.
    host: String,
    /// Other models of the repository that cannot be served, to announce with this one.
    pub(crate) unavailable: Vec<UnavailableModel>,
    /// How to serve the model.
    pub(crate) plan: ServingPlan,
    /// The config with the values in effect.
    config: serde_json::Value,
    /// How long requests may wait, and how many.
    queue_policy: QueuePolicy,
    /// The number of instances of this model in the worker.
    instances: u32,
    engine: EngineHandle,
}

impl Model {
    /// Loads and warms up every instance of the model in `source`. Each instance has its own
    /// session, queue position and id, and is one more worker to gateways.
    pub(crate) async fn load_instances(
        settings: &ModelSettings,
        source: ModelSource,
        runtime: Option<Arc<onnx::Runtime>>,
        resources: &WorkerResources,
    ) -> Result<Vec<Self>, WorkerError> {
        let devices =
            WorkerDevices { provider: settings.execution_provider, numbers: settings.devices() };
        let instances = instances(&source.config.instances, &devices, settings.threads())
            .map_err(|problem| source.contradiction(problem))?;
        if !source.config.ignored.is_empty() {
            let fields = source.config.ignored.join(", ");
            warn!(model = %source.queue, fields, "config settings have no effect");
        }
        let mut models = Vec::new();
        let count = u32::try_from(instances.len()).unwrap_or(u32::MAX);
        let on =
            |device: u16| instances.iter().filter(|instance| instance.device == device).count();
        for &instance in &instances {
            let turn = match instance.provider {
                // Threads share the processor. Several instances of a model on one GPU are there to
                // run at the same time.
                ExecutionProvider::Cpu => DeviceTurn::default(),
                _ if on(instance.device) > 1 => DeviceTurn::default(),
                _ => resources.turns.lock().of(instance.device),
            };
            let (source, runtime, tracer) =
                (source.clone(), runtime.clone(), resources.tracer.clone());
            let model = Self::load(settings, source, runtime, (instance, turn), tracer).await?;
            models.push(Self { instances: count, ..model });
        }
        Ok(models)
    }

    async fn load(
        settings: &ModelSettings,
        source: ModelSource,
        runtime: Option<Arc<onnx::Runtime>>,
        (instance, turn): (Instance, DeviceTurn),
        tracer: Tracer,
    ) -> Result<Self, WorkerError> {
        let (settings, host) = (settings.clone(), settings.host_name.clone());
        let (name, queue_policy) = (source.queue.to_string(), source.config.queue_policy);
        let load = move || {
            let (mut engine, graph) = engine(&settings, &source, runtime.as_deref(), instance)?;
            let plan = plan(&settings, &source, engine.as_mut(), &graph)?;
            let plan = ServingPlan { tracer, ..plan };
            let config = source.config.in_effect(&plan.spec, plan.linger);
            Ok::<_, WorkerError>((engine, (plan, config)))
        };
        let (engine, (plan, config)) = engine::start(name, turn, load).await?;
        let (worker, unavailable) = (WorkerId::random(), Vec::new());
        Ok(Self { worker, host, unavailable, plan, config, queue_policy, instances: 1, engine })
    }

    /// Cancelled once the engine is freed.
    pub(crate) fn engine_ended(&self) -> CancellationToken {
        self.engine.ended()
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
        resources: WorkerResources,
        announced: CancellationToken,
        drain: Drain,
    ) -> Result<(), WorkerError> {
        let metrics = resources.metrics.of_model(self.queue(), self.plan.provider);
        metrics.memcpy_nodes.set(self.plan.memcpy_nodes.into());
        let max_batch_time = self.plan.max_batch_time;
        let is_live = self.engine.liveness(self.queue().to_string(), max_batch_time);
        let _checked = resources.liveness.require(is_live);
        let clock = self.engine.clock().clone();
        watchdog::guard(self.queue().clone(), &clock, max_batch_time)?;
        let spec = ModelSpec::clone(&self.plan.spec);
        let announcement = Announcement {
            host: self.host,
            unavailable: self.unavailable,
            tracing: self.plan.tracer.is_on(),
            classification: true,
            fetches: true,
            config: Some(self.config),
            queue_policy: self.queue_policy,
            notes: self.plan.notes.clone(),
            ..Announcement::new(self.worker, spec)
        };
        let WorkerRoles { claims, consumer, target } = roles;
        let renewal = LastRenewal::default();
        let jobs = Jobs { claims, consumer: consumer.clone(), renewal: renewal.clone() };
        let pipeline = Pipeline::new(self.plan, self.engine, jobs, metrics.clone(), drain.clone());
        let (tuner, drained) = (pipeline.tuner(), CancellationToken::new());
        let mut tasks = LongTasks::default();
        tasks.spawn("batch target", guide(target, tuner.clone()));
        let busy = BusyShare::new(clock.clone(), self.instances);
        let announcer = Announcer {
            consumer,
            announcement,
            renewal,
            tuner,
            metrics,
            clock,
            busy,
            max_batch_time,
        };
        let announcing = announcer.run(announced.clone(), drain.clone(), drained.clone());
        let mut announcing = tokio::spawn(announcing);
        // A worker that claims before its first announcement would be presumed dead.
        let serving = async {
            tokio::select! {
                () = announced.cancelled() => {}
                () = drain.begun() => {}
            }
            pipeline.run().await
        };
        let outcome = tokio::select! {
            outcome = serving => outcome,
            ended = tasks.ended() => return Err(ended.into()),
            ended = &mut announcing => {
                ended?;
                return Err(TaskEnded::returned("announcements").into());
            }
        };
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
) -> Result<(Box<dyn Engine>, Graph), WorkerError> {
    Ok(match runtime {
        Some(runtime) if source.config.backend == Backend::OnnxRuntime => {
            let bytes = source.read()?;
            let engine = Box::new(Onnx::load(source, &bytes, runtime, instance, settings)?);
            let facts = facts(source, &bytes.model);
            match instance.provider {
                ExecutionProvider::Cpu => (engine, facts),
                _ => (Box::new(Probed::new(engine)), facts),
            }
        }
        _ => (Box::new(Echo::load(source, settings.max_batch.get())?), Graph::default()),
    })
}
