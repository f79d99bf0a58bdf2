//! Goals of N: latency below the capacity of the fleet, requests on time above the capacity, fast
//! decisions and fast learning.

use std::{hint::black_box, time::Duration};

use batchfleet_policy::{BatchMode, BatchPolicy, QueueLoad};

use super::{
    goal::{Candidate, Goal, InProcess, MAX_BATCH, SLO},
    optimum::most_in_time,
};
use crate::{
    curve::Curve,
    engine::{Pilot, Scenario},
    outcome::SimulationOutcome,
    trace::ArrivalPattern,
};

const SEED: u64 = 11;

/// Returns a model that gains from batches: 8 + 2b ms.
pub(super) fn mid() -> Curve {
    Curve::affine(8.0, 2.0)
}

/// Returns a model that hardly gains from batches: 1 + 1.5b ms.
pub(super) fn cpu() -> Curve {
    Curve::affine(1.0, 1.5)
}

/// Simulates `seconds` of a load on a fleet of constant size.
pub(super) fn simulate(
    curve: &Curve,
    load: &ArrivalPattern,
    seconds: f64,
    workers: u32,
    pilot: &mut dyn Pilot,
) -> SimulationOutcome {
    let arrivals = load.arrivals(seconds, SEED);
    Scenario::new(curve.clone(), arrivals, seconds, workers).run(pilot)
}

/// Returns a pilot that claims all waiting rows, up to a fixed N.
pub(super) fn fixed(curve: &Curve, n: u32) -> Option<Box<dyn Pilot>> {
    let pilot = InProcess::pilot(curve)?.with_batch(BatchMode::Fixed(n));
    Some(Box::new(pilot))
}

/// Measures the latency at low load, and the latency at 70 % load relative to claiming all waiting
/// rows.
pub fn latency(candidate: &dyn Candidate) -> Vec<Goal> {
    let Some(known) = InProcess::pilot(&mid()) else { return Vec::new() };
    let capacity = 8.0 * known.capacity(8);
    let at = |share: f64, quantile: f64, pilot: Option<Box<dyn Pilot>>| {
        let load = ArrivalPattern::steady(share * capacity);
        pilot.map_or(f64::INFINITY, |mut pilot| {
            simulate(&mid(), &load, 60.0, 8, pilot.as_mut()).latency(quantile)
        })
    };
    let ours = || candidate.batches(&mid(), false);
    vec![
        Goal::at_most(
            "p50 at 5 % load over the latency of a single request",
            1.1,
            at(0.05, 0.5, ours()) / mid().seconds(1),
        ),
        Goal::at_most(
            "p99 at 70 % load, 8 workers, over claiming all that waits",
            0.6,
            at(0.7, 0.99, ours()) / at(0.7, 0.99, fixed(&mid(), MAX_BATCH)),
        ),
    ]
}

/// Measures requests on time: under overload relative to the exact optimum, after a slowdown, and
/// with bulk arrivals.
pub fn on_time(candidate: &dyn Candidate) -> Vec<Goal> {
    let loads = [(mid(), 1.2), (mid(), 1.5), (mid(), 2.2), (cpu(), 1.3), (cpu(), 2.0)];
    let overload = |(curve, times): (Curve, f64)| {
        let rate = times * InProcess::pilot(&curve)?.capacity(1);
        let mut arrivals = ArrivalPattern::steady(rate).arrivals(1500.0 / rate * 1.2, SEED);
        arrivals.truncate(1500);
        let duration = arrivals.last()? + 1.0;
        let optimum = most_in_time(&arrivals, &curve, SLO.as_secs_f64(), MAX_BATCH);
        let name = format!("on time at {times} times the capacity over the optimum, {curve}");
        let mut pilot = candidate.batches(&curve, true)?;
        let outcome = Scenario::new(curve, arrivals, duration, 1).run(pilot.as_mut());
        let in_time = share(outcome.offered - outcome.missed(), optimum as u64);
        Some(Goal::at_least(name, 0.90, in_time))
    };
    let mut goals: Vec<Goal> = loads.into_iter().filter_map(overload).collect();
    goals.extend(disturbed(candidate).into_iter().flatten());
    goals
}

/// Simulates four workers with a model that slows down, and with bulk arrivals.
fn disturbed(candidate: &dyn Candidate) -> Option<[Goal; 2]> {
    let capacity = 4.0 * InProcess::pilot(&mid())?.capacity(4);
    let arrivals = ArrivalPattern::steady(0.6 * capacity).arrivals(60.0, SEED);
    let mut slows = Scenario::new(mid(), arrivals, 60.0, 4);
    slows.slower = Some((30.0, 1.5));
    let slow = slows.run(candidate.batches(&mid(), true)?.as_mut());
    let load = ArrivalPattern::Bulks { rate: 0.5 * capacity, size: 64 };
    let bulks = simulate(&mid(), &load, 60.0, 4, candidate.batches(&mid(), true)?.as_mut());
    let on_time = |outcome: &SimulationOutcome| 100.0 * (1.0 - outcome.missed_share());
    Some([
        Goal::at_least(
            "% on time, batches 1.5 times as slow from mid-run on",
            99.0,
            on_time(&slow),
        ),
        Goal::at_least("% on time, bulks of 64 requests at half load", 90.0, on_time(&bulks)),
    ])
}

/// Measures how far N deviates from its correct value 20 batches after the model became twice as
/// slow.
pub fn learning() -> Vec<Goal> {
    let known = mid().cost(MAX_BATCH);
    let goal = known.map(|mut cost| {
        let policy = BatchPolicy::new(BatchMode::Auto, MAX_BATCH, SLO);
        let n = |cost: &_| policy.choose(cost, &QueueLoad::unknown(4)).n;
        for _ in 0..20 {
            let rows = n(&cost);
            cost.observe(rows, Duration::from_secs_f64(2.0 * mid().seconds(rows)));
        }
        let right = Curve::affine(16.0, 4.0).cost(MAX_BATCH).map_or(1, |cost| n(&cost));
        let off = 100.0 * (f64::from(n(&cost)) / f64::from(right) - 1.0).abs();
        Goal::at_most("% that N is off 20 batches after the model became twice as slow", 10.0, off)
    });
    goal.into_iter().collect()
}

/// Measures the time to choose N, in microseconds.
pub fn cost_of_a_decision() -> Vec<Goal> {
    const TIMES: u32 = 20_000;
    let Some(cost) = mid().cost(MAX_BATCH) else { return Vec::new() };
    let policy = BatchPolicy::new(BatchMode::Auto, MAX_BATCH, SLO);
    #[expect(clippy::disallowed_types, reason = "measures CPU time of a pure function")]
    let began = std::time::Instant::now();
    for waiting in 0..TIMES {
        let rate = Some(f64::from(waiting % 2000));
        let demand = QueueLoad { rate, waiting, ..QueueLoad::unknown(4) };
        black_box(policy.choose(&cost, black_box(&demand)));
    }
    let took = began.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES);
    vec![Goal::at_most("microseconds to choose N", 10.0, took)]
}

fn share(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "requests of a simulation")]
    let (part, whole) = (part as f64, whole.max(1) as f64);
    part / whole
}
