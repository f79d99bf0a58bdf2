//! A fleet's status: what was seen and decided, in the words of the custom resource. Pure.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    ResourceExt,
    runtime::events::{Event, EventType},
};

use crate::{
    cluster::Trouble,
    crd::{ModelFleet, ModelFleetStatus},
    decide::{Decision, Reason, Seen, rounded},
    objects::FLEET,
};
use batchfleet_policy::ScaleBound;

/// What people are warned of when it begins.
const WARNINGS: [&str; 3] = ["ScalingConflict", "Degraded", "SLOInfeasible"];

/// The status of a fleet at `now`.
pub(crate) fn status(
    fleet: &ModelFleet,
    seen: &Seen,
    decision: &Decision,
    trouble: &Trouble,
    now: Timestamp,
) -> ModelFleetStatus {
    let before = fleet.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let conditions = facts(seen, decision, trouble).map(|fact| {
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
        replicas: seen.ordered,
        ready_replicas: seen.ready,
        wanted_replicas: decision.plan.floor,
        selector: format!("{FLEET}={}", fleet.name_any()),
        n: decision.n,
        offered_rows_per_second: decision.offered.map(rounded),
        capacity_rows_per_second: decision.capacity.map(rounded),
        p99_ms: decision.p99.map(milliseconds),
        cold_start_seconds: seen.cold_start.and_then(|start| u32::try_from(start.as_secs()).ok()),
        explanation: Some(decision.explanation.clone()),
        conditions: conditions.into(),
    }
}

/// Something that holds of a fleet or does not.
struct Fact {
    name: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Fact {
    /// `reasons`: if it holds, and if it does not.
    fn new(name: &'static str, holds: bool, reasons: [&'static str; 2], message: &str) -> Self {
        let [yes, no] = reasons;
        Self { name, holds, reason: if holds { yes } else { no }, message: message.to_owned() }
    }
}

fn facts(seen: &Seen, decision: &Decision, trouble: &Trouble) -> [Fact; 7] {
    let why = decision.explanation.as_str();
    let is = |bound| decision.reason == Reason::Scaled(bound);
    let silent = seen.ready > 0 && !seen.words.iter().any(|word| word.live);
    let progress = format!("{} of {} workers are ready", seen.ready, seen.ordered);
    [
        Fact::new("Ready", seen.ready > 0, ["WorkersReady", "NoWorkers"], &progress),
        Fact::new("Progressing", seen.ready != seen.ordered, ["Rolling", "Settled"], &progress),
        Fact::new("MetricsStale", is(ScaleBound::Stale), ["NoWord", "Fresh"], why),
        Fact::new(
            "SLOInfeasible",
            decision.is_infeasible,
            ["TooSlow", "Feasible"],
            "whether not even a batch of one row meets the latency target",
        ),
        Fact::new("ScalingLimited", is(ScaleBound::Max), ["AtMax", "WithinBounds"], why),
        Fact::new(
            "ScalingConflict",
            trouble.scaling.is_some(),
            ["OtherAutoscaler", "OneHand"],
            trouble.scaling.as_deref().unwrap_or("nobody else sets the number of workers"),
        ),
        match &trouble.foreign {
            Some(foreign) => Fact::new("Degraded", true, ["ForeignObject", "Whole"], foreign),
            None => Fact::new(
                "Degraded",
                silent,
                ["WorkersSilent", "Whole"],
                "whether workers are ready, but none is heard through Redis",
            ),
        },
    ]
}

/// What people should hear of: another size, and warnings that begin.
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
    use crate::decide::Memory;

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

    fn seen(ready: u32) -> Seen {
        Seen {
            reading: None,
            waiting: 0,
            words: Vec::new(),
            ready,
            ordered: 2,
            cold_start: None,
            is_new: false,
        }
    }

    fn status_at(fleet: &ModelFleet, seen: &Seen, now: Timestamp) -> ModelFleetStatus {
        let decision = Memory::default().decide(&fleet.spec, std::time::Duration::ZERO, seen);
        status(fleet, seen, &decision, &Trouble::default(), now)
    }

    #[test]
    fn what_holds_is_said_of_the_generation_it_was_seen_of() {
        let status = status_at(&fleet(), &seen(1), THEN);
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
    fn time_moves_only_for_what_has_changed() {
        let mut fleet = fleet();
        fleet.status = Some(status_at(&fleet, &seen(1), THEN));
        let later = Timestamp::from_second(60).unwrap();
        assert_eq!(Some(status_at(&fleet, &seen(1), later)), fleet.status);
        let moved = status_at(&fleet, &seen(2), later);
        let changed: Vec<_> = moved
            .conditions
            .iter()
            .filter(|condition| condition.last_transition_time == Time(later))
            .map(|condition| condition.type_.as_str())
            .collect();
        assert_eq!(changed, ["Progressing"]);
    }

    #[test]
    fn people_hear_of_another_size_and_once_of_what_begins_to_be_wrong() {
        let fleet = fleet();
        let heard = |last: Option<&ModelFleetStatus>, status: &ModelFleetStatus| {
            events(last, status).into_iter().map(|event| event.reason).collect::<Vec<_>>()
        };
        // Ready, but not heard.
        let first = status_at(&fleet, &seen(1), THEN);
        assert_eq!(heard(None, &first), ["WorkersSilent", "Scaled"]);
        assert_eq!(heard(Some(&first), &first), [""; 0]);
        let larger = ModelFleetStatus { wanted_replicas: 9, ..first.clone() };
        assert_eq!(heard(Some(&first), &larger), ["Scaled"]);
    }
}
