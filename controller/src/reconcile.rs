//! One turn of a fleet: observe, decide, apply, report, publish.

mod by_hand;
mod context;
mod fleets;
mod retract;
#[cfg(test)]
mod tests;
mod trouble;

use std::{iter, sync::Arc, time::Duration};

use batchfleet_broker::{Announcement, BrokerError, roles::REMEMBERED};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    ResourceExt,
    runtime::{controller::Action, events::EventType},
};
use tracing::{debug, info, warn};

pub(crate) use self::{
    context::{Context, EventSink},
    fleets::FleetStates,
};
use self::{
    fleets::{Decided, FleetState, next_tick},
    trouble::{Trouble, trouble},
};
use crate::{
    cluster::{Change, ClusterState, Written},
    crd::{ModelFleet, ModelFleetStatus, ScalingMode},
    decide::{Decision, FleetInput, slo},
    error::ControlError,
    objects::{FleetObjects, MANAGER},
    observe::FleetView,
    pods::jobs_by_host,
    problem, refusal,
    report::{self, Findings},
    scaled_by::ScaledBy,
    target::{self, PublishedTarget},
};

/// For how long a controller that starts may be without Redis before it reports that.
const STARTING: Duration = Duration::from_secs(10);
/// Interval at which a fleet at zero workers is checked for requests.
const WAKE_CHECK: Duration = Duration::from_secs(1);
/// A worker announces itself in Redis before its pod is ready, and a snapshot of Redis is up to one
/// tick old. A pod that is ready for longer without an announcement is silent.
const SILENT: SignedDuration = SignedDuration::from_secs(15);
/// Interval at which the names of dead workers are removed from Redis.
const TIDY: Duration = Duration::from_mins(10);

/// Runs one turn of a fleet. The next turn starts at the next tick, so that all fleets share one
/// snapshot of Redis. Between ticks, a fleet at zero workers is only checked for requests.
pub(crate) async fn reconcile(
    fleet: Arc<ModelFleet>,
    context: Arc<Context>,
) -> Result<Action, ControlError> {
    if fleet.metadata.deletion_timestamp.is_some() {
        // Kubernetes deletes the objects that the fleet owns.
        deleting(&fleet, &context).await;
        context.forget(&fleet.uid().unwrap_or_default());
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

/// Handles a failed turn. The next turn follows at the next tick, as after any turn: the fleet must be
/// scaled and reported although a write is refused. `Cluster` repeats refused writes less often.
pub(crate) fn after(fleet: &ModelFleet, error: &ControlError, context: &Context) -> Action {
    let (name, code, cause) = (fleet.name_any(), error.code(), error.cause());
    let failures = context.fleets.failures(fleet);
    // An outage must not fill the log.
    if failures.is_power_of_two() {
        warn!(fleet = name, code, error = cause, failures, "turn failed");
    } else {
        debug!(fleet = name, code, error = cause, failures, "turn failed");
    }
    let now = context.started.elapsed();
    let is_at_zero = context.fleets.is_at_zero(fleet, now);
    Action::requeue(if is_at_zero { pause_at_zero(context) } else { next_tick(now) })
}

async fn turn(
    fleet: &ModelFleet,
    state: &mut FleetState,
    context: &Context,
) -> Result<(), ControlError> {
    let existing = match context.cluster.state(fleet, &context.fleets.versions()).await {
        Ok(existing) => existing,
        Err(error) => {
            unreadable(fleet, state, &error, context).await;
            return Err(error);
        }
    };
    state.pods.observe(&existing.pods);
    let now = context.started.elapsed();
    let decided = decide(fleet, state, &existing, now, context).await;
    let Decided { decision, input, view, .. } = &decided;
    let is_surplus = existing.elder.is_some();
    let decision = &if is_surplus { decision.surplus() } else { decision.clone() };
    context.fleets.served.note(view);
    if let Some(version) = view.own_version {
        context.fleets.serves(fleet, version);
    }
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
    let trouble = trouble(fleet, state, &existing, input, context).await;
    let mut findings = findings(fleet, &existing, &decided, trouble, now < STARTING);
    let mut failures = Vec::new();
    if !findings.conflicts.blocks_writes {
        let jobs = jobs_by_host(&view.workers, &view.held);
        let shrinks = decision.size.floor < input.ordered;
        let annotations = state.pods.annotations(now, &existing.pods, &jobs, shrinks);
        context.cluster.annotate(annotations).await;
        if fleet.spec.scaling.mode == ScalingMode::Hpa && existing.deployment.owned().is_some() {
            scaled_by_hand(fleet, state, &decided, &findings.scaled_by, context).await;
        }
        let written = Box::pin(apply(fleet, &existing, decision, &findings, context)).await;
        findings.unwritten = written.failures.first().map(refusal::of_write);
        findings.overridden = written.overridden;
        failures.extend(written.failures);
    }
    let status = report::status(fleet, input, decision, &findings, Timestamp::now());
    failures.extend(write_status(fleet, &status, context).await.err());
    if !is_surplus {
        // Redis comes last, because workers can run without these updates. Changes in Kubernetes must
        // not wait for Redis.
        promise(state, decision, context).await;
        tidy(state, view, now, context).await;
        failures.extend(publish_target(state, decision, view, now, context).await.err());
    }
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// Writes the status of a fleet, its events and its metrics.
async fn write_status(
    fleet: &ModelFleet,
    status: &ModelFleetStatus,
    context: &Context,
) -> Result<(), ControlError> {
    let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet.name_any());
    context.metrics.reported([&namespace, &name], &status.conditions);
    for event in report::events(fleet.status.as_ref(), status) {
        context.events.publish(fleet, &event).await;
    }
    context.cluster.report(fleet, status).await
}

/// Reports that the objects of a fleet cannot be read. One failure is not reported: a watch that broke
/// is restored within a second.
async fn unreadable(
    fleet: &ModelFleet,
    state: &FleetState,
    error: &ControlError,
    context: &Context,
) {
    if state.failures == 0 || !*context.leads.borrow() {
        return;
    }
    let status = report::unreadable(fleet, &refusal::of_read(error), Timestamp::now());
    if let Err(error) = write_status(fleet, &status, context).await {
        debug!(fleet = fleet.name_any(), %error, "status not written");
    }
}

/// Reports that a fleet waits for finalizers. A fleet without finalizers is gone at once.
async fn deleting(fleet: &ModelFleet, context: &Context) {
    if fleet.finalizers().is_empty() || !*context.leads.borrow() {
        return;
    }
    let status = report::deleting(fleet, Timestamp::now());
    if let Err(error) = context.cluster.report(fleet, &status).await {
        debug!(fleet = fleet.name_any(), %error, "status not written");
    }
}

/// Returns what this turn finds out beside the decision.
fn findings(
    fleet: &ModelFleet,
    existing: &ClusterState,
    decided: &Decided,
    trouble: Trouble,
    is_starting: bool,
) -> Findings {
    let now = Timestamp::now();
    let (mode, input) = (fleet.spec.scaling.mode, &decided.input);
    let is_announced = input.workers.iter().any(|worker| worker.live);
    Findings {
        conflicts: existing.conflicts(mode),
        problem: trouble.problem,
        activity: trouble.activity,
        unwritten: None,
        overridden: None,
        is_starting,
        is_silent: input.redis_error.is_none()
            && !is_announced
            && problem::has_served(&existing.pods, SILENT, now),
        scaled_by: ScaledBy::of(mode, existing.autoscaler.owned(), input.ready > 0, now),
    }
}

/// Publishes an event if another client has scaled the Deployment, which has an autoscaler.
async fn scaled_by_hand(
    fleet: &ModelFleet,
    state: &mut FleetState,
    decided: &Decided,
    scaled_by: &ScaledBy,
    context: &Context,
) {
    let (ordered, floor) = (decided.input.ordered, decided.decision.size.floor);
    let wanted: Vec<_> = scaled_by.autoscaler_wants().into_iter().chain([floor]).collect();
    let now = context.started.elapsed();
    let Some(change) = state.replicas.observe(ordered, &wanted, now) else { return };
    let client = context.cluster.scaler(&fleet.name_any()).await;
    let client = client.as_deref();
    if !change.is_settled(client) {
        return;
    }
    state.replicas.settle(ordered);
    if let Some(note) = change.note(client, scaled_by, floor) {
        let event = report::event(EventType::Normal, "ScaledByHand", "Scale", &note);
        context.events.publish(fleet, &event).await;
    }
}

/// Applies the objects of a fleet, and scales its Deployment where its autoscaler does not.
async fn apply(
    fleet: &ModelFleet,
    existing: &ClusterState,
    decision: &Decision,
    findings: &Findings,
    context: &Context,
) -> Written {
    let defaults = context.defaults(fleet, existing);
    let objects = FleetObjects::of(fleet, decision.size, &defaults);
    let mut written = context.cluster.apply(fleet, objects, existing).await;
    for change in &written.changes {
        let (reason, note) = match change {
            Change::SetBack(note) => ("ChangeSetBack", note),
            Change::Overridden(note) => ("ChangedOnWrite", note),
        };
        let event = report::event(EventType::Normal, reason, "Apply", note);
        context.events.publish(fleet, &event).await;
    }
    let (floor, ordered) = (decision.size.floor, existing.ordered());
    let is_missing = existing.deployment.owned().is_none();
    let crosses_zero = (ordered == 0) != (floor == 0);
    let corrects = findings.scaled_by.is_controller_instead() && floor != ordered;
    if fleet.spec.scaling.mode == ScalingMode::Hpa && !is_missing && (crosses_zero || corrects) {
        info!(
            fleet = fleet.name_any(),
            from = ordered,
            to = floor,
            "scaled in place of the autoscaler"
        );
        written.failures.extend(context.cluster.scale(&fleet.name_any(), floor).await.err());
    }
    written
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
    let redis_error = view.as_ref().err().map(cause);
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
    let input =
        FleetInput { reading, waiting, workers, ready, ordered, cold_start, is_new, redis_error };
    let decision = state.memory.decide(&fleet.spec, now, &input);
    debug!(fleet = fleet.name_any(), explanation = decision.explanation, "decided");
    let generation = fleet.metadata.generation;
    let decided = Decided { at: now, generation, decision, input, view };
    state.decided = Some(decided.clone());
    decided
}

/// Returns the cause of a failed read, without the words that all failures share.
fn cause(error: &BrokerError) -> String {
    match error {
        BrokerError::Unreachable(cause) => cause.to_string(),
        other => other.to_string(),
    }
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
