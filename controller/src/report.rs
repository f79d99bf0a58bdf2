//! Builds the status and the events of a fleet. Pure.

use batchfleet_policy::ScaleBound;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    ResourceExt,
    runtime::events::{Event, EventType},
};

use crate::{
    cluster::Conflicts,
    crd::{ModelFleet, ModelFleetStatus},
    decide::{Decision, FleetInput, Reason, rounded},
    objects::FLEET,
};

/// Conditions that emit a warning event on becoming true.
const WARNINGS: [&str; 3] = ["ScalingConflict", "Degraded", "SLOInfeasible"];

/// Returns the status of a fleet at `now`.
pub(crate) fn status(
    fleet: &ModelFleet,
    input: &FleetInput,
    decision: &Decision,
    conflicts: &Conflicts,
    now: Timestamp,
) -> ModelFleetStatus {
    let before = fleet.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let conditions = facts(input, decision, conflicts).map(|fact| {
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
    });
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let milliseconds = |seconds: f64| (seconds * 1e3).round() as u32;
    ModelFleetStatus {
        observed_generation: fleet.metadata.generation,
        replicas: input.ordered,
        ready_replicas: input.ready,
        wanted_replicas: decision.size.floor,
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

/// A condition of the status.
struct Fact {
    name: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Fact {
    /// `reasons` holds the reason if the condition is true, then the reason if it is false.
    fn new(name: &'static str, holds: bool, reasons: [&'static str; 2], message: &str) -> Self {
        let [yes, no] = reasons;
        Self { name, holds, reason: if holds { yes } else { no }, message: message.to_owned() }
    }
}

fn facts(input: &FleetInput, decision: &Decision, conflicts: &Conflicts) -> [Fact; 7] {
    let why = decision.explanation.as_str();
    let is = |bound| decision.reason == Reason::Scaled(bound);
    let silent = input.ready > 0 && !input.workers.iter().any(|worker| worker.live);
    let progress = format!("{} of {} workers are ready", input.ready, input.ordered);
    [
        Fact::new("Ready", input.ready > 0, ["WorkersReady", "NoWorkers"], &progress),
        Fact::new("Progressing", input.ready != input.ordered, ["Rolling", "Settled"], &progress),
        Fact::new("MetricsStale", is(ScaleBound::Stale), ["NoReports", "Fresh"], why),
        Fact::new(
            "SLOInfeasible",
            decision.is_infeasible,
            ["TooSlow", "Feasible"],
            "whether even a batch of one row misses the latency target",
        ),
        Fact::new("ScalingLimited", is(ScaleBound::Max), ["AtMax", "WithinBounds"], why),
        Fact::new(
            "ScalingConflict",
            conflicts.scaling.is_some(),
            ["OtherAutoscaler", "NoConflict"],
            conflicts.scaling.as_deref().unwrap_or("nothing else scales the workers"),
        ),
        match &conflicts.foreign {
            Some(foreign) => Fact::new("Degraded", true, ["ForeignObject", "AsDesired"], foreign),
            None => Fact::new(
                "Degraded",
                silent,
                ["WorkersSilent", "AsDesired"],
                "whether workers are ready but none announces itself in Redis",
            ),
        },
    ]
}

/// Returns events for users: changes of the wanted number of workers, and conditions that became
/// true.
pub(crate) fn events(last: Option<&ModelFleetStatus>, status: &ModelFleetStatus) -> Vec<Event> {
    let event = |type_, reason: &str, note: &str| Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note.to_owned()),
        action: "Scale".to_owned(),
        secondary: None,
    };
    let held = |condition: &Condition| {
        let before = last.map_or(&[][..], |last| &last.conditions);
        before.iter().any(|last| last.type_ == condition.type_ && last.status == "True")
    };
    let warnings = status.conditions.iter().filter(|condition| {
        let warns = WARNINGS.contains(&condition.type_.as_str());
        warns && condition.status == "True" && !held(condition)
    });
    let mut events: Vec<_> = warnings
        .map(|condition| event(EventType::Warning, &condition.reason, &condition.message))
        .collect();
    if last.is_none_or(|last| last.wanted_replicas != status.wanted_replicas) {
        let why = status.explanation.as_deref().unwrap_or_default();
        events.push(event(EventType::Normal, "Scaled", why));
    }
    events
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::ScaleMemory;

    const THEN: Timestamp = Timestamp::UNIX_EPOCH;

    fn fleet() -> ModelFleet {
        let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
        serde_json::from_value(json!({
            "apiVersion": "batchfleet.dev/v1alpha1",
            "kind": "ModelFleet",
            "metadata": {"name": "digits", "generation": 3},
            "spec": {"model": {"source": source}},
        }))
        .unwrap()
    }

    fn input(ready: u32) -> FleetInput {
        FleetInput {
            reading: None,
            waiting: 0,
            workers: Vec::new(),
            ready,
            ordered: 2,
            cold_start: None,
            is_new: false,
        }
    }

    fn status_at(fleet: &ModelFleet, input: &FleetInput, now: Timestamp) -> ModelFleetStatus {
        let decision = ScaleMemory::default().decide(&fleet.spec, std::time::Duration::ZERO, input);
        status(fleet, input, &decision, &Conflicts::default(), now)
    }

    #[test]
    fn conditions_name_the_generation_that_they_describe() {
        let status = status_at(&fleet(), &input(1), THEN);
        let held: Vec<_> = status
            .conditions
            .iter()
            .filter(|condition| condition.status == "True")
            .map(|condition| condition.type_.as_str())
            .collect();
        assert_eq!(held, ["Ready", "Progressing", "MetricsStale", "Degraded"]);
        assert_eq!(
            (status.observed_generation, status.selector.as_str()),
            (Some(3), "batchfleet.dev/fleet=digits")
        );
    }

    #[test]
    fn only_a_condition_that_changed_gets_a_new_transition_time() {
        let mut fleet = fleet();
        fleet.status = Some(status_at(&fleet, &input(1), THEN));
        let later = Timestamp::from_second(60).unwrap();
        assert_eq!(Some(status_at(&fleet, &input(1), later)), fleet.status);
        let moved = status_at(&fleet, &input(2), later);
        let changed: Vec<_> = moved
            .conditions
            .iter()
            .filter(|condition| condition.last_transition_time == Time(later))
            .map(|condition| condition.type_.as_str())
            .collect();
        assert_eq!(changed, ["Progressing"]);
    }

    #[test]
    fn a_change_of_size_and_a_condition_that_became_true_are_each_one_event() {
        let fleet = fleet();
        let reasons = |last: Option<&ModelFleetStatus>, status: &ModelFleetStatus| {
            events(last, status).into_iter().map(|event| event.reason).collect::<Vec<_>>()
        };
        // The worker is ready but not announced in Redis.
        let first = status_at(&fleet, &input(1), THEN);
        assert_eq!(reasons(None, &first), ["WorkersSilent", "Scaled"]);
        assert_eq!(reasons(Some(&first), &first), [""; 0]);
        let larger = ModelFleetStatus { wanted_replicas: 9, ..first.clone() };
        assert_eq!(reasons(Some(&first), &larger), ["Scaled"]);
    }
}
