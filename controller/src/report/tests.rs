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
        redis_error: None,
    }
}

fn findings() -> Findings {
    Findings {
        conflicts: Conflicts::default(),
        problem: None,
        activity: None,
        unwritten: None,
        overridden: None,
        is_silent: false,
        is_starting: false,
        scaled_by: ScaledBy::Autoscaler(Some(2)),
    }
}

fn status_with(
    fleet: &ModelFleet,
    input: &FleetInput,
    findings: &Findings,
    now: Timestamp,
) -> ModelFleetStatus {
    let decision = ScaleMemory::default().decide(&fleet.spec, std::time::Duration::ZERO, input);
    status(fleet, input, &decision, findings, now)
}

fn status_at(fleet: &ModelFleet, input: &FleetInput, now: Timestamp) -> ModelFleetStatus {
    status_with(fleet, input, &findings(), now)
}

fn condition<'a>(status: &'a ModelFleetStatus, name: &str) -> &'a Condition {
    status.conditions.iter().find(|condition| condition.type_ == name).unwrap()
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
    assert_eq!(held, ["Ready", "Progressing", "MetricsStale", "AutoscalerActive"]);
    let all: Vec<_> = status.conditions.iter().map(|it| it.type_.as_str()).collect();
    assert_eq!(all, CONDITIONS);
    assert_eq!(
        (status.observed_generation, status.selector.as_str(), status.autoscaler_replicas),
        (Some(3), "batchfleet.dev/fleet=digits", Some(2))
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

/// Each cause, from the most basic to the least: whether the fleet is ready, its reason, and a
/// part of the message of `Degraded`.
#[test]
fn ready_degraded_and_the_reason_tell_the_same_cause() {
    let good = findings();
    let with = |change: fn(&mut Findings)| {
        let mut findings = good.clone();
        change(&mut findings);
        findings
    };
    let broken = |findings: &mut Findings| {
        findings.problem = Some(Problem::new("ModelNotFound", "no model \"wyde\""));
    };
    let redis = FleetInput { redis_error: Some("no route".to_owned()), ..input(2) };
    for (input, findings, ready, reason, words) in [
        (input(2), good.clone(), "True", "AsDesired", "no worker has failed"),
        (input(0), good.clone(), "False", "WorkersStarting", "no worker has failed"),
        (input(0), with(broken), "False", "ModelNotFound", "no model \"wyde\""),
        (input(1), with(broken), "True", "ModelNotFound", "no model \"wyde\""),
        (input(2), with(|it| it.is_silent = true), "False", "WorkersSilent", "a password"),
        (redis.clone(), good.clone(), "False", "RedisUnreachable", "cannot read Redis: no route"),
        (redis, with(|it| it.is_starting = true), "True", "AsDesired", "no worker has failed"),
        (
            input(2),
            with(|it| {
                it.unwritten = Some(Problem::new("SpecRefused", "quantities must match"));
            }),
            "True",
            "SpecRefused",
            "quantities must match",
        ),
    ] {
        let status = status_with(&fleet(), &input, &findings, THEN);
        assert_eq!(status.reason.as_deref(), Some(reason), "{status:?}");
        let (is_ready, degraded) = (condition(&status, "Ready"), condition(&status, "Degraded"));
        assert_eq!(is_ready.status, ready, "{is_ready:?}");
        assert_eq!(degraded.status == "True", reason != "AsDesired" && reason != "WorkersStarting");
        assert!(degraded.message.contains(words), "{degraded:?} lacks {words:?}");
        if ready == "False" {
            assert_eq!(is_ready.reason, reason);
        }
    }
}

#[test]
fn a_fleet_that_starts_says_what_its_pod_does() {
    let activity = Some("init container fill of pod p runs since T".to_owned());
    let status = status_with(&fleet(), &input(0), &Findings { activity, ..findings() }, THEN);
    assert_eq!(
        condition(&status, "Ready").message,
        "0 of 2 workers are ready; init container fill of pod p runs since T"
    );
}

#[test]
fn a_fleet_that_is_to_have_no_worker_is_ready() {
    let mut fleet = fleet();
    fleet.spec.replicas = Some(0);
    let input = FleetInput { ordered: 0, ..input(0) };
    let status = status_at(&fleet, &input, THEN);
    let ready = condition(&status, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str(), status.reason.as_deref()),
        ("True", "Pinned", Some("Pinned"))
    );
    assert_eq!(ready.message, "0 workers: set by spec.replicas");
}

#[test]
fn the_same_reason_for_another_spec_is_news_if_its_message_differs() {
    let refused = |message: &str| Findings {
        unwritten: Some(Problem::new("SpecRefused", message)),
        ..findings()
    };
    let mut fleet = fleet();
    let first = status_with(&fleet, &input(2), &refused("cpu: two"), THEN);
    let reasons = |fleet: &ModelFleet, message: &str| {
        let second = status_with(fleet, &input(2), &refused(message), THEN);
        events(Some(&first), &second).into_iter().map(|it| it.reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons(&fleet, "cpu: three"), [""; 0]);
    fleet.metadata.generation = Some(4);
    assert_eq!(reasons(&fleet, "cpu: two"), [""; 0]);
    assert_eq!(reasons(&fleet, "cpu: three"), ["SpecRefused"]);
}

#[test]
fn an_unreachable_redis_is_named_wherever_the_load_is_unknown() {
    let input = FleetInput { redis_error: Some("no route".to_owned()), ..input(2) };
    let status = status_at(&fleet(), &input, THEN);
    let stale = condition(&status, "MetricsStale");
    assert_eq!((stale.status.as_str(), stale.reason.as_str()), ("True", "RedisUnreachable"));
    assert!(status.explanation.unwrap().contains("Redis cannot be read"));
}

/// The messages of a fleet without traffic that lacks nothing else.
#[test]
fn messages_are_statements_about_the_present_state() {
    let status = status_at(&fleet(), &input(2), THEN);
    let messages: Vec<_> = status
        .conditions
        .iter()
        .map(|it| format!("{} {}: {}", it.type_, it.status, it.message))
        .collect();
    assert_eq!(
        messages,
        [
            "Ready True: 2 of 2 workers are ready",
            "Progressing False: 2 of 2 workers are ready",
            "MetricsStale True: no gateway has reported traffic for 15 s",
            "SLOInfeasible False: no worker has announced its batch times yet",
            "ScalingLimited False: the controller wants no more workers than scaling.max, which \
             is 10",
            "ScalingConflict False: no other object scales these workers",
            "AutoscalerActive True: the HorizontalPodAutoscaler wants 2, from \
             batchfleet_queue_depth and the controller's minimum of 2",
            "Degraded False: no worker has failed, and every object of the fleet is as the spec \
             asks",
        ]
    );
}

#[test]
fn each_change_of_size_or_of_a_warning_is_one_event() {
    let fleet = fleet();
    let reasons = |last: Option<&ModelFleetStatus>, status: &ModelFleetStatus| {
        events(last, status).into_iter().map(|event| event.reason).collect::<Vec<_>>()
    };
    let silent = Findings { is_silent: true, ..findings() };
    let first = status_with(&fleet, &input(1), &silent, THEN);
    assert_eq!(reasons(None, &first), ["WorkersSilent", "Scaled"]);
    assert_eq!(reasons(Some(&first), &first), [""; 0]);
    let larger = ModelFleetStatus { wanted_replicas: 9, ..first.clone() };
    assert_eq!(reasons(Some(&first), &larger), ["Scaled"]);
    let hung = Findings { problem: Some(Problem::new("BatchHung", "hung")), ..silent };
    let second = status_with(&fleet, &input(1), &hung, THEN);
    assert_eq!(reasons(Some(&first), &second), ["BatchHung"]);
    let blind = ScaledBy::ControllerInstead { why: "no metrics API".to_owned() };
    let direct = Findings { scaled_by: blind, ..findings() };
    let third = status_with(&fleet, &input(1), &direct, THEN);
    assert_eq!(reasons(Some(&second), &third), ["AsDesired", "MetricUnavailable"]);
}

#[test]
fn a_long_note_is_cut_to_what_the_api_server_takes() {
    let note = event(EventType::Normal, "R", "A", &"ä".repeat(2000)).note.unwrap();
    assert!(note.len() <= 1024);
}
