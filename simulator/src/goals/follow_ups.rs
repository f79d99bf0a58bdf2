//! Goals of waits for requests that follow answers: clients that wait for their answers run together,
//! and requests that come at any time do not wait.

use super::goal::{Goal, SLO};
use crate::{curve::Curve, engine::Scenario, pilot::PolicyPilot, trace::ArrivalPattern};

/// The most rows of a batch.
const MAX_BATCH: u32 = 64;
/// Numbers of clients, each of which sends its next request after the answer to the last.
const CLIENTS: [u32; 3] = [4, 16, 48];
/// Requests at any time, for each run of one row.
const LOADS: [f64; 5] = [0.3, 1.0, 3.0, 10.0, 30.0];
/// Time of a batch in milliseconds, with any number of rows, and of each row if rows cost something.
const BATCH_MS: f64 = 20.0;
const ROW_MS: f64 = 0.2;
/// Simulated time, in seconds.
const LASTS: f64 = 120.0;

/// Measures the latency of clients relative to that of a batch that has all of them, and the latency of
/// requests that come at any time relative to that without waits.
pub fn waits() -> Vec<Goal> {
    let clients = CLIENTS.into_iter().filter_map(|clients| {
        let curve = Curve::affine(BATCH_MS, 0.0);
        let scenario = Scenario::closed(curve.clone(), clients, LASTS, 1);
        let outcome = scenario.run(&mut pilot(&curve)?);
        let together = outcome.latency(0.5) / curve.seconds(clients);
        Some(Goal::at_most(
            format!("p50 over L(clients), {clients} clients, 20 ms"),
            1.25,
            together,
        ))
    });
    let any_time = LOADS.into_iter().filter_map(|load| {
        let curve = Curve::affine(BATCH_MS, ROW_MS);
        let rate = load / curve.seconds(1);
        let run = |pilot: &mut PolicyPilot| {
            let arrivals = ArrivalPattern::steady(rate).arrivals(LASTS, 7);
            Scenario::new(curve.clone(), arrivals, LASTS, 1).run(pilot)
        };
        let (waits, at_once) = (run(&mut pilot(&curve)?), run(&mut pilot(&curve)?.at_once()));
        let over = |share| waits.latency(share) / at_once.latency(share);
        let worst = over(0.5).max(over(0.99));
        Some(Goal::at_most(
            format!("p50 and p99 over those without waits, {load} a run"),
            1.02,
            worst,
        ))
    });
    clients.chain(any_time).collect()
}

fn pilot(curve: &Curve) -> Option<PolicyPilot> {
    Some(PolicyPilot::new(curve.cost(MAX_BATCH)?, MAX_BATCH, SLO))
}
