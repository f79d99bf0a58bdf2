//! Goals of the number of workers: one hour with a model of 8 + 2b ms and up to 24 workers.
//! Requests that would be late are refused.

use std::time::Duration;

use batchfleet_policy::{ScalePolicy, UTILIZATION, fewest};

use super::goal::{Candidate, Goal, InProcess, SLO};
use crate::{
    curve::Curve, engine::Scenario, outcome::SimulationOutcome, pilot::PolicyPilot, plan,
    trace::ArrivalPattern,
};

const COLD_START: Duration = Duration::from_mins(1);
const HOUR: f64 = 3600.0;
const MOST: u32 = 24;
const SEED: u64 = 100;
/// Requests per second.
const LOW: f64 = 300.0;
const PEAK: f64 = 3000.0;
const STEADY: f64 = 1500.0;

/// A load and its goals.
#[derive(Clone, Debug)]
pub struct Case {
    /// A short description.
    pub name: &'static str,
    load: ArrivalPattern,
    /// Requests per second at the start.
    rate: f64,
    /// Upper bound of missed requests, in percent.
    missed: f64,
    /// Upper bound of worker-hours, as a multiple of the worker-hours of the clairvoyant plan.
    hours: f64,
}

/// Returns all loads.
pub fn cases() -> [Case; 5] {
    let case = |name, load, rate, missed, hours| Case { name, load, rate, missed, hours };
    let low = ArrivalPattern::flash(LOW, PEAK, 1500.0, 2100.0);
    [
        case("steady 1500/s", ArrivalPattern::steady(STEADY), STEADY, 0.5, 1.15),
        case(
            "a day of 300 to 3000/s",
            ArrivalPattern::diurnal(LOW, PEAK, HOUR, HOUR),
            LOW,
            0.5,
            1.35,
        ),
        case(
            "ramp to ten times in 5 min",
            ArrivalPattern::ramp(LOW, PEAK, 1200.0, 1500.0),
            LOW,
            2.0,
            1.35,
        ),
        case("flash crowd of ten times for 10 min", low, LOW, 7.5, 1.5),
        case(
            "on and off every 5 min",
            ArrivalPattern::on_off(LOW, PEAK, 300.0, HOUR),
            LOW,
            4.0,
            1.8,
        ),
    ]
}

fn model() -> Curve {
    Curve::affine(8.0, 2.0)
}

/// Returns a fleet that starts with the workers needed for the initial rate.
fn scenario(load: &ArrivalPattern, rate: f64, known: &PolicyPilot) -> Scenario {
    let capacity = |workers| known.capacity(workers);
    let workers = fewest(rate, UTILIZATION, MOST, capacity).unwrap_or(MOST);
    let fleet = Scenario::new(model(), load.arrivals(HOUR, SEED), HOUR, workers);
    Scenario { cold_start: COLD_START, ..fleet }
}

impl Case {
    /// Measures the missed requests, and the worker-hours relative to the clairvoyant plan.
    pub fn goals(&self, candidate: &dyn Candidate) -> Vec<Goal> {
        self.judged(candidate).unwrap_or_default()
    }

    fn judged(&self, candidate: &dyn Candidate) -> Option<Vec<Goal>> {
        let known = InProcess::pilot(&model())?;
        let scenario = scenario(&self.load, self.rate, &known);
        let rule = ScalePolicy::new(1, MOST, SLO);
        let outcome = scenario.run(candidate.fleet(&model(), rule, 1.0)?.as_mut());
        let missed = 100.0 * outcome.missed_share();
        let plan = plan::clairvoyant(&scenario, &known, MOST)?;
        let hours = outcome.worker_seconds / plan.worker_seconds;
        let name = self.name;
        let mut goals = vec![
            Goal::at_most(format!("% missed, {name}"), self.missed, missed),
            Goal::at_most(format!("worker-hours over the clairvoyant, {name}"), self.hours, hours),
        ];
        if name.starts_with("flash") {
            goals.push(Goal::at_most(
                "% missed over the lower bound given by a cold start, flash crowd",
                1.2,
                missed / floor(&outcome, &scenario, &known),
            ));
        }
        Some(goals)
    }
}

/// Returns a lower bound of missed requests in the flash crowd, in percent, for any controller
/// without spare workers: the requests above the initial capacity until the next tick and a cold
/// start have passed.
fn floor(outcome: &SimulationOutcome, scenario: &Scenario, known: &PolicyPilot) -> f64 {
    let before = f64::from(scenario.workers) * known.capacity(scenario.workers);
    let blind = (scenario.cold_start + scenario.tick).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "requests of a simulation")]
    let offered = outcome.offered as f64;
    100.0 * (PEAK - before) * blind / offered
}

/// Measures whether a steady load keeps the number of workers constant, and whether a capacity
/// measured too high is corrected.
pub fn steadiness(candidate: &dyn Candidate) -> Vec<Goal> {
    steady(candidate).map_or_else(Vec::new, Vec::from)
}

fn steady(candidate: &dyn Candidate) -> Option<[Goal; 3]> {
    let scenario = scenario(&ArrivalPattern::steady(STEADY), STEADY, &InProcess::pilot(&model())?);
    let rule = ScalePolicy::new(1, MOST, SLO);
    let steady = scenario.run(candidate.fleet(&model(), rule, 1.0)?.as_mut());
    let wrong = scenario.run(candidate.fleet(&model(), rule, 1.4)?.as_mut());
    let (fewest, most) = steady.extremes();
    let events = u32::try_from(steady.changes.len() - 1).unwrap_or(u32::MAX);
    Some([
        Goal::at_most("changes of the number of workers, steady, 1 h", 4.0, f64::from(events)),
        Goal::at_most("fewest to most workers, steady, 1 h", 2.0, f64::from(most - fewest)),
        Goal::at_most(
            "% missed with the capacity overestimated by 40 %",
            2.0,
            100.0 * wrong.missed_share(),
        ),
    ])
}
