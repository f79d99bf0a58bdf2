//! Goals of several shards: a queue over several Redises makes batches as large as over one, and its
//! requests wait hardly longer.

use std::num::NonZeroU32;

use super::goal::{Goal, InProcess};
use crate::{
    curve::Curve, engine::Scenario, outcome::SimulationOutcome, shards::Sharding,
    trace::ArrivalPattern,
};

/// Workers of a fleet with as many as four shards need.
const WORKERS: u32 = 32;
const WORKERS_PER_SHARD: NonZeroU32 = NonZeroU32::new(8).unwrap();
/// Load as a share of the capacity.
const LOADS: [f64; 3] = [0.5, 0.8, 0.9];
const SHARDS: [NonZeroU32; 2] = [NonZeroU32::new(2).unwrap(), NonZeroU32::new(4).unwrap()];
/// Simulated time, in seconds.
const LASTS: f64 = 120.0;
/// The number of fleets, with different requests.
const FLEETS: u64 = 4;

/// Measures the mean batch of two and four shards, and the latency of two, relative to one. The p99 of
/// four is 15 to 18 % above that of one.
pub fn spread() -> Vec<Goal> {
    let mut goals = Vec::new();
    for load in LOADS {
        let Some(one) = run(load, NonZeroU32::MIN) else { return Vec::new() };
        for shards in SHARDS {
            let Some(several) = run(load, shards) else { return Vec::new() };
            let of = |figure: fn(&SimulationOutcome) -> f64| figure(&several) / figure(&one);
            let name = format!("{shards} shards over one, load {load}");
            let batch = of(SimulationOutcome::mean_batch);
            goals.push(Goal::at_least(format!("mean batch, {name}"), 0.95, batch));
            if shards == SHARDS[0] {
                let p99 = of(|outcome| outcome.latency(0.99));
                goals.push(Goal::at_most(format!("p99, {name}"), 1.1, p99));
            }
        }
    }
    goals
}

/// The joint outcome of several fleets with this number of shards.
fn run(load: f64, shards: NonZeroU32) -> Option<SimulationOutcome> {
    let curve = Curve::affine(8.0, 2.0);
    let pilot = InProcess::pilot(&curve)?;
    let rate = load * f64::from(WORKERS) * pilot.capacity(WORKERS);
    let fleet = |seed| {
        let arrivals = ArrivalPattern::steady(rate).arrivals(LASTS, seed);
        let scenario = Scenario::new(curve.clone(), arrivals, LASTS, WORKERS);
        let sharding = Sharding { shards, workers_per_shard: WORKERS_PER_SHARD, even: true, seed };
        sharding.run(&scenario, &pilot)
    };
    (1..=FLEETS).map(fleet).reduce(SimulationOutcome::joined)
}
