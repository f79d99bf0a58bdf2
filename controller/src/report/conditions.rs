//! The conditions of a fleet. Each message is a statement that is true in the present state. Pure.

use batchfleet_policy::ScaleBound;

use super::Findings;
use crate::{
    crd::ModelFleet,
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
    fn new(
        name: &'static str,
        holds: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { name, holds, reason, message: message.into() }
    }

    fn because(name: &'static str, holds: bool, problem: &Problem) -> Self {
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
        metrics_stale(input, decision),
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
            None => Fact::new(
                "Degraded",
                false,
                "AsDesired",
                "no worker has failed, and every object of the fleet is as the spec asks",
            ),
        },
    ]
}

/// Returns the reason for the column REASON: that of the most important condition.
pub(super) fn summary(facts: &[Fact]) -> &'static str {
    let holds = |name: &str| facts.iter().find(|fact| fact.name == name && fact.holds);
    let urgent = ["Degraded", "ScalingConflict"].into_iter().find_map(holds);
    let unready = facts.iter().find(|fact| fact.name == "Ready" && !fact.holds);
    let mild = ["SLOInfeasible", "ScalingLimited"].into_iter().find_map(holds);
    urgent.or(unready).or(mild).map_or("AsDesired", |fact| fact.reason)
}

/// Returns what is wrong with the fleet, the most basic cause first.
fn trouble(input: &FleetInput, findings: &Findings) -> Option<Problem> {
    let refused = findings.refused.as_ref().map(|why| {
        Problem::new("SpecRefused", format!("the API server refuses an object of the fleet: {why}"))
    });
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
    refused.or(foreign).or_else(|| findings.problem.clone()).or_else(redis).or_else(silent)
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
    if input.ordered == 0 && decision.size.floor == 0 {
        return Fact::new("Ready", false, "ScaledToZero", decision.explanation.clone());
    }
    let activity = findings.activity.as_ref().map_or_else(String::new, |it| format!("; {it}"));
    Fact::new("Ready", false, "WorkersStarting", format!("{workers}{activity}"))
}

fn progressing(input: &FleetInput) -> Fact {
    let moves = input.ready != input.ordered;
    let reason = if moves { "Rolling" } else { "Settled" };
    Fact::new("Progressing", moves, reason, counted(input.ready, input.ordered))
}

fn metrics_stale(input: &FleetInput, decision: &Decision) -> Fact {
    let name = "MetricsStale";
    let is_stale = decision.reason == Reason::Scaled(ScaleBound::Stale);
    match &input.redis_error {
        Some(why) => {
            let message = format!("the load is unknown, because Redis cannot be read: {why}");
            Fact::new(name, true, "RedisUnreachable", message)
        }
        None if is_stale => {
            let message =
                format!("no gateway has reported traffic for {} s", SILENT_GATEWAYS.as_secs());
            Fact::new(name, true, "NoReports", message)
        }
        None => Fact::new(name, false, "Fresh", "the controller knows the current load"),
    }
}

fn infeasible(fleet: &ModelFleet, decision: &Decision) -> Fact {
    let (name, target) = ("SLOInfeasible", fleet.spec.slo.p99_ms);
    if decision.is_infeasible {
        let message = format!(
            "even a batch of one row misses the latency target of {target} ms: raise slo.p99Ms, or \
             make the model or the worker faster"
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
