//! Requests of different lengths: which run together, compared with the best cuts of the same window;
//! whether padding makes any late; and whether workers announce what they serve.

use std::{sync::Arc, time::Duration};

use batchfleet_policy::{
    BatchMode, CostModel, LargestBatch, LengthCost, WaitingRows, companions, composed_time,
};

use super::{Goal, SLO};
use crate::{
    curve::Curve, engine::Scenario, lengths::Lengths, outcome::SimulationOutcome,
    pilot::PolicyPilot, trace::ArrivalPattern, window::Mix,
};

/// Requests of a backlog.
const REQUESTS: usize = 2000;
/// Requests that a worker holds to choose from.
const WINDOWS: [usize; 3] = [64, 128, 256];
const LARGEST: LargestBatch = LargestBatch { rows: 64, units: f64::INFINITY };
/// Models by what dominates their time, and the fixed time of a batch in milliseconds.
const MODELS: [(&str, f64); 3] =
    [("launch-bound", 4.0), ("launch- and length-bound", 1.2), ("length-bound", 0.1)];
/// Milliseconds of each position, and of each pair of positions, of a row.
const POSITION: f64 = 1e-3;
const PAIR: f64 = 2.5e-7;
/// The most rows of a batch.
const MAX_BATCH: u32 = 64;
/// The lengths of texts.
const TEXTS: Lengths = Lengths::Lognormal { median: 55.0, sigma: 0.9, bounds: (3, 512) };
static DISTRIBUTIONS: [(&str, Lengths); 3] = [
    ("texts", TEXTS),
    ("short texts", Lengths::Lognormal { median: 14.0, sigma: 0.4, bounds: (3, 32) }),
    ("documents", Lengths::Uniform { bounds: (128, 512) }),
];
const LENGTHS: (u64, u64) = (3, 512);
const SEED: u64 = 17;
/// Loads, relative to what a worker serves if only equal lengths run together, for so many seconds.
const LOADS: [f64; 6] = [0.3, 0.5, 0.7, 0.9, 1.2, 2.0];
const SECONDS: f64 = 20.0;
/// Clients in a closed loop, which keep a worker busy for so many seconds, and sizes with which N is
/// compared.
const CLIENTS: u32 = 512;
const BUSY_SECONDS: f64 = 5.0;
const FIXED: [u32; 3] = [8, 24, 64];

/// The rate of the rule as a share of the optimum, for models whose time is in the launch of a batch,
/// in the length of rows, or in both.
///
/// The optimum runs all batches into which dynamic programming cuts a full window, and then fills the
/// window again. The rule runs the batch of the oldest request, and fills the window before it
/// chooses the next.
pub fn composition() -> Vec<Goal> {
    let waiting = backlog();
    let cases = MODELS.iter().flat_map(|model| WINDOWS.map(|window| (model, window)));
    cases
        .filter_map(|(&(name, fixed_ms), window)| {
            let model = Model::new(fixed_ms)?;
            let share = model.optimum(&waiting, window) / model.rule(&waiting, window);
            let name = format!("texts, {name}, {window} held: rate / optimum");
            Some(Goal::at_least(name, 0.95, share))
        })
        .collect()
}

/// Compares with a worker that runs only equal lengths together: at loads at which it answers all
/// requests in time, padding may make none late, and at higher loads at least as many are in time.
pub fn deadlines() -> Vec<Goal> {
    MODELS.iter().filter_map(|&(name, fixed_ms)| in_time(name, fixed_ms)).flatten().collect()
}

fn in_time(name: &str, fixed_ms: f64) -> Option<Vec<Goal>> {
    let worker = Worker::new(fixed_ms, &TEXTS)?;
    let alone = worker.full_load(worker.pilot(Mix::EqualLengths)).0;
    let (mut late_by_padding, mut served, mut goals) = (0, 0.0, Vec::new());
    for load in LOADS {
        let before = worker.serves(load * alone, Mix::EqualLengths);
        let padded = worker.serves(load * alone, Mix::Padded);
        if before.missed() == 0 {
            late_by_padding += padded.missed();
            served = load;
            continue;
        }
        let in_time = |outcome: &SimulationOutcome| as_f64(outcome.offered - outcome.missed());
        let name = format!("texts, {name}, {load} times the load: in time, padded / not padded");
        goals.push(Goal::at_least(name, 1.0, in_time(&padded) / in_time(&before)));
    }
    let name = format!("texts, {name}, up to {served} times the load: made late by padding");
    goals.insert(0, Goal::at_most(name, 0.0, as_f64(late_by_padding)));
    (served > 0.0).then_some(goals)
}

/// The error of the announced capacity, and the rate with the chosen N relative to the best of fixed
/// sizes, of a worker that clients keep busy.
pub fn capacity() -> Vec<Goal> {
    let cases = MODELS.iter().flat_map(|model| DISTRIBUTIONS.iter().map(move |kind| (model, kind)));
    let goals = cases.filter_map(|(&(name, fixed_ms), (kind, lengths))| {
        let worker = Worker::new(fixed_ms, lengths)?;
        let (rate, announced) = worker.full_load(worker.pilot(Mix::Padded));
        let off = 100.0 * (announced / rate - 1.0).abs();
        Some(Goal::at_most(format!("{kind}, {name}: % that the capacity is off"), 15.0, off))
    });
    goals.chain(MODELS.iter().filter_map(|&(name, fixed_ms)| good_n(name, fixed_ms))).collect()
}

fn good_n(name: &str, fixed_ms: f64) -> Option<Goal> {
    let worker = Worker::new(fixed_ms, &TEXTS)?;
    let with = |batch| worker.full_load(worker.pilot(Mix::Padded).with_batch(batch)).0;
    let best = FIXED.into_iter().map(|n| with(BatchMode::Fixed(n))).fold(0.0, f64::max);
    let name = format!("texts, {name}: rate / rate of the best fixed N");
    Some(Goal::at_least(name, 0.9, with(BatchMode::Auto) / best))
}

/// A worker of a model whose rows cost time by their length.
struct Worker {
    curve: Curve,
    costs: (CostModel, LengthCost),
    lengths: Arc<[u64]>,
}

impl Worker {
    fn new(fixed_ms: f64, lengths: &Lengths) -> Option<Self> {
        let curve = curve(fixed_ms);
        let lengths: Arc<[u64]> = lengths.draw(REQUESTS, SEED).ok()?.into();
        let costs = curve.length_costs(MAX_BATCH, LENGTHS)?;
        Some(Self { curve, costs, lengths })
    }

    fn pilot(&self, mix: Mix) -> PolicyPilot {
        let (cost, lengths) = self.costs.clone();
        PolicyPilot::new(cost, MAX_BATCH, SLO).with_lengths(lengths, mix)
    }

    fn with_lengths(&self, load: Scenario) -> Scenario {
        Scenario { lengths: Arc::clone(&self.lengths), ..load }
    }

    /// Serves requests at this rate, of which each must be answered within the target.
    fn serves(&self, rate: f64, mix: Mix) -> SimulationOutcome {
        let arrivals = ArrivalPattern::steady(rate).arrivals(SECONDS, SEED);
        let load = Scenario::new(self.curve.clone(), arrivals, SECONDS, 1);
        self.with_lengths(load).run(&mut self.pilot(mix).refusing(SLO))
    }

    /// Serves clients that wait for their answers. Returns the rate, and the capacity that is
    /// announced at the end.
    fn full_load(&self, mut pilot: PolicyPilot) -> (f64, f64) {
        let load = Scenario::closed(self.curve.clone(), CLIENTS, BUSY_SECONDS, 1);
        let outcome = self.with_lengths(load).run(&mut pilot);
        (outcome.rate(), pilot.announced(1))
    }
}

fn curve(fixed_ms: f64) -> Curve {
    Curve::affine(fixed_ms, 0.0).with_lengths(POSITION, PAIR)
}

fn as_f64(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "requests of a simulation")]
    let count = count as f64;
    count
}

/// A model whose rows cost time by their length.
struct Model {
    cost: CostModel,
    lengths: LengthCost,
}

impl Model {
    fn new(fixed_ms: f64) -> Option<Self> {
        let (cost, lengths) = curve(fixed_ms).length_costs(MAX_BATCH, LENGTHS)?;
        Some(Self { cost, lengths })
    }

    /// The time of the rule for all requests, in seconds.
    fn rule(&self, requests: &[WaitingRows], window: usize) -> f64 {
        let (mut seconds, mut held, mut left) = (0.0, Vec::new(), requests.iter().copied());
        loop {
            held.extend(left.by_ref().take(window - held.len()));
            if held.is_empty() {
                return seconds;
            }
            let batch = companions(&self.cost, &self.lengths, LARGEST, &held, 0);
            let rows: Vec<WaitingRows> = batch.iter().rev().map(|&at| held.remove(at)).collect();
            seconds += self.batch(&rows);
        }
    }

    /// The time of the best cuts of one window after the other, in seconds.
    fn optimum(&self, requests: &[WaitingRows], window: usize) -> f64 {
        let of = |held| composed_time(&self.cost, &self.lengths, LARGEST, held).as_secs_f64();
        requests.chunks(window).map(of).sum()
    }

    fn batch(&self, requests: &[WaitingRows]) -> f64 {
        let one_batch = LargestBatch { rows: u32::MAX, units: f64::INFINITY };
        let length = requests.iter().map(|request| request.length).max().unwrap_or(0);
        let rows = requests.iter().map(|request| request.rows).sum();
        let padded = [WaitingRows { rows, length, left: Duration::MAX }];
        composed_time(&self.cost, &self.lengths, one_batch, &padded).as_secs_f64()
    }
}

/// Texts that wait.
fn backlog() -> Vec<WaitingRows> {
    let lengths = TEXTS.draw(REQUESTS, SEED).unwrap_or_default().into_iter();
    lengths.map(|length| WaitingRows { rows: 1, length, left: Duration::MAX }).collect()
}
