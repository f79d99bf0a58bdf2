//! Runs a fresh model at growing sizes before any caller meets it: the first run of a size is slow,
//! and L(b), from which N follows, must be known before N is needed.

use std::{collections::BTreeMap, time::Duration};

use batchfleet_broker::{Tensor, TensorSpec};
use batchfleet_policy::CostModel;
use bytes::Bytes;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    engine::{Engine, EngineError},
    tensors,
};

/// Runs per size; the median counts.
const RUNS: usize = 3;

/// How far a warm-up goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Climb {
    /// The most rows to try.
    pub(crate) up_to: u32,
    /// The longest run that is of any use; the climb ends with the first that takes longer. Of a
    /// model so slow that one row takes it, runs up to twice that of one row are: else it would
    /// never batch, and be slower still.
    pub(crate) patience: Option<Duration>,
}

/// What a warm-up found.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// L(b), as measured.
    pub(crate) cost: CostModel,
    /// The largest size worth running: up to here all went well, and within the patience.
    pub(crate) usable: u32,
}

/// Times `engine` at 1, 2, 4, ... rows, three runs each.
///
/// A size that fails although smaller ones did not (memory) ends the climb like one that takes too
/// long: the size before is the largest that is used. `shapes` gives the inputs' dimensions without
/// that of the batch where the model leaves them open; else they are 1.
pub(crate) fn warm_up(
    engine: &mut dyn Engine,
    shapes: &BTreeMap<String, Vec<u64>>,
    climb: Climb,
) -> Result<Profile, EngineError> {
    let model = engine.spec().queue.to_string();
    let (mut times, mut usable) = (Vec::new(), 1);
    for rows in sizes(climb.up_to.min(engine.spec().max_batch)) {
        let took = match median_time(engine, shapes, rows) {
            Ok(took) => took,
            Err(error) if times.is_empty() => return Err(error),
            Err(error) => {
                warn!(model, rows, %error, "this size fails: staying below it");
                break;
            }
        };
        info!(model, rows, ?took, "warmed up");
        times.push((rows, took));
        if climb.patience.is_some_and(|patience| took > patience.max(times[0].1 * 2)) {
            break;
        }
        usable = rows;
    }
    let nothing = || EngineError::Failed("no size could be measured".to_owned());
    Ok(Profile { cost: CostModel::from_profile(&times).ok_or_else(nothing)?, usable })
}

/// 1, 2, 4, ... and `max_batch` itself; only 1 for a model that does not batch.
fn sizes(max_batch: u32) -> Vec<u32> {
    let mut sizes: Vec<u32> = std::iter::successors(Some(1_u32), |rows| rows.checked_mul(2))
        .take_while(|&rows| rows < max_batch)
        .collect();
    sizes.push(max_batch.max(1));
    sizes
}

fn median_time(
    engine: &mut dyn Engine,
    shapes: &BTreeMap<String, Vec<u64>>,
    rows: u32,
) -> Result<Duration, EngineError> {
    let batches = engine.spec().batches();
    let zeros: Vec<Tensor> = engine
        .spec()
        .inputs
        .iter()
        .map(|spec| zeros(spec, batches.then_some(rows), shapes.get(&spec.name)))
        .collect();
    let mut times = [Duration::ZERO; RUNS];
    for time in &mut times {
        let began = Instant::now();
        let outputs = engine.run(zeros.clone(), rows)?;
        *time = began.elapsed();
        if batches {
            // A model may promise a batch and not keep it: better known now.
            tensors::split(outputs, &[rows])?;
        }
    }
    times.sort_unstable();
    Ok(times[RUNS / 2])
}

/// An input of zeros, or of empty strings.
fn zeros(spec: &TensorSpec, rows: Option<u32>, wanted: Option<&Vec<u64>>) -> Tensor {
    let of_one = &spec.shape[usize::from(rows.is_some()).min(spec.shape.len())..];
    let wanted = wanted.map(Vec::as_slice).unwrap_or_default();
    let dims = of_one.iter().enumerate().map(|(index, &dim)| {
        u64::try_from(dim).unwrap_or_else(|_| wanted.get(index).copied().unwrap_or(1))
    });
    let shape: Vec<u64> = rows.map(u64::from).into_iter().chain(dims).collect();
    let elements = usize::try_from(shape.iter().product::<u64>()).unwrap_or_default();
    // An empty string is its length alone: four zero bytes.
    let data = Bytes::from(vec![0; elements * spec.datatype.size().unwrap_or(4)]);
    Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data }
}
