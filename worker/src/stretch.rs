//! Measures what the rows of a model cost by their length: batches of one, four and sixteen rows run
//! at growing sizes of the open dimensions, for as long as the model takes them and time allows.

use std::time::Duration;

use batchfleet_broker::Tensor;
use batchfleet_policy::LengthSample;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::{
    engine::Engine,
    lengths::RowLengths,
    limit::whole_units,
    proof::{Hints, TestRows},
};

/// The sizes of the open dimensions.
const SIZES: [u64; 7] = [8, 16, 32, 64, 128, 256, 512];
/// The next length is larger by at least this factor.
const STEP: u64 = 4;
/// The rows of the batches.
const ROWS: [u32; 3] = [1, 4, 16];
/// Runs of each batch. The first prepares the size.
const RUNS: usize = 3;
/// A batch whose runs have taken this long together is not run again, except once.
const LONG: Duration = Duration::from_millis(50);
/// A batch that is expected to take longer does not run.
const LONGEST: Duration = Duration::from_millis(400);
/// The time for all batches.
const BUDGET: Duration = Duration::from_secs(2);

/// Measures rows of other lengths than that of `rows`, whose batch times are `warmed_up`. Returns
/// the lengths with their cost, and the times of all batches by their units.
pub(crate) fn measure_lengths(
    engine: &mut dyn Engine,
    hints: &Hints<'_>,
    rows: &TestRows,
    warmed_up: &[(u32, Duration)],
) -> (RowLengths, Vec<(u32, Duration)>) {
    let lengths = RowLengths::of(engine.spec());
    let mut profile = warmed_up.to_vec();
    let Some(first) = rows.first().filter(|_| lengths.vary()) else { return (lengths, profile) };
    let shortest = lengths.length(first).max(1);
    let sample = |&(rows, took)| LengthSample { rows, length: shortest, took };
    let known = warmed_up.iter().filter(|(rows, _)| ROWS.contains(rows));
    let mut samples: Vec<LengthSample> = known.map(sample).collect();
    let mut longest = shortest;
    let mut measured = vec![shortest];
    let began = Instant::now();
    for size in SIZES {
        let Some(job) = rows.of_size(engine.spec(), hints, size) else { break };
        let length = lengths.length(&job);
        if length < longest.saturating_mul(STEP) {
            continue;
        }
        let most = engine.spec().max_rows();
        for rows_of_batch in ROWS.into_iter().filter(|&rows| rows <= most) {
            let is_long = expected(&samples, rows_of_batch, length) > LONGEST;
            if is_long || began.elapsed() > BUDGET {
                break;
            }
            let inputs = rows.copies(&job, rows_of_batch);
            let Some(took) = time(engine, &inputs, rows_of_batch) else { break };
            samples.push(LengthSample { rows: rows_of_batch, length, took });
            longest = length;
        }
        if longest == length {
            measured.push(length);
        }
    }
    let lengths = lengths.with_cost(&samples, measured[measured.len() / 2]);
    let cost = lengths.cost();
    let (model, longest_costs) = (&engine.spec().queue, cost.units(longest));
    info!(%model, shortest, longest, longest_costs, "measured rows by their length");
    let largest = profile.iter().map(|&(rows, _)| rows).max().unwrap_or_default();
    let larger = samples.iter().map(|sample| {
        (whole_units(f64::from(sample.rows) * cost.units(sample.length)), sample.took)
    });
    profile.extend(larger.filter(|&(units, _)| units > largest));
    (lengths, profile)
}

/// The time of a batch if it grows with the square of the length, according to the last sample of a
/// batch that is at most as large.
fn expected(samples: &[LengthSample], rows: u32, length: u64) -> Duration {
    let smaller =
        samples.iter().rev().find(|sample| sample.rows <= rows && sample.length <= length);
    let Some(smaller) = smaller else { return Duration::ZERO };
    let factor = |length: u64| u32::try_from(length / smaller.length).unwrap_or(u32::MAX);
    let (wider, longer) = (rows / smaller.rows.max(1), factor(length));
    smaller.took.saturating_mul(wider).saturating_mul(longer).saturating_mul(longer)
}

/// The shortest time of a batch: other work on the machine delays runs, and shortens none. `None` if
/// the model does not take the batch.
fn time(engine: &mut dyn Engine, inputs: &[Tensor], rows: u32) -> Option<Duration> {
    let mut runs: Vec<Duration> = Vec::with_capacity(RUNS);
    while runs.len() < 2 || (runs.len() < RUNS && runs.iter().sum::<Duration>() < LONG) {
        let began = Instant::now();
        if let Err(error) = engine.run(inputs.to_vec(), rows) {
            debug!(model = %engine.spec().queue, rows, %error, "model refused rows of another length");
            return None;
        }
        runs.push(began.elapsed());
    }
    runs.into_iter().min()
}
