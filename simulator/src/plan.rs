//! What the number of workers is compared with: the plan of one who knows every arrival, and the
//! fewest workers that would do if they were there all the time.

use crate::{engine::Scenario, outcome::Outcome, pilot::Ours};

/// The share of late requests that a plan may cost.
const LATE: f64 = 0.01;
/// Head room that plans are tried with, and how fine.
const HEADROOM: (f64, f64) = (0.8, 1.4);
const TRIALS: u32 = 4;

/// The cheapest plan by which at most 1 % of the requests are late, without refusing any: workers
/// are ordered one cold start before they are needed and end when they are not, with the least head
/// room over the true rate that does. `None` if even the largest head room does not.
pub fn clairvoyant(scenario: &Scenario, pilot: &Ours, max: u32) -> Option<Outcome> {
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

/// Workers ordered at each tick: the most that any moment up to a cold start later needs. So one
/// that is needed again before another could have come is kept.
fn plan(scenario: &Scenario, pilot: &Ours, max: u32, headroom: f64) -> Vec<u32> {
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
        let copes = |&workers: &u32| f64::from(workers) * pilot.capacity(workers) >= rate;
        (1..=max).find(copes).unwrap_or(max)
    };
    let needed: Vec<u32> = counts.iter().map(needed).collect();
    let ahead = ticks(scenario.cold_start.as_secs_f64()) + 1;
    let most = |from: usize| needed[from..(from + ahead).min(needed.len())].iter().copied().max();
    (0..needed.len()).map(|from| most(from).unwrap_or(max)).collect()
}

/// The fewest workers, there all the time, with which at most 1 % of the requests are late or
/// refused.
pub fn fewest(scenario: &Scenario, pilot: &Ours, max: u32) -> Option<(u32, Outcome)> {
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
