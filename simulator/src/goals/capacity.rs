//! Goals of N: the highest load at which the latency target is met.

use super::{
    batches::{cpu, fixed, mid, simulate},
    goal::{Candidate, Goal, MAX_BATCH},
};
use crate::{curve::Curve, engine::Pilot, trace::ArrivalPattern};

/// Values of a fixed N for comparison.
const CAPS: [u32; 15] = [1, 8, 12, 16, 20, 24, 28, 32, 48, 64, 128, 256, 320, 384, 512];
/// Lower bound of the measured capacity, as a share of the capacity with the best fixed N.
const OF_BEST: f64 = 0.95;

/// A model and a number of workers.
#[derive(Clone, Debug)]
pub struct Case {
    /// A short description.
    pub name: &'static str,
    curve: Curve,
    workers: u32,
}

/// Returns models that gain much, little or in between from batches, and models with fixed sizes.
pub fn cases() -> [Case; 9] {
    let gpu = || Curve::affine(8.0, 0.15);
    let tiles = || gpu().with_sizes((1..=16).map(|tiles| 32 * tiles).collect());
    let powers = gpu().with_sizes((0..10).map(|power| 1 << power).collect());
    let case = |name, curve, workers| Case { name, curve, workers };
    [
        case("8 + 0.15b ms, 1 worker", gpu(), 1),
        case("8 + 0.15b ms, 4 workers", gpu(), 4),
        case("8 + 2b ms, 1 worker", mid(), 1),
        case("8 + 2b ms, 4 workers", mid(), 4),
        case("8 + 2b ms, 8 workers", mid(), 8),
        case("1 + 1.5b ms, 4 workers", cpu(), 4),
        case("tiles of 32, 1 worker", tiles(), 1),
        case("tiles of 32, 4 workers", tiles(), 4),
        case("powers of two, 4 workers", powers, 4),
    ]
}

impl Case {
    /// Measures the highest rate that meets the target, relative to the rate with the best fixed N
    /// in hindsight.
    pub fn goal(&self, candidate: &dyn Candidate) -> Goal {
        let Self { name, curve, workers } = self;
        let (curve, workers) = (curve, *workers);
        let ours =
            FixedFleet { curve, workers, pilot: &|| candidate.batches(curve, false) }.most(1.0);
        let mut best = ours * 0.5;
        for n in CAPS {
            let capped = FixedFleet { curve, workers, pilot: &|| fixed(curve, n) };
            if capped.keeps(best * 1.01) {
                best = capped.most(best * 1.01);
            }
        }
        Goal::at_least(format!("capacity over the best fixed N, {name}"), OF_BEST, ours / best)
    }
}

/// A model, a constant number of workers, and the pilot.
struct FixedFleet<'a> {
    curve: &'a Curve,
    workers: u32,
    pilot: &'a dyn Fn() -> Option<Box<dyn Pilot>>,
}

impl FixedFleet<'_> {
    /// Returns whether 99 % of the requests are on time at this rate.
    fn keeps(&self, rate: f64) -> bool {
        let seconds = (100_000.0 / rate).clamp(10.0, 60.0);
        (self.pilot)().is_some_and(|mut pilot| {
            let load = ArrivalPattern::steady(rate);
            simulate(self.curve, &load, seconds, self.workers, pilot.as_mut()).missed_share()
                <= 0.01
        })
    }

    /// Returns the highest Poisson rate at which 99 % of the requests are on time, to within 1 %.
    /// The rate `from` must meet this condition.
    fn most(&self, from: f64) -> f64 {
        let rates = (1..=MAX_BATCH).map(|rows| f64::from(rows) / self.curve.seconds(rows));
        let (mut low, mut high) = (from, f64::from(self.workers) * rates.fold(0.0, f64::max));
        while high > low * 1.01 {
            let middle = f64::midpoint(low, high);
            if self.keeps(middle) { low = middle } else { high = middle }
        }
        low
    }
}
