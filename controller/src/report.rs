//! Builds the status and the events of a fleet. Pure.

mod conditions;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    ResourceExt,
    runtime::events::{Event, EventType},
};

use self::conditions::Fact;
use crate::{
    cluster::{Conflicts, SAME_MODEL},
    crd::{ModelFleet, ModelFleetStatus},
    decide::{Decision, FleetInput, rounded},
    objects::FLEET,
    problem::Problem,
    scaled_by::{AUTOSCALER, ScaledBy},
};

/// The types of all conditions, in their order.
pub(crate) const CONDITIONS: [&str; 8] = [
    "Ready",
    "Progressing",
    "MetricsStale",
    "SLOInfeasible",
    "ScalingLimited",
    "ScalingConflict",
    "AutoscalerActive",
    "Degraded",
];
/// Conditions whose changes are events, with a warning when they become true.
const WARNINGS: [&str; 4] = ["ScalingConflict", "Degraded", "SLOInfeasible", "ScalingLimited"];
/// Longest note of an event, in characters of up to four bytes.
const NOTE: usize = 250;

/// What a turn found out about a fleet, beside the decision.
#[derive(Clone, Debug)]
pub(crate) struct Findings {
    /// Conflicts with objects that the fleet does not own.
    pub(crate) conflicts: Conflicts,
    /// What keeps workers from serving.
    pub(crate) problem: Option<Problem>,
    /// What a pod that is not ready does at present.
    pub(crate) activity: Option<String>,
    /// The first object of the fleet that was not written, and why.
    pub(crate) unwritten: Option<Problem>,
    /// The first field that the API server stores with another value than the controller sends.
    pub(crate) overridden: Option<String>,
    /// Whether pods are ready but no worker announces itself in Redis.
    pub(crate) is_silent: bool,
    /// Whether the controller has just started, and may not be connected to Redis yet.
    pub(crate) is_starting: bool,
    /// What sets the number of workers.
    pub(crate) scaled_by: ScaledBy,
}

/// Returns the status of a fleet at `now`.
pub(crate) fn status(
    fleet: &ModelFleet,
    input: &FleetInput,
    decision: &Decision,
    findings: &Findings,
    now: Timestamp,
) -> ModelFleetStatus {
    let facts = conditions::facts(fleet, input, decision, findings);
    let reason = conditions::summary(&facts);
    let conditions = facts.map(|fact| condition(fleet, fact, now));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let milliseconds = |seconds: f64| (seconds * 1e3).round() as u32;
    ModelFleetStatus {
        observed_generation: fleet.metadata.generation,
        reason: Some(reason.to_owned()),
        replicas: input.ordered,
        ready_replicas: input.ready,
        wanted_replicas: decision.size.floor,
        autoscaler_replicas: findings.scaled_by.autoscaler_wants(),
        selector: format!("{FLEET}={}", fleet.name_any()),
        n: decision.n,
        offered_rows_per_second: decision.offered.map(rounded),
        capacity_rows_per_second: decision.capacity.map(rounded),
        p99_ms: decision.p99.map(milliseconds),
        cold_start_seconds: input.cold_start.and_then(|start| u32::try_from(start.as_secs()).ok()),
        explanation: Some(decision.explanation.clone()),
        conditions: conditions.into(),
    }
}

/// Returns the condition of a fleet at `now`. The time of its last change stays while its status does.
fn condition(fleet: &ModelFleet, fact: Fact, now: Timestamp) -> Condition {
    let before = fleet.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let status = if fact.holds { "True" } else { "False" };
    let last = before.iter().find(|last| last.type_ == fact.name && last.status == status);
    Condition {
        type_: fact.name.to_owned(),
        status: status.to_owned(),
        reason: fact.reason.to_owned(),
        message: fact.message,
        observed_generation: fleet.metadata.generation,
        last_transition_time: last.map_or(Time(now), |last| last.last_transition_time.clone()),
    }
}

/// Returns the last status with this condition instead of the last one, for a turn that can find out
/// nothing else.
fn with_condition(fleet: &ModelFleet, fact: Fact, now: Timestamp) -> ModelFleetStatus {
    let mut status = fleet.status.clone().unwrap_or_default();
    status.reason = Some(fact.reason.to_owned());
    let condition = condition(fleet, fact, now);
    match status.conditions.iter_mut().find(|last| last.type_ == condition.type_) {
        Some(last) => *last = condition,
        None => status.conditions.push(condition),
    }
    status
}

/// Returns the status of a fleet whose objects cannot be read.
pub(crate) fn unreadable(
    fleet: &ModelFleet,
    problem: &Problem,
    now: Timestamp,
) -> ModelFleetStatus {
    with_condition(fleet, Fact::because("Degraded", true, problem), now)
}

/// Returns the status of a fleet that is being deleted.
pub(crate) fn deleting(fleet: &ModelFleet, now: Timestamp) -> ModelFleetStatus {
    let message = format!(
        "the fleet is being deleted, and its workers are not scaled any more; it waits for the \
         finalizers {}",
        fleet.finalizers().join(", ")
    );
    with_condition(fleet, Fact::new("Ready", false, "Deleting", message), now)
}

/// Returns events for users: conditions of [`WARNINGS`] that became true, became true for another
/// reason or for another spec, or ended, and changes of the wanted number of workers.
pub(crate) fn events(last: Option<&ModelFleetStatus>, status: &ModelFleetStatus) -> Vec<Event> {
    let before = last.map_or(&[][..], |last| &last.conditions);
    let watched = status.conditions.iter().filter(|it| WARNINGS.contains(&it.type_.as_str()));
    let changed = watched.filter_map(|condition| {
        let held = before.iter().find(|it| it.type_ == condition.type_ && it.status == "True");
        let holds = condition.status == "True";
        let type_ = if holds { EventType::Warning } else { EventType::Normal };
        let is_news = match held {
            Some(held) => {
                !holds || held.reason != condition.reason || is_respecified(held, condition)
            }
            None => holds,
        };
        is_news.then(|| event(type_, &condition.reason, &condition.type_, &condition.message))
    });
    let mut events: Vec<_> = changed.collect();
    let from = last.map(|last| last.wanted_replicas);
    let is_scaled = from != Some(status.wanted_replicas) && !is_surplus(status);
    if let Some(why) = status.explanation.as_deref().filter(|_| is_scaled) {
        events.push(event(EventType::Normal, "Scaled", "Scale", why));
    }
    let autoscaler = |status: &ModelFleetStatus| {
        let condition = status.conditions.iter().find(|it| it.type_ == "AutoscalerActive")?;
        Some((condition.reason.clone(), condition.message.clone()))
    };
    let (before, now) = (last.and_then(autoscaler), autoscaler(status));
    if let (Some((before, _)), Some((reason, why))) = (before, now)
        && before != reason
        && !(AUTOSCALER.contains(&before.as_str()) && AUTOSCALER.contains(&reason.as_str()))
    {
        events.push(event(EventType::Normal, &reason, "ChooseScaler", &why));
    }
    events
}

/// Returns whether another fleet serves the model. The workers of such a fleet keep running, although it
/// wants none.
fn is_surplus(status: &ModelFleetStatus) -> bool {
    status.conditions.iter().any(|it| it.reason == SAME_MODEL && it.status == "True")
}

/// Returns whether a condition holds for a spec that was changed, with another message.
fn is_respecified(before: &Condition, now: &Condition) -> bool {
    before.observed_generation != now.observed_generation && before.message != now.message
}

/// Returns an event for users.
pub(crate) fn event(type_: EventType, reason: &str, action: &str, note: &str) -> Event {
    // The API server refuses longer notes.
    let note = note.chars().take(NOTE).collect();
    let (reason, action) = (reason.to_owned(), action.to_owned());
    Event { type_, reason, action, note: Some(note), secondary: None }
}

#[cfg(test)]
mod tests;
