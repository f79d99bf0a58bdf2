//! Which requests of different lengths run together, compared with the best cuts of the same window.

use std::time::Duration;

use batchfleet_policy::{
    CostModel, LargestBatch, LengthCost, LengthSample, WaitingRows, companions, composed_time,
};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use super::Goal;

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
/// The lengths of texts: lognormal with this median and σ, cut to the bounds.
const MEDIAN: f64 = 55.0;
const SIGMA: f64 = 0.9;
const BOUNDS: (f64, f64) = (3.0, 512.0);

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
        .map(|(&(name, fixed_ms), window)| {
            let model = Model::new(fixed_ms);
            let share = model.optimum(&waiting, window) / model.rule(&waiting, window);
            Goal::at_least(format!("texts, {name}, {window} held: rate / optimum"), 0.95, share)
        })
        .collect()
}

/// A model whose rows cost time by their length.
struct Model {
    cost: CostModel,
    lengths: LengthCost,
}

impl Model {
    fn new(fixed_ms: f64) -> Self {
        let row = |length: f64| POSITION * length + PAIR * length * length;
        let seconds = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let samples = [(1, 8_u32), (1, 64), (1, 512), (4, 8), (4, 64), (4, 512)];
        let samples = samples.map(|(rows, length)| {
            let took = seconds(fixed_ms + f64::from(rows) * row(length.into()));
            LengthSample { rows, length: length.into(), took }
        });
        let profile = [1, 2, 1 << 20]
            .map(|units: u32| (units, seconds(fixed_ms + f64::from(units) * row(8.0))));
        // The profile has sizes, so there is a model of it.
        let cost = CostModel::from_profile(&profile).unwrap_or_else(|| unreachable!());
        Self { cost, lengths: LengthCost::fit(&samples) }
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

/// Requests of one row, oldest first.
fn backlog() -> Vec<WaitingRows> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(17);
    let mut uniform = move || random.random::<f64>();
    let mut length = move || {
        // The sum of twelve uniform numbers is nearly normal, with a variance of 1.
        let normal = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        let length = (MEDIAN * (SIGMA * normal).exp()).clamp(BOUNDS.0, BOUNDS.1);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "3 to 512")]
        let length = length as u64;
        length
    };
    (0..REQUESTS).map(|_| WaitingRows { rows: 1, length: length(), left: Duration::MAX }).collect()
}
