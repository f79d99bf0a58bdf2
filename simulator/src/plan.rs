//! Baselines for the number of workers: the plan of a clairvoyant operator with all arrivals known
//! in advance, and the smallest constant number.

use crate::{engine::Scenario, outcome::SimulationOutcome, pilot::PolicyPilot};

/// Share of missed requests allowed for a plan.
const LATE: f64 = 0.01;
/// Bounds of the headroom to try, and the number of bisections.
const HEADROOM: (f64, f64) = (0.8, 1.4);
const TRIALS: u32 = 4;

/// Runs the cheapest plan with at most 1 % of late requests, without refusals. Workers are ordered
/// one cold start before they are needed, and end when no longer needed. The plan uses the smallest
/// sufficient headroom over the true rate. Returns `None` if even the largest headroom is not
/// sufficient.
pub fn clairvoyant(
    scenario: &Scenario,
    pilot: &PolicyPilot,
    max: u32,
) -> Option<SimulationOutcome> {
    let try_with = |headroom: f64| {
        let plan = plan(scenario, pilot, max, headroom);
        let scenario = Scenario { workers: plan.first().copied().unwrap_or(1), ..scenario.clone() };
        let outcome = scenario.run(&mut pilot.clone().queueing().following(plan));
        (outcome.missed_share() <= LATE).then_some(outcome)
    };
    let (mut short, mut enough) = HEADROOM;
    let mut best = try_with(enough);
    for _ in 0..TRIALS {
        let middle = f64::midpoint(short, enough);
        match try_with(middle) {
            Some(outcome) => (enough, best) = (middle, Some(outcome)),
            None => short = middle,
        }
    }
    best
}

/// Returns the number of workers at each tick: the maximum needed between this tick and one cold
/// start later. A worker is kept if it is needed again sooner than a new worker could start.
fn plan(scenario: &Scenario, pilot: &PolicyPilot, max: u32, headroom: f64) -> Vec<u32> {
    let tick = scenario.tick.as_secs_f64();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ticks")]
    let ticks = |seconds: f64| (seconds / tick).ceil() as usize;
    let mut counts = vec![0_u32; ticks(scenario.duration).max(1)];
    let last = counts.len() - 1;
    for at in scenario.arrivals.iter() {
        counts[(ticks(*at).max(1) - 1).min(last)] += 1;
    }
    let needed = |count: &u32| {
        let rate = headroom * f64::from(*count) / tick;
        let capacity = |workers| pilot.capacity(workers);
        batchfleet_policy::fewest(rate, 1.0, max, capacity).unwrap_or(max).max(1)
    };
    let needed: Vec<u32> = counts.iter().map(needed).collect();
    let ahead = ticks(scenario.cold_start.as_secs_f64()) + 1;
    let most = |from: usize| needed[from..(from + ahead).min(needed.len())].iter().copied().max();
    (0..needed.len()).map(|from| most(from).unwrap_or(max)).collect()
}

/// Returns the smallest constant number of workers with at most 1 % of the requests late or
/// refused.
pub fn fewest(
    scenario: &Scenario,
    pilot: &PolicyPilot,
    max: u32,
) -> Option<(u32, SimulationOutcome)> {
    let try_with = |workers: u32| {
        let scenario = Scenario { workers, ..scenario.clone() };
        let outcome = scenario.run(&mut pilot.clone());
        (outcome.missed_share() <= LATE).then_some(outcome)
    };
    let (mut short, mut enough) = (0, max.max(1));
    let mut best = (enough, try_with(enough)?);
    while enough - short > 1 {
        let middle = u32::midpoint(short, enough);
        match try_with(middle) {
            Some(outcome) => (enough, best) = (middle, (middle, outcome)),
            None => short = middle,
        }
    }
    Some(best)
}
