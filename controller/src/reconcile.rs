//! One turn of a fleet: look, decide, apply, tell, report.

use std::{
    collections::HashMap,
    iter,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use batchfleet_broker::{Announcement, Controller, Observer, roles::REMEMBERED};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Client, Resource, ResourceExt,
    runtime::{
        controller::Action,
        events::{Event, Recorder},
    },
};
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

use crate::{
    cluster::{Cluster, Others, Place, Standing},
    crd::{ModelFleet, ScalingMode},
    decide::{Decision, Memory, Seen, TICK, slo},
    error::ControlError,
    meter::Meter,
    metrics::ControllerMetrics,
    objects::{MANAGER, Objects, WorkerDefaults},
    observe::{Look, look},
    pods::{Pods, jobs_by_host},
    report,
    tell::{self, Told},
};

/// The longest pause after one failure after another.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// How often it is asked whether somebody wants a fleet that sleeps.
const BLINK: Duration = Duration::from_secs(1);
/// How often the names of workers that are gone are looked for.
const TIDY: Duration = Duration::from_mins(10);

/// What all turns share.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) controller: Arc<dyn Controller>,
    pub(crate) defaults: WorkerDefaults,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: ControllerMetrics,
    /// Whether this process may write; those who may not keep looking, so as to know the load when
    /// they may.
    pub(crate) leads: watch::Receiver<bool>,
    pub(crate) started: Instant,
    pub(crate) fleets: Fleets,
    pub(crate) others: Others,
}

/// What is remembered of each fleet, by its uid.
#[derive(Debug, Default)]
pub(crate) struct Fleets(Mutex<HashMap<String, Fleet>>);

/// What is remembered of one fleet.
#[derive(Debug, Default)]
struct Fleet {
    memory: Memory,
    meter: Meter,
    /// The last decision, when, and about which generation: between two ticks it stands.
    decided: Option<(Duration, Option<i64>, Decision, Seen, Look)>,
    told: Option<Told>,
    /// What a worker said that served, for when there is none.
    word: Option<Announcement>,
    pods: Pods,
    tidied: Option<Duration>,
    failures: u32,
}

impl Fleet {
    /// The last look at a fleet that slept then, while that look is fresh.
    fn sleeps(&self, fleet: &ModelFleet, now: Duration) -> Option<&Look> {
        let (at, of, decision, seen, looked) = self.decided.as_ref()?;
        let is_fresh = *of == fleet.metadata.generation && is_recent(*at, now);
        (is_fresh && decision.plan.floor == 0 && seen.ordered == 0).then_some(looked)
    }
}

/// Whether what was seen `at` some time still stands `now`.
fn is_recent(at: Duration, now: Duration) -> bool {
    now.saturating_sub(at) < TICK.mul_f64(0.9)
}

impl Fleets {
    fn of(&self, fleet: &ModelFleet) -> Fleet {
        self.all().remove(&fleet.uid().unwrap_or_default()).unwrap_or_default()
    }

    fn keep(&self, fleet: &ModelFleet, state: Fleet) {
        if fleet.meta().deletion_timestamp.is_none() {
            self.all().insert(fleet.uid().unwrap_or_default(), state);
        }
    }

    /// A panic elsewhere leaves it whole: every change is a single call.
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<String, Fleet>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One turn of one fleet; the next is due at the next tick. Of one that sleeps it is asked more often
/// whether somebody wants it, and nothing else.
pub(crate) async fn reconcile(
    fleet: Arc<ModelFleet>,
    context: Arc<Context>,
) -> Result<Action, ControlError> {
    if fleet.meta().deletion_timestamp.is_some() {
        // What is owned by it goes with it.
        let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet.name_any());
        let conditions = fleet.status.as_ref().map_or(&[][..], |status| &status.conditions);
        context.metrics.forget([&namespace, &name], conditions);
        return Ok(Action::await_change());
    }
    let mut state = context.fleets.of(&fleet);
    if let Some(looked) = state.sleeps(&fleet, context.started.elapsed()) {
        if !looked.is_called(context.observer.as_ref()).await.unwrap_or(false) {
            context.fleets.keep(&fleet, state);
            return Ok(Action::requeue(BLINK));
        }
        state.decided = None;
    }
    let outcome = Box::pin(turn(&fleet, &mut state, &context)).await;
    state.failures = if outcome.is_ok() { 0 } else { state.failures + 1 };
    let is_asleep = state.sleeps(&fleet, context.started.elapsed()).is_some();
    context.fleets.keep(&fleet, state);
    let code = outcome.as_ref().map_or_else(ControlError::code, |()| "ok");
    context.metrics.turns.with_label_values(&[code]).inc();
    outcome.map(|()| Action::requeue(if is_asleep { BLINK } else { TICK }))
}

/// After a failure: again, later each time.
pub(crate) fn after(fleet: &ModelFleet, error: &ControlError, context: &Context) -> Action {
    let failures = {
        let fleets = context.fleets.all();
        fleets.get(&fleet.uid().unwrap_or_default()).map_or(1, |state| state.failures)
    };
    let pause = pause(failures);
    warn!(fleet = fleet.name_any(), code = error.code(), %error, ?pause, "a turn failed");
    Action::requeue(pause)
}

/// 5 s, 10 s, 20 s ... 5 minutes.
fn pause(failures: u32) -> Duration {
    (TICK * 2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(LONGEST_PAUSE)
}

async fn turn(
    fleet: &ModelFleet,
    state: &mut Fleet,
    context: &Context,
) -> Result<(), ControlError> {
    let namespace = fleet.namespace().unwrap_or_default();
    let installed = context.others.installed(&context.client).await;
    let cluster = Cluster { client: &context.client, namespace: &namespace, installed };
    let standing = cluster.look(fleet).await?;
    state.pods.observe(&standing.pods);
    let now = context.started.elapsed();
    let (decision, seen, looked) = decide(fleet, state, &standing, now, context).await;
    let leads = *context.leads.borrow();
    context.metrics.leading.set(leads.into());
    let labels = [namespace.as_str(), &fleet.name_any()];
    context.metrics.decided(labels, &decision);
    if !leads {
        let conditions = fleet.status.as_ref().map_or(&[][..], |status| &status.conditions);
        context.metrics.reported(labels, conditions);
        return Ok(());
    }
    let mode = fleet.spec.scaling.mode;
    let trouble = standing.trouble(mode);
    if !trouble.hands_off {
        let objects = Objects::of(fleet, decision.plan, &context.defaults);
        Box::pin(cluster.apply(fleet, objects, &standing)).await?;
        if mode == ScalingMode::Hpa {
            wake(fleet, &cluster, &standing, decision.plan.floor).await?;
        }
        let jobs = jobs_by_host(&looked.words, &looked.held);
        let shrinks = decision.plan.floor < seen.ordered;
        cluster.annotate(state.pods.marks(now, &standing.pods, &jobs, shrinks)).await;
    }
    let status = report::status(fleet, &seen, &decision, &trouble, Timestamp::now());
    context.metrics.reported(labels, &status.conditions);
    for event in report::events(fleet.status.as_ref(), &status) {
        announce(fleet, &event, context).await;
    }
    cluster.report(fleet, &status).await?;
    // Last: workers do without, and Kubernetes need not wait for Redis.
    keep_word(state, &decision, &looked, now, context).await;
    publish(state, &decision, &looked, now, context).await
}

/// Looks and decides once a tick; in between, what was decided stands.
async fn decide(
    fleet: &ModelFleet,
    state: &mut Fleet,
    standing: &Standing,
    now: Duration,
    context: &Context,
) -> (Decision, Seen, Look) {
    let (ready, ordered) = (standing.ready(), standing.ordered());
    let generation = fleet.metadata.generation;
    if let Some((at, of, decision, seen, looked)) = &state.decided
        && *of == generation
        && is_recent(*at, now)
    {
        let seen = Seen { ready, ordered, ..seen.clone() };
        return (decision.clone(), seen, looked.clone());
    }
    let hosts = standing.pods.iter().map(ResourceExt::name_any).collect();
    let looked = look(context.observer.as_ref(), fleet, &hosts, state.word.as_ref()).await;
    let is_new = looked.as_ref().is_ok_and(|looked| looked.words.is_empty());
    let looked = looked.unwrap_or_else(|error| {
        warn!(fleet = fleet.name_any(), %error, "cannot look into Redis; nobody goes meanwhile");
        Look::default()
    });
    if let Some(word) = looked.memorable() {
        state.word = Some(word.clone());
    }
    let reading = looked.queue.as_ref().and_then(|queue| {
        let queues: Vec<_> = iter::once(queue).chain(&looked.others).collect();
        state.meter.read(now, &looked.reports, &queues, slo(&fleet.spec))
    });
    let (words, waiting) = (looked.words.clone(), looked.waiting);
    let last = fleet.status.as_ref().and_then(|status| status.cold_start_seconds);
    let last = last.map(|seconds| Duration::from_secs(seconds.into()));
    let cold_start = state.pods.cold_start().or(last);
    let seen = Seen { reading, waiting, words, ready, ordered, cold_start, is_new };
    let decision = state.memory.decide(&fleet.spec, now, &seen);
    debug!(fleet = fleet.name_any(), explanation = decision.explanation, "decided");
    state.decided = Some((now, generation, decision.clone(), seen.clone(), looked.clone()));
    (decision, seen, looked)
}

/// From nothing and to nothing: an autoscaler rests at zero, and never goes there.
async fn wake(
    fleet: &ModelFleet,
    cluster: &Cluster<'_>,
    standing: &Standing,
    floor: u32,
) -> Result<(), ControlError> {
    let ordered = standing.ordered();
    if !matches!(standing.deployment, Place::Ours(_)) || (ordered == 0) == (floor == 0) {
        return Ok(());
    }
    info!(fleet = fleet.name_any(), from = ordered, to = floor, "scaled from or to zero");
    cluster.scale(&fleet.name_any(), floor).await
}

/// Keeps what is promised to callers, and forgets the names of workers that are gone. What goes wrong
/// is made good at the next turn.
async fn keep_word(
    state: &mut Fleet,
    decision: &Decision,
    looked: &Look,
    now: Duration,
    context: &Context,
) {
    if let Some(word) = state.word.as_ref().filter(|_| decision.promises) {
        // No worker's name: nobody shall take it for one.
        let word = Announcement { worker: MANAGER.to_owned(), host: String::new(), ..word.clone() };
        if let Err(error) = context.controller.promise(&word).await {
            debug!(%error, "nothing promised");
        }
    }
    let is_due = state.tidied.is_none_or(|last| now.saturating_sub(last) >= TIDY);
    if let Some(queue) = looked.queue.as_ref().filter(|_| is_due) {
        state.tidied = Some(now);
        match context.controller.forget(queue, REMEMBERED).await {
            Ok(0) => {}
            Ok(forgotten) => info!(%queue, forgotten, "forgot workers that are gone"),
            Err(error) => debug!(%error, "nobody forgotten"),
        }
    }
}

async fn publish(
    state: &mut Fleet,
    decision: &Decision,
    looked: &Look,
    now: Duration,
    context: &Context,
) -> Result<(), ControlError> {
    let wish = decision.wish;
    let Some(queue) = &looked.queue else { return Ok(()) };
    if tell::is_due(state.told, wish, &looked.words, now) {
        let epoch = context.controller.publish(queue, wish).await?;
        state.told = Some(Told { wish, epoch, at: now });
        info!(%queue, epoch, "told the workers what to go by");
    }
    Ok(())
}

/// Nobody's work depends on it.
async fn announce(fleet: &ModelFleet, event: &Event, context: &Context) {
    if let Err(error) = context.recorder.publish(event, &fleet.object_ref(&())).await {
        debug!(%error, "no event was written");
    }
}

#[cfg(test)]
mod tests;
