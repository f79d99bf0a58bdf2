//! The decisions reach the same goals through `batchfleet policy --stdio` as in process.
#![expect(clippy::unwrap_used, reason = "a test driver")]

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use batchfleet_policy::{LengthSample, Observation, ScalePolicy};
use batchfleet_simulator::{
    Curve, Order, Pilot, PolicyPilot, Pull, Request,
    goals::{Candidate, Goal, InProcess, MAX_BATCH, SLO, batches, capacity, fleet},
};
use serde_json::{Value, json};

/// The program behind a pipe.
struct Program {
    child: Child,
    queries: ChildStdin,
    decisions: BufReader<ChildStdout>,
}

impl Program {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_batchfleet"))
            .args(["policy", "--stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let queries = child.stdin.take().unwrap();
        let decisions = BufReader::new(child.stdout.take().unwrap());
        Self { child, queries, decisions }
    }

    fn ask(&mut self, query: &Value) -> Value {
        writeln!(self.queries, "{query}").unwrap();
        let mut decision = String::new();
        self.decisions.read_line(&mut decision).unwrap();
        serde_json::from_str(&decision).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A pilot that asks the program for decisions about batches.
struct Batches {
    program: Program,
    /// Fixed sizes of the model; empty if any size runs.
    sizes: Vec<u32>,
    /// Finished batches to report with the next query: rows and milliseconds.
    done: Vec<(u32, f64)>,
}

impl Batches {
    fn new(curve: &Curve) -> Self {
        let profile = curve.profile(MAX_BATCH).into_iter();
        let done = profile.flat_map(|(rows, took)| [(rows, milliseconds(took)); 3]).collect();
        Self { program: Program::start(), sizes: curve.sizes().to_vec(), done }
    }
}

impl Pilot for Batches {
    fn pull(&mut self, pull: &Pull<'_>) -> Order {
        let ages: Vec<f64> =
            pull.waiting.iter().map(|one| (pull.now - one.arrived) * 1e3).collect();
        let decision = self.program.ask(&json!({
            "kind": "batch", "t": pull.now, "q": ages.len(), "oldest_ms": ages[0],
            "ages_ms": ages, "workers": pull.workers, "slo_ms": milliseconds(SLO),
            "nmax": MAX_BATCH, "arrived": pull.arrived, "done": self.done, "sizes": self.sizes,
        }));
        self.done.clear();
        let number = |name: &str| u32::try_from(decision[name].as_u64().unwrap()).unwrap();
        Order::oldest(number("drop"), number("n"))
    }

    fn ran(&mut self, _: usize, _: f64, batch: LengthSample) {
        self.done.push((batch.rows, milliseconds(batch.took)));
    }

    fn scale(&mut self, _: Duration, _: &Observation) -> Option<u32> {
        None
    }
}

/// A pilot that asks the program for the number of workers, and decides about batches in process.
struct PipedScaling {
    program: Program,
    batches: PolicyPilot,
    rule: ScalePolicy,
    error: f64,
}

impl Pilot for PipedScaling {
    fn pull(&mut self, pull: &Pull<'_>) -> Order {
        self.batches.pull(pull)
    }

    fn ran(&mut self, worker: usize, ended: f64, batch: LengthSample) {
        self.batches.ran(worker, ended, batch);
    }

    fn scale(&mut self, now: Duration, seen: &Observation) -> Option<u32> {
        let decision = self.program.ask(&json!({
            "kind": "scale", "t": now.as_secs_f64(), "queue": seen.waiting, "inflight": 0,
            "offered_total": seen.counts.offered, "completed_total": 0,
            "missed_total": seen.counts.missed, "ready": seen.ready, "spec": seen.ordered,
            "slo_ms": milliseconds(SLO), "cold_s": seen.cold_start.as_secs_f64(),
            "min": self.rule.min, "max": self.rule.max, "nstar": 28,
            "mu_rps": self.error * self.batches.capacity(seen.ordered),
        }));
        decision.get("replicas").map(|workers| u32::try_from(workers.as_u64().unwrap()).unwrap())
    }
}

/// Makes pilots that ask the program.
struct Piped;

impl Candidate for Piped {
    fn batches(&self, curve: &Curve, _: bool) -> Option<Box<dyn Pilot>> {
        Some(Box::new(Batches::new(curve)))
    }

    fn fleet(&self, curve: &Curve, rule: ScalePolicy, error: f64) -> Option<Box<dyn Pilot>> {
        let batches = InProcess::pilot(curve)?.refusing(SLO);
        Some(Box::new(PipedScaling { program: Program::start(), batches, rule, error }))
    }
}

fn all_reached(goals: &[Goal]) -> bool {
    for goal in goals {
        eprintln!("{goal}");
    }
    !goals.is_empty() && goals.iter().all(Goal::is_reached)
}

#[test]
fn n_and_refusals_through_a_pipe_reach_their_goals_under_overload() {
    assert!(all_reached(&batches::on_time(&Piped)));
}

#[test]
fn n_through_a_pipe_reaches_its_goals_below_capacity() {
    assert!(all_reached(&batches::latency(&Piped)));
}

#[test]
fn n_through_a_pipe_has_nearly_the_capacity_of_the_best_fixed_n() {
    let few = |case: &capacity::Case| {
        ["8 + 2b ms, 4 workers", "powers of two, 4 workers"].contains(&case.name)
    };
    let goals: Vec<Goal> =
        capacity::cases().iter().filter(|case| few(case)).map(|case| case.goal(&Piped)).collect();
    assert_eq!(goals.len(), 2);
    assert!(all_reached(&goals));
}

#[test]
fn workers_through_a_pipe_follow_a_flash_crowd() {
    let flash = fleet::cases().into_iter().find(|case| case.name.starts_with("flash")).unwrap();
    assert!(all_reached(&flash.goals(&Piped)));
}

#[test]
fn workers_through_a_pipe_are_constant_under_a_steady_load() {
    assert!(all_reached(&fleet::steadiness(&Piped)));
}

#[test]
fn a_malformed_line_returns_an_error_and_the_next_is_served() {
    let mut program = Program::start();
    assert!(program.ask(&json!({ "kind": "weather" }))["error"].is_string());
    let mut batches =
        Batches { program, sizes: Vec::new(), done: vec![(1, 10.0), (1, 10.0), (1, 10.0)] };
    let waiting = [Request { arrived: 1.0, length: 1 }];
    let pull = Pull { now: 1.0, worker: 0, workers: 1, waiting: &waiting, arrived: 1 };
    assert_eq!(batches.pull(&pull).refuse, 0);
}
