//! Goals of N for models that are slower than their latency target: the rate under clients that wait
//! for their answers, and how often N changes.

use std::time::Duration;

use batchfleet_policy::BatchMode;

use super::goal::Goal;
use crate::{
    curve::Curve, engine::Scenario, outcome::SimulationOutcome, pilot::PolicyPilot,
    trace::ArrivalPattern,
};

/// Clients, each of which sends its next request after the answer to the last.
const CLIENTS: u32 = 100;
/// The most rows of a batch.
const MAX_BATCH: u32 = 64;
/// The worker's default limit for a batch.
const HUNG_AFTER: Duration = Duration::from_secs(10);
/// Latency targets, in milliseconds.
const TARGETS: [u64; 14] =
    [50, 100, 150, 200, 300, 450, 600, 800, 1000, 1200, 1500, 2000, 3000, 5000];
/// The time of a simulation, in batches of half the most rows.
const BATCHES: f64 = 200.0;
/// Share of the best fixed N that must be reached.
const OF_BEST: f64 = 0.95;

/// A model.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// A short description.
    pub name: &'static str,
    /// The time of batches, as [`Curve`] reads it.
    pub curve: &'static str,
}

/// Returns models that take longer than many latency targets.
pub const fn models() -> [Model; 6] {
    const fn model(name: &'static str, curve: &'static str) -> Model {
        Model { name, curve }
    }
    [
        model("90 + 10b ms", "90+10b"),
        model("gain only from 4 rows on", "1=100,2=190,4=360,8=380,64=600"),
        model("steep", "1=100,2=110,4=160,8=320,16=800,32=2400,64=8000"),
        model("flat", "1=400,64=416"),
        model("steps of 16 rows", "1=200,16=200,17=400,32=400,33=600,48=600,49=800,64=800"),
        model("6 s", "6000+5b"),
    ]
}

/// Returns the outcome of a load of `clients` clients on one worker, and the changes of N, from the
/// worker's warm-up on. With `n`, N is fixed.
pub fn closed_loop(
    curve: &Curve,
    clients: u32,
    slo: Duration,
    hung_after: Duration,
    n: Option<u32>,
) -> Option<(SimulationOutcome, u32)> {
    let (cost, usable) = match n {
        Some(_) => (curve.cost(MAX_BATCH)?, MAX_BATCH),
        None => curve.warm_up(MAX_BATCH, slo, hung_after)?,
    };
    let mode = n.map_or(BatchMode::Auto, BatchMode::Fixed);
    let mut pilot = PolicyPilot::new(cost, usable, slo).with_batch(mode).watched(hung_after);
    // Time for at least as many batches.
    let seconds = BATCHES * curve.seconds(MAX_BATCH / 2);
    let scenario = Scenario { slo, ..Scenario::closed(curve.clone(), clients, seconds, 1) };
    let outcome = scenario.run(&mut pilot);
    Some((outcome, pilot.swings()))
}

impl Model {
    /// Measures the rate relative to the best fixed N in hindsight, and the changes of N.
    fn goals(&self) -> Option<[Goal; 2]> {
        let curve: Curve = self.curve.parse().ok()?;
        let closed = |slo, n| closed_loop(&curve, CLIENTS, slo, HUNG_AFTER, n);
        let rate = |n| Some(closed(HUNG_AFTER, Some(n))?.0.rate());
        let best = (1..=MAX_BATCH).filter_map(rate).fold(0.0, f64::max);
        let ours = |ms| closed(Duration::from_millis(ms), None);
        let ours: Vec<_> = TARGETS.into_iter().filter_map(ours).collect();
        let least = ours.iter().map(|(outcome, _)| outcome.rate()).fold(f64::INFINITY, f64::min);
        let changes = ours.iter().map(|&(_, changes)| changes).max()?;
        let name = self.name;
        Some([
            Goal::at_least(
                format!("rate of {CLIENTS} clients over the best fixed N, any target, {name}"),
                OF_BEST,
                least / best,
            ),
            Goal::at_most(
                format!("changes of N in 200 batches, {CLIENTS} clients, {name}"),
                // Up to six to double what a short warm-up has measured.
                8.0,
                changes.into(),
            ),
        ])
    }
}

/// Measures the rate under clients that wait for their answers, for all models.
pub fn closed() -> Vec<Goal> {
    models().iter().filter_map(Model::goals).flatten().collect()
}

/// Measures the changes of N at steady loads around the capacity within the target, and the late
/// requests below it.
pub fn open() -> Vec<Goal> {
    const SECONDS: f64 = 300.0;
    let slo = Duration::from_millis(300);
    let at = |share: f64| {
        let curve = Curve::affine(90.0, 10.0);
        let mut pilot = PolicyPilot::new(curve.cost(MAX_BATCH)?, MAX_BATCH, slo);
        let arrivals = ArrivalPattern::steady(share * pilot.capacity(1)).arrivals(SECONDS, 11);
        let scenario = Scenario { slo, ..Scenario::new(curve, arrivals, SECONDS, 1) };
        let outcome = scenario.run(&mut pilot);
        Some((outcome.missed_share(), pilot.swings()))
    };
    let shares = [0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.5, 2.0];
    let changes = shares.into_iter().filter_map(at).map(|(_, changes)| changes).max();
    let late = at(0.8).map_or(100.0, |(missed, _)| 100.0 * missed);
    vec![
        Goal::at_most(
            "changes of N in 5 min, half to twice the capacity within 300 ms",
            10.0,
            changes.map_or(f64::INFINITY, f64::from),
        ),
        // 12.8 % if N stays at the five rows that keep the target.
        Goal::at_most("% late at 80 % of the capacity within 300 ms, 90 + 10b ms", 3.0, late),
    ]
}

/// Measures whether N is back at the size that keeps the target after a crowd has left.
pub fn recovery() -> Vec<Goal> {
    let slo = Duration::from_millis(300);
    let recovered = || {
        let curve = Curve::affine(90.0, 10.0);
        let mut pilot = PolicyPilot::new(curve.cost(MAX_BATCH)?, MAX_BATCH, slo);
        let arrivals = ArrivalPattern::flash(10.0, 80.0, 60.0, 120.0).arrivals(180.0, 11);
        let scenario = Scenario { slo, ..Scenario::new(curve, arrivals, 180.0, 1) };
        let outcome = scenario.run(&mut pilot);
        // The last 30 s.
        let last = outcome.intervals.len() * 5 / 6;
        let (offered, missed) = outcome.intervals[last..]
            .iter()
            .fold((0, 0), |sum, interval| (sum.0 + interval.offered, sum.1 + interval.missed));
        Some((pilot.swings(), 100.0 * f64::from(missed) / f64::from(offered.max(1))))
    };
    recovered().map_or_else(Vec::new, |(changes, late)| {
        vec![
            Goal::at_most("changes of N in a crowd that comes and leaves", 4.0, changes.into()),
            Goal::at_most("% late 30 s after the crowd has left", 1.0, late),
        ]
    })
}
