//! Proves that a model ignores the values that are added to short requests: requests of three
//! lengths run alone as they are, and together, padded to the longest.

use std::sync::Arc;

use batchfleet_broker::{Job, Tensor};

use super::{
    bench::{Hints, TestBench, row_count},
    compare::{Magnitudes, differs, differs_beyond_noise},
    objection::Objection,
    search::TestRows,
};
use crate::{engine::Engine, padding::Padding};

/// The sizes of open dimensions to try, until the model takes enough of them.
const SIZES: [u64; 9] = [8, 5, 13, 16, 32, 24, 64, 128, 256];
/// The number of lengths.
const LENGTHS: usize = 3;

/// A request that ran alone without padding.
struct Unpadded {
    job: Job,
    length: u64,
    alone: Vec<Tensor>,
}

/// Runs requests of different lengths together. An error says why padding changes their outputs.
pub(crate) fn prove_padding(
    engine: &mut dyn Engine,
    hints: &Hints<'_>,
    rows: &TestRows,
    padding: &Arc<Padding>,
) -> Result<(), Objection> {
    let requests = requests(engine, hints, rows, padding);
    let (Some(first), Some(last)) = (requests.first(), requests.last()) else {
        return Err(Objection::OneLength);
    };
    if first.length == last.length {
        return Err(Objection::OneLength);
    }
    let most = usize::try_from(TestBench::new(engine, hints).most_rows()).unwrap_or(usize::MAX);
    let all: Vec<&Unpadded> = requests.iter().collect();
    let pair = vec![last, first];
    for batch in [all, pair].iter().map(|batch| &batch[..batch.len().min(most)]) {
        check(engine, hints, padding, batch)?;
    }
    Ok(())
}

/// Requests of one row of different lengths, shortest first, with their outputs alone.
fn requests(
    engine: &mut dyn Engine,
    hints: &Hints<'_>,
    rows: &TestRows,
    padding: &Padding,
) -> Vec<Unpadded> {
    let model = engine.spec().clone();
    let mut bench = TestBench::new(engine, hints);
    let mut requests: Vec<Unpadded> = Vec::new();
    for (seed, size) in (1..).zip(SIZES) {
        let Some(job) = rows.of_size_unmasked(&model, hints, size, seed) else { break };
        let Some(length) = padding.length(&job) else { break };
        if requests.iter().any(|known| known.length == length) {
            continue;
        }
        if let Ok(mut outputs) = bench.run(&[&job]) {
            let alone = outputs.pop().unwrap_or_default();
            requests.push(Unpadded { job, length, alone });
        }
        if requests.len() == LENGTHS {
            break;
        }
    }
    requests.sort_by_key(|request| request.length);
    requests
}

/// Compares each request of a padded batch with its outputs alone.
fn check(
    engine: &mut dyn Engine,
    hints: &Hints<'_>,
    padding: &Arc<Padding>,
    batch: &[&Unpadded],
) -> Result<(), Objection> {
    let indices: Vec<usize> = (0..batch.len()).collect();
    let rows = row_count(&indices);
    let fails = |error| Objection::Fails { rows, error };
    let jobs: Vec<&Job> = batch.iter().map(|request| &request.job).collect();
    let mut bench = TestBench::new(engine, hints).padding(Arc::clone(padding));
    let padded = bench.run(&jobs).map_err(fails)?;
    let magnitudes = Magnitudes::of(batch.iter().map(|request| &request.alone[..]));
    for (request, padded) in batch.iter().zip(&padded) {
        let Some(mismatch) = differs(&request.alone, padded, rows, &magnitudes) else { continue };
        if mismatch.is_shape {
            return Err(Objection::Padded(mismatch));
        }
        // Kernels may compute with other noise in a batch, which copies of the request show.
        let copies = bench.run(&vec![&request.job; batch.len()]).map_err(fails)?;
        let copy = copies.first().map(Vec::as_slice).unwrap_or_default();
        let differs = differs_beyond_noise(&request.alone, padded, copy, rows, &magnitudes);
        if let Some(mismatch) = differs {
            return Err(Objection::Padded(mismatch));
        }
    }
    Ok(())
}
