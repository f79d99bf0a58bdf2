//! The conditions of a fleet. Each message is a statement that is true in the present state. Pure.

use batchfleet_policy::ScaleBound;

use super::Findings;
use crate::{
    crd::{ModelFleet, ScalingMode},
    decide::{Decision, FleetInput, Reason, SILENT_GATEWAYS},
    problem::Problem,
};

/// A condition of the status.
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) holds: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Fact {
    pub(super) fn new(
        name: &'static str,
        holds: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { name, holds, reason, message: message.into() }
    }

    pub(super) fn because(name: &'static str, holds: bool, problem: &Problem) -> Self {
        Self::new(name, holds, problem.reason, problem.message.clone())
    }
}

pub(super) fn facts(
    fleet: &ModelFleet,
    input: &FleetInput,
    decision: &Decision,
    findings: &Findings,
) -> [Fact; 8] {
    let trouble = trouble(input, findings);
    [
        ready(input, decision, findings, trouble.as_ref()),
        progressing(input),
        metrics_stale(input),
        infeasible(fleet, decision),
        limited(fleet, decision),
        conflict(findings),
        Fact::new(
            "AutoscalerActive",
            findings.scaled_by.autoscaler_wants().is_some(),
            findings.scaled_by.reason(),
            findings.scaled_by.sentence(decision.size.floor),
        ),
        match &trouble {
            Some(trouble) => Fact::because("Degraded", true, trouble),
            None => undegraded(input, findings),
        },
    ]
}

fn undegraded(input: &FleetInput, findings: &Findings) -> Fact {
    let name = "Degraded";
    if findings.conflicts.scaling.is_some() && findings.conflicts.blocks_writes {
        let workers = match input.ordered {
            0 => "it has no workers".to_owned(),
            1 => "its 1 worker keeps running as it is".to_owned(),
            more => format!("its {more} workers keep running as they are"),
        };
        let message =
            format!("nothing of this fleet is changed while ScalingConflict is true; {workers}");
        return Fact::new(name, false, "NotApplied", message);
    }
    if let Some(field) = &findings.overridden {
        let message = format!(
            "no worker has failed; an admission webhook or a newer API server sets {field} to another \
             value than the controller"
        );
        return Fact::new(name, false, "ChangedOnWrite", message);
    }
    let message = "no worker has failed, and every object of the fleet is as the spec asks";
    Fact::new(name, false, "AsDesired", message)
}

/// Returns the reason for the column REASON: that of the most important condition.
pub(super) fn summary(facts: &[Fact]) -> &'static str {
    let holds = |name: &str| facts.iter().find(|fact| fact.name == name && fact.holds);
    let urgent = ["Degraded", "ScalingConflict"].into_iter().find_map(holds);
    let unready = facts.iter().find(|fact| fact.name == "Ready" && !fact.holds);
    let mild = ["SLOInfeasible", "ScalingLimited"].into_iter().find_map(holds);
    let at_zero = holds("Ready").filter(|fact| fact.reason != "WorkersReady");
    urgent.or(unready).or(mild).or(at_zero).map_or("AsDesired", |fact| fact.reason)
}

/// Returns what is wrong with the fleet, the most basic cause first.
fn trouble(input: &FleetInput, findings: &Findings) -> Option<Problem> {
    let unwritten = findings.unwritten.clone();
    let foreign =
        findings.conflicts.foreign.as_ref().map(|why| Problem::new("ForeignObject", why.clone()));
    let redis = || {
        // At an installation, Redis starts together with the controller.
        let why = input.redis_error.as_ref().filter(|_| !findings.is_starting)?;
        Some(Problem::new("RedisUnreachable", format!("the controller cannot read Redis: {why}")))
    };
    let silent = || {
        let message = "pods are ready, but none of their workers announces itself in Redis: the log \
                       of a worker shows why, such as a password that Redis no longer accepts";
        findings.is_silent.then(|| Problem::new("WorkersSilent", message))
    };
    unwritten.or(foreign).or_else(|| findings.problem.clone()).or_else(redis).or_else(silent)
}

fn ready(
    input: &FleetInput,
    decision: &Decision,
    findings: &Findings,
    trouble: Option<&Problem>,
) -> Fact {
    let workers = counted(input.ready, input.ordered);
    let is_read = input.redis_error.is_none() || findings.is_starting;
    if input.ready > 0 && is_read && !findings.is_silent {
        return Fact::new("Ready", true, "WorkersReady", workers);
    }
    if let Some(trouble) = trouble.or(findings.conflicts.scaling.as_ref()) {
        return Fact::because("Ready", false, trouble);
    }
    if findings.conflicts.waits_for_deletion {
        let message =
            "Kubernetes has not deleted the objects of the deleted fleet of this name yet";
        return Fact::new("Ready", false, "WorkersStarting", message);
    }
    let is_pinned = decision.reason == Reason::Pinned;
    let is_known = is_pinned || input.redis_error.is_none();
    // A fleet that is to have no worker is as it should be: tools that wait for `Ready` must not wait
    // for ever.
    if input.ordered == 0 && decision.size.floor == 0 && is_known {
        let reason = if is_pinned { "Pinned" } else { "ScaledToZero" };
        return Fact::new("Ready", true, reason, decision.explanation.clone());
    }
    let activity = findings.activity.as_ref().map_or_else(String::new, |it| format!("; {it}"));
    Fact::new("Ready", false, "WorkersStarting", format!("{workers}{activity}"))
}

fn progressing(input: &FleetInput) -> Fact {
    let moves = input.ready != input.ordered;
    let reason = if moves { "Rolling" } else { "Settled" };
    Fact::new("Progressing", moves, reason, counted(input.ready, input.ordered))
}

fn metrics_stale(input: &FleetInput) -> Fact {
    let name = "MetricsStale";
    if let Some(why) = &input.redis_error {
        let message = format!("the load is unknown, because Redis cannot be read: {why}");
        return Fact::new(name, true, "RedisUnreachable", message);
    }
    if input.reading.is_some() {
        return Fact::new(name, false, "Fresh", "the controller knows the current load");
    }
    let message = if input.is_new {
        "no gateway has reported traffic, because no worker has served the model yet".to_owned()
    } else {
        format!("no gateway has reported traffic for {} s", SILENT_GATEWAYS.as_secs())
    };
    Fact::new(name, true, "NoReports", message)
}

fn infeasible(fleet: &ModelFleet, decision: &Decision) -> Fact {
    let (name, target) = ("SLOInfeasible", fleet.spec.slo.p99_ms);
    if decision.is_infeasible {
        let (floor, is_hpa) = (decision.size.floor, fleet.spec.scaling.mode == ScalingMode::Hpa);
        let limit = if is_hpa {
            format!(
                ", so the autoscaler adds none to the {floor} that the controller wants for the load"
            )
        } else {
            String::new()
        };
        let message = format!(
            "even a batch of one row misses the latency target of {target} ms: raise slo.p99Ms, or \
             make the model or the worker faster. More workers do not make it faster{limit}"
        );
        return Fact::new(name, true, "TooSlow", message);
    }
    if decision.n.is_none() {
        let message = "no worker has announced its batch times yet";
        return Fact::new(name, false, "NotMeasured", message);
    }
    let message = format!("a batch of one row meets the latency target of {target} ms");
    Fact::new(name, false, "Feasible", message)
}

fn limited(fleet: &ModelFleet, decision: &Decision) -> Fact {
    let name = "ScalingLimited";
    if decision.reason == Reason::Scaled(ScaleBound::Max) {
        return Fact::new(name, true, "AtMax", decision.explanation.clone());
    }
    let max = fleet.spec.scaling.max;
    let message = format!("the controller wants no more workers than scaling.max, which is {max}");
    Fact::new(name, false, "WithinBounds", message)
}

fn conflict(findings: &Findings) -> Fact {
    let name = "ScalingConflict";
    match &findings.conflicts.scaling {
        Some(conflict) => Fact::because(name, true, conflict),
        None => Fact::new(name, false, "NoConflict", "no other object scales these workers"),
    }
}

fn counted(ready: u32, ordered: u32) -> String {
    match ordered {
        1 => format!("{ready} of 1 worker is ready"),
        _ => format!("{ready} of {ordered} workers are ready"),
    }
}
