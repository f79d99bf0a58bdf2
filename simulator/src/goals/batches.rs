//! Goals of N: latency below what the fleet can do, on time beyond it, and quick to decide and learn.

use std::{hint::black_box, time::Duration};

use batchfleet_policy::{BatchMode, BatchPolicy, Demand};

use super::{Candidate, Goal, InProcess, MAX_BATCH, SLO, optimum::most_in_time};
use crate::{
    curve::Curve,
    engine::{Pilot, Scenario},
    outcome::Outcome,
    trace::Load,
};

const SEED: u64 = 11;
/// A middling one: 8 + 2b.
pub(super) fn mid() -> Curve {
    Curve::affine(8.0, 2.0)
}

/// One that hardly gains: 1 + 1.5b.
pub(super) fn cpu() -> Curve {
    Curve::affine(1.0, 1.5)
}

/// So many seconds of a load on so many workers of this model.
pub(super) fn play(
    curve: &Curve,
    load: &Load,
    seconds: f64,
    workers: u32,
    pilot: &mut dyn Pilot,
) -> Outcome {
    let arrivals = load.arrivals(seconds, SEED);
    Scenario::new(curve.clone(), arrivals, seconds, workers).run(pilot)
}

/// One that takes all up to a fixed N.
pub(super) fn fixed(curve: &Curve, n: u32) -> Option<Box<dyn Pilot>> {
    let pilot = InProcess::pilot(curve)?.with_batch(BatchMode::Fixed(n));
    Some(Box::new(pilot))
}

/// What batching costs where it is not needed, and what not taking all saves.
pub fn latency(candidate: &dyn Candidate) -> Vec<Goal> {
    let Some(known) = InProcess::pilot(&mid()) else { return Vec::new() };
    let capacity = 8.0 * known.capacity(8);
    let at = |share: f64, quantile: f64, pilot: Option<Box<dyn Pilot>>| {
        let load = Load::steady(share * capacity);
        pilot.map_or(f64::INFINITY, |mut pilot| {
            play(&mid(), &load, 60.0, 8, pilot.as_mut()).latency(quantile)
        })
    };
    let ours = || candidate.batches(&mid(), false);
    vec![
        Goal::at_most(
            "p50 at 5 % load over that of one lone request",
            1.1,
            at(0.05, 0.5, ours()) / mid().seconds(1),
        ),
        Goal::at_most(
            "p99 at 70 % load, 8 workers, over taking all that waits",
            0.6,
            at(0.7, 0.99, ours()) / at(0.7, 0.99, fixed(&mid(), MAX_BATCH)),
        ),
    ]
}

/// Too much load for one worker against the exact optimum; sudden slowness; bulks.
pub fn on_time(candidate: &dyn Candidate) -> Vec<Goal> {
    let loads = [(mid(), 1.2), (mid(), 1.5), (mid(), 2.2), (cpu(), 1.3), (cpu(), 2.0)];
    let overload = |(curve, times): (Curve, f64)| {
        let rate = times * InProcess::pilot(&curve)?.capacity(1);
        let mut arrivals = Load::steady(rate).arrivals(1500.0 / rate * 1.2, SEED);
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

/// Four workers: a model that slows down, and requests that come in bulks.
fn disturbed(candidate: &dyn Candidate) -> Option<[Goal; 2]> {
    let capacity = 4.0 * InProcess::pilot(&mid())?.capacity(4);
    let arrivals = Load::steady(0.6 * capacity).arrivals(60.0, SEED);
    let mut slows = Scenario::new(mid(), arrivals, 60.0, 4);
    slows.slower = Some((30.0, 1.5));
    let slow = slows.run(candidate.batches(&mid(), true)?.as_mut());
    let load = Load::Bulks { rate: 0.5 * capacity, size: 64 };
    let bulks = play(&mid(), &load, 60.0, 4, candidate.batches(&mid(), true)?.as_mut());
    let on_time = |outcome: &Outcome| 100.0 * (1.0 - outcome.missed_share());
    Some([
        Goal::at_least("% on time, 1.5 times as slow from mid-run on", 99.0, on_time(&slow)),
        Goal::at_least("% on time, bulks of 64 requests at half load", 90.0, on_time(&bulks)),
    ])
}

/// How far N is from what it should be, 20 batches after the model became twice as slow.
pub fn learning() -> Vec<Goal> {
    let known = mid().cost(MAX_BATCH);
    let goal = known.map(|mut cost| {
        let policy = BatchPolicy::new(BatchMode::Auto, MAX_BATCH, SLO);
        let n = |cost: &_| policy.choose(cost, &Demand::unknown(4)).n;
        for _ in 0..20 {
            let rows = n(&cost);
            cost.observe(rows, Duration::from_secs_f64(2.0 * mid().seconds(rows)));
        }
        let right = Curve::affine(16.0, 4.0).cost(MAX_BATCH).map_or(1, |cost| n(&cost));
        let off = 100.0 * (f64::from(n(&cost)) / f64::from(right) - 1.0).abs();
        Goal::at_most("% that N is off 20 batches after the model slows by half", 10.0, off)
    });
    goal.into_iter().collect()
}

/// Microseconds that choosing N takes.
pub fn cost_of_a_decision() -> Vec<Goal> {
    const TIMES: u32 = 20_000;
    let Some(cost) = mid().cost(MAX_BATCH) else { return Vec::new() };
    let policy = BatchPolicy::new(BatchMode::Auto, MAX_BATCH, SLO);
    #[expect(clippy::disallowed_types, reason = "it measures itself, and nothing waits")]
    let began = std::time::Instant::now();
    for waiting in 0..TIMES {
        let rate = Some(f64::from(waiting % 2000));
        let demand = Demand { rate, waiting, ..Demand::unknown(4) };
        black_box(policy.choose(&cost, black_box(&demand)));
    }
    let took = began.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES);
    vec![Goal::at_most("microseconds that choosing N takes", 10.0, took)]
}

fn share(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "requests of a simulation")]
    let (part, whole) = (part as f64, whole.max(1) as f64);
    part / whole
}
