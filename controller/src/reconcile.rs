//! One turn of a fleet: observe, decide, apply, report, publish.

mod fleets;
#[cfg(test)]
mod tests;

use std::{iter, sync::Arc, time::Duration};

use batchfleet_broker::{Announcement, BrokerError, Controller, Observer, roles::REMEMBERED};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Resource, ResourceExt,
    runtime::{
        controller::Action,
        events::{Event, Recorder},
    },
};
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

pub(crate) use self::fleets::FleetStates;
use self::fleets::{Decided, FleetState, next_tick};
use crate::{
    cluster::{Cluster, ClusterState, Existing},
    crd::{ModelFleet, ScalingMode},
    decide::{Decision, FleetInput, TICK, slo},
    error::ControlError,
    metrics::ControllerMetrics,
    objects::{FleetObjects, MANAGER, WorkerDefaults},
    observe::FleetView,
    pods::jobs_by_host,
    report,
    snapshot::Snapshots,
    target::{self, PublishedTarget},
};

/// Upper bound of the pause after repeated failures.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// Interval at which a fleet at zero workers is checked for requests.
const WAKE_CHECK: Duration = Duration::from_secs(1);
/// Interval at which the names of dead workers are removed from Redis.
const TIDY: Duration = Duration::from_mins(10);

/// State shared by all turns.
pub(crate) struct Context {
    pub(crate) cluster: Cluster,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) controller: Arc<dyn Controller>,
    pub(crate) defaults: WorkerDefaults,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: ControllerMetrics,
    /// Whether this process is the leader. The other controllers also observe and decide but do not
    /// write, so that they know the load when they become leader.
    pub(crate) leads: watch::Receiver<bool>,
    pub(crate) started: Instant,
    pub(crate) fleets: FleetStates,
}

/// Runs one turn of a fleet. The next turn starts at the next tick, so that all fleets share one
/// snapshot of Redis. Between ticks, a fleet at zero workers is only checked for requests.
pub(crate) async fn reconcile(
    fleet: Arc<ModelFleet>,
    context: Arc<Context>,
) -> Result<Action, ControlError> {
    if fleet.meta().deletion_timestamp.is_some() {
        // Kubernetes deletes the objects that the fleet owns.
        let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet.name_any());
        let conditions = fleet.status.as_ref().map_or(&[][..], |status| &status.conditions);
        context.metrics.forget([&namespace, &name], conditions);
        return Ok(Action::await_change());
    }
    let mut state = context.fleets.take(&fleet);
    if let Some(view) = state.at_zero(&fleet, context.started.elapsed()) {
        if !has_new_request(view, &context).await {
            context.fleets.put(&fleet, state);
            return Ok(Action::requeue(pause_at_zero(&context)));
        }
        // A request has arrived: decide again before the next tick.
        state.decided = None;
    }
    let result = Box::pin(turn(&fleet, &mut state, &context)).await;
    state.failures = if result.is_ok() { 0 } else { state.failures + 1 };
    let now = context.started.elapsed();
    let is_at_zero = state.at_zero(&fleet, now).is_some();
    context.fleets.put(&fleet, state);
    let code = result.as_ref().map_or_else(ControlError::code, |()| "ok");
    context.metrics.turns.with_label_values(&[code]).inc();
    let pause = if is_at_zero { pause_at_zero(&context) } else { next_tick(now) };
    result.map(|()| Action::requeue(pause))
}

/// Returns whether a fleet at zero workers has received a request since this view was read.
async fn has_new_request(view: &FleetView, context: &Context) -> bool {
    let Ok(snapshot) = context.snapshots.latest().await else { return false };
    view.has_new_request(&snapshot, context.observer.as_ref()).await.unwrap_or(false)
}

fn pause_at_zero(context: &Context) -> Duration {
    WAKE_CHECK.min(next_tick(context.started.elapsed()))
}

/// Handles a failed turn: retries after a pause that grows with each failure.
pub(crate) fn after(fleet: &ModelFleet, error: &ControlError, context: &Context) -> Action {
    let pause = pause(context.fleets.failures(fleet));
    warn!(fleet = fleet.name_any(), code = error.code(), %error, ?pause, "turn failed");
    Action::requeue(pause)
}

/// Returns the pause before the next turn: 5 s, 10 s, 20 s ... 5 minutes.
fn pause(failures: u32) -> Duration {
    (TICK * 2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(LONGEST_PAUSE)
}

async fn turn(
    fleet: &ModelFleet,
    state: &mut FleetState,
    context: &Context,
) -> Result<(), ControlError> {
    let existing = context.cluster.state(fleet).await?;
    state.pods.observe(&existing.pods);
    let now = context.started.elapsed();
    let decided = decide(fleet, state, &existing, now, context).await;
    let Decided { decision, input, view, .. } = &decided;
    let leads = *context.leads.borrow();
    context.metrics.leading.set(leads.into());
    let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet.name_any());
    let labels = [namespace.as_str(), &name];
    context.metrics.decided(labels, decision);
    if !leads {
        let conditions = fleet.status.as_ref().map_or(&[][..], |status| &status.conditions);
        context.metrics.reported(labels, conditions);
        return Ok(());
    }
    let mode = fleet.spec.scaling.mode;
    let conflicts = existing.conflicts(mode);
    if !conflicts.blocks_writes {
        let objects = FleetObjects::of(fleet, decision.size, &context.defaults);
        Box::pin(context.cluster.apply(fleet, objects, &existing)).await?;
        if mode == ScalingMode::Hpa {
            scale_from_or_to_zero(fleet, &existing, decision.size.floor, context).await?;
        }
        let jobs = jobs_by_host(&view.workers, &view.held);
        let shrinks = decision.size.floor < input.ordered;
        let annotations = state.pods.annotations(now, &existing.pods, &jobs, shrinks);
        context.cluster.annotate(annotations).await;
    }
    let status = report::status(fleet, input, decision, &conflicts, Timestamp::now());
    context.metrics.reported(labels, &status.conditions);
    for event in report::events(fleet.status.as_ref(), &status) {
        publish_event(fleet, &event, context).await;
    }
    context.cluster.report(fleet, &status).await?;
    // Redis comes last, because workers can run without these updates. Changes in Kubernetes must
    // not wait for Redis.
    promise(state, decision, context).await;
    tidy(state, view, now, context).await;
    publish_target(state, decision, view, now, context).await
}

/// Returns the decision of this tick: the existing decision, or a new one.
async fn decide(
    fleet: &ModelFleet,
    state: &mut FleetState,
    existing: &ClusterState,
    now: Duration,
    context: &Context,
) -> Decided {
    let (ready, ordered) = (existing.ready(), existing.ordered());
    if let Some(decided) = state.decided.as_ref().filter(|decided| decided.holds(fleet, now)) {
        // The decision stays the same, but the status must show the current number of workers.
        let input = FleetInput { ready, ordered, ..decided.input.clone() };
        return Decided { input, ..decided.clone() };
    }
    let view = observe(fleet, state, existing, context).await;
    let is_new = view.as_ref().is_ok_and(|(view, _)| view.workers.is_empty());
    let (view, at) = view.unwrap_or_else(|error| {
        warn!(fleet = fleet.name_any(), %error, "failed to read Redis, no worker is removed");
        (FleetView::default(), now)
    });
    if let Some(announcement) = view.memorable() {
        state.remembered = Some(announcement.clone());
    }
    let reading = view.queue.as_ref().and_then(|queue| {
        let queues: Vec<_> = iter::once(queue).chain(&view.other_queues).collect();
        state.meter.read(at, &view.traffic, &queues, slo(&fleet.spec))
    });
    let (workers, waiting) = (view.workers.clone(), view.waiting);
    let last = fleet.status.as_ref().and_then(|status| status.cold_start_seconds);
    let last = last.map(|seconds| Duration::from_secs(seconds.into()));
    let cold_start = state.pods.cold_start().or(last);
    let input = FleetInput { reading, waiting, workers, ready, ordered, cold_start, is_new };
    let decision = state.memory.decide(&fleet.spec, now, &input);
    debug!(fleet = fleet.name_any(), explanation = decision.explanation, "decided");
    let generation = fleet.metadata.generation;
    let decided = Decided { at: now, generation, decision, input, view };
    state.decided = Some(decided.clone());
    decided
}

/// Reads the state of the fleet in Redis. Also returns the time of the snapshot.
async fn observe(
    fleet: &ModelFleet,
    state: &FleetState,
    existing: &ClusterState,
    context: &Context,
) -> Result<(FleetView, Duration), BrokerError> {
    let snapshot = context.snapshots.latest().await?;
    let hosts = existing.pods.iter().map(|pod| pod.name_any()).collect();
    let (observer, remembered) = (context.observer.as_ref(), state.remembered.as_ref());
    let view = FleetView::read(&snapshot, observer, fleet, &hosts, remembered).await?;
    Ok((view, snapshot.at.saturating_duration_since(context.started)))
}

/// Scales the Deployment from zero or to zero. An autoscaler is inactive at zero workers and never
/// scales to zero.
async fn scale_from_or_to_zero(
    fleet: &ModelFleet,
    existing: &ClusterState,
    floor: u32,
    context: &Context,
) -> Result<(), ControlError> {
    let ordered = existing.ordered();
    if !matches!(existing.deployment, Existing::Owned(_)) || (ordered == 0) == (floor == 0) {
        return Ok(());
    }
    info!(fleet = fleet.name_any(), from = ordered, to = floor, "scaled from or to zero");
    context.cluster.scale(&fleet.name_any(), floor).await
}

/// Promises a worker to gateways, if the decision includes a promise. A failed promise is repeated
/// in the next turn.
async fn promise(state: &FleetState, decision: &Decision, context: &Context) {
    let Some(expected) = state.remembered.as_ref().filter(|_| decision.promises) else { return };
    // Under the controller's name, so that the promise does not count as an announcement of the
    // remembered worker.
    let worker = MANAGER.to_owned();
    let expected = Announcement { worker, host: String::new(), ..expected.clone() };
    if let Err(error) = context.controller.promise(&expected).await {
        debug!(%error, "failed to publish promise");
    }
}

/// Removes the names of dead workers from the queue, once per [`TIDY`].
async fn tidy(state: &mut FleetState, view: &FleetView, now: Duration, context: &Context) {
    let is_due = state.tidied.is_none_or(|last| now.saturating_sub(last) >= TIDY);
    let Some(queue) = view.queue.as_ref().filter(|_| is_due) else { return };
    state.tidied = Some(now);
    match context.controller.forget(queue, REMEMBERED).await {
        Ok(0) => {}
        Ok(removed) => info!(%queue, removed, "removed names of dead workers"),
        Err(error) => debug!(%error, "failed to remove names of dead workers"),
    }
}

async fn publish_target(
    state: &mut FleetState,
    decision: &Decision,
    view: &FleetView,
    now: Duration,
    context: &Context,
) -> Result<(), ControlError> {
    let wish = decision.wish;
    let Some(queue) = &view.queue else { return Ok(()) };
    if target::is_due(state.published, wish, &view.workers, now) {
        let epoch = context.controller.publish(queue, wish).await?;
        state.published = Some(PublishedTarget { wish, epoch, at: now });
        info!(%queue, epoch, "published batch target");
    }
    Ok(())
}

/// Publishes an event. Failures are harmless.
async fn publish_event(fleet: &ModelFleet, event: &Event, context: &Context) {
    if let Err(error) = context.recorder.publish(event, &fleet.object_ref(&())).await {
        debug!(%error, "failed to publish event");
    }
}
