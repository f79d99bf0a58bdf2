//! A fleet over several shards, as over several independent Redises.
//!
//! Each shard has its own queue and workers. Which shard a request goes to depends only on the
//! announced capacity of the workers there, so each shard is a simulation of its own.

use std::num::NonZeroU32;

use batchfleet_policy::{Spread, shards_in_use};
use rand::{RngExt as _, SeedableRng, rngs::Xoshiro256PlusPlus};

use crate::{engine::Scenario, outcome::SimulationOutcome, pilot::PolicyPilot};

/// The number of gateways, each of which spreads its own requests.
const GATEWAYS: usize = 8;

/// How a fleet is spread.
#[derive(Clone, Copy, Debug)]
pub struct Sharding {
    /// The number of shards.
    pub shards: NonZeroU32,
    /// The number of workers for which one more shard is used.
    pub workers_per_shard: NonZeroU32,
    /// Whether as many workers live at each shard; otherwise each worker's home is random, as it is by
    /// a hash.
    pub even: bool,
    /// Seed of the homes of workers and of the gateways of requests.
    pub seed: u64,
}

impl Sharding {
    /// Runs the scenario with a constant number of workers.
    pub fn run(&self, scenario: &Scenario, pilot: &PolicyPilot) -> SimulationOutcome {
        let all = self.split(scenario);
        let mut outcomes = all.iter().map(|shard| shard.run(&mut pilot.clone()));
        let first = outcomes.next().unwrap_or_else(|| scenario.run(&mut pilot.clone()));
        outcomes.fold(first, SimulationOutcome::joined)
    }

    /// One scenario for each shard at which workers live.
    fn split(&self, scenario: &Scenario) -> Vec<Scenario> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        let homes = self.homes(scenario.workers as usize, &mut random);
        let weights: Vec<_> = homes.iter().map(|workers| Some(f64::from(*workers))).collect();
        let mut arrivals = vec![Vec::new(); homes.len()];
        let mut gateways = vec![Spread::default(); GATEWAYS];
        for &at in scenario.arrivals.iter() {
            let gateway = random.random_range(0..GATEWAYS);
            if let Some(shard) = gateways[gateway].next(&weights) {
                arrivals[shard].push(at);
            }
        }
        let shards = homes.into_iter().zip(arrivals).filter(|(workers, _)| *workers > 0);
        let shard = |(workers, arrivals): (u32, Vec<f64>)| Scenario {
            workers,
            arrivals: arrivals.into(),
            ..scenario.clone()
        };
        shards.map(shard).collect()
    }

    /// The number of workers at each shard in use.
    fn homes(&self, workers: usize, random: &mut Xoshiro256PlusPlus) -> Vec<u32> {
        let (shards, each) = (self.shards.get() as usize, self.workers_per_shard.get() as usize);
        let mut homes = vec![0; shards_in_use(workers, each, shards)];
        for worker in 0..workers {
            let in_use = homes.len();
            let home = if self.even { worker % in_use } else { random.random_range(0..in_use) };
            homes[home] += 1;
        }
        homes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{curve::Curve, trace::ArrivalPattern};

    fn sharding(shards: u32, workers_per_shard: u32) -> Sharding {
        let [shards, workers_per_shard] =
            [shards, workers_per_shard].map(|number| NonZeroU32::new(number).unwrap());
        Sharding { shards, workers_per_shard, even: false, seed: 1 }
    }

    fn scenario(workers: u32) -> Scenario {
        let arrivals = ArrivalPattern::steady(500.0).arrivals(20.0, 1);
        Scenario::new(Curve::affine(10.0, 10.0), arrivals, 20.0, workers)
    }

    #[test]
    fn each_shard_gets_requests_in_proportion_to_its_workers() {
        let scenario = scenario(30);
        let all = sharding(3, 8).split(&scenario);
        assert_eq!(all.len(), 3);
        assert_eq!(all.iter().map(|shard| shard.workers).sum::<u32>(), 30);
        let requests: usize = all.iter().map(|shard| shard.arrivals.len()).sum();
        assert_eq!(requests, scenario.arrivals.len());
        for shard in &all {
            let due = requests * shard.workers as usize / 30;
            let got = shard.arrivals.len();
            assert!(got.abs_diff(due) <= 3 * GATEWAYS, "{got} of {due}");
            assert!(shard.arrivals.is_sorted());
        }
    }

    #[test]
    fn homes_are_even_or_random() {
        let of = |even| {
            let sharding = Sharding { even, ..sharding(4, 8) };
            sharding.homes(32, &mut Xoshiro256PlusPlus::seed_from_u64(7))
        };
        assert_eq!(of(true), [8; 4]);
        assert_ne!(of(false), [8; 4]);
        assert_eq!(of(false).iter().sum::<u32>(), 32);
    }

    #[test]
    fn a_fleet_too_small_for_several_shards_runs_as_over_one() {
        let scenario = scenario(15);
        let pilot = PolicyPilot::new(scenario.curve.cost(8).unwrap(), 8, scenario.slo);
        let (one, three) =
            (scenario.run(&mut pilot.clone()), sharding(3, 8).run(&scenario, &pilot));
        assert_eq!((one.batches, one.rows, one.late), (three.batches, three.rows, three.late));
        assert_eq!(one.extremes(), three.extremes());
    }

    #[test]
    fn the_outcomes_of_shards_are_joined() {
        let scenario = Scenario { slo: Duration::from_millis(10), ..scenario(24) };
        let pilot = PolicyPilot::new(scenario.curve.cost(8).unwrap(), 8, scenario.slo);
        let outcome = sharding(3, 8).run(&scenario, &pilot);
        assert_eq!(outcome.offered, scenario.arrivals.len() as u64);
        assert_eq!((outcome.rows, outcome.late), (outcome.offered, outcome.offered));
        assert_eq!(outcome.extremes(), (24, 24));
        assert!((outcome.worker_seconds - 24.0 * 20.0).abs() < 1e-6);
        let offered: u32 = outcome.intervals.iter().map(|interval| interval.offered).sum();
        assert_eq!(u64::from(offered), outcome.offered);
        assert_eq!(outcome.intervals[599].workers, 24);
        assert!(outcome.latency(0.5) >= 0.0199, "{}", outcome.latency(0.5));
    }
}
