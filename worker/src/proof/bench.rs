//! Runs rows of requests as the pipeline runs them.

use std::{collections::BTreeMap, sync::Arc};

use batchfleet_broker::{Job, ModelSpec, Tensor};

use super::{compare::is_finite, values::RowKind};
use crate::{
    engine::{Engine, EngineError},
    graph::Graph,
    layout::{JobRows, Layout},
    padding::Padding,
};

/// What is known of the rows that a model takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hints<'a> {
    /// The facts in the model's file.
    pub(crate) graph: &'a Graph,
    /// The shape of each input without the row dimension, from the config.
    pub(crate) shapes: &'a BTreeMap<String, Vec<u64>>,
    /// The requests of one row in the config.
    pub(crate) samples: &'a [Job],
    /// The only batch sizes that the engine runs; empty for any.
    pub(crate) sizes: &'a [u32],
    /// Whether only rows of zeros may run, because the engine records or interprets its rows.
    pub(crate) only_zeros: bool,
}

impl Hints<'_> {
    /// The kinds of rows to run.
    pub(super) fn kinds(&self) -> &'static [RowKind] {
        if self.only_zeros { &[RowKind::Zeros] } else { &RowKind::ALL }
    }
}

/// Runs test rows as the pipeline runs requests.
pub(super) struct TestBench<'a> {
    engine: &'a mut dyn Engine,
    layout: Layout,
    sizes: Vec<u32>,
}

impl<'a> TestBench<'a> {
    pub(super) fn new(engine: &'a mut dyn Engine, hints: &Hints<'_>) -> Self {
        let layout = Layout::of(engine.spec());
        let mut sizes = hints.sizes.to_vec();
        sizes.sort_unstable();
        Self { engine, layout, sizes }
    }

    /// Pads requests of different lengths.
    pub(super) fn padding(self, padding: Arc<Padding>) -> Self {
        Self { layout: self.layout.with_padding(Some(padding)), ..self }
    }

    /// How requests share a batch.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The model.
    pub(super) fn model(&self) -> &ModelSpec {
        self.engine.spec()
    }

    /// The most rows of a batch.
    pub(super) fn most_rows(&self) -> u32 {
        let most = self.engine.spec().max_rows();
        let runs = self.sizes.iter().copied().filter(|&rows| rows <= most).max();
        runs.unwrap_or(most)
    }

    /// Runs requests of one row as a batch, padded to a size that the engine runs.
    pub(super) fn run(&mut self, jobs: &[&Job]) -> Result<Vec<Vec<Tensor>>, EngineError> {
        let rows = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        let padded = self.sizes.iter().copied().find(|&size| size >= rows).unwrap_or(rows);
        let parts: Vec<JobRows<'_>> = jobs.iter().map(|job| JobRows::all(job)).collect();
        let (inputs, slots) = self.layout.lay_out(&parts, padded - rows).join();
        let outputs = self.engine.run(inputs, slots.rows())?;
        Ok(slots.split(outputs)?)
    }
}

/// A request of one row, and its outputs alone.
#[derive(Debug)]
pub(super) struct TestRow {
    pub(super) job: Job,
    pub(super) alone: Vec<Tensor>,
}

impl TestRow {
    pub(super) fn new(job: Job, mut outputs: Vec<Vec<Tensor>>) -> Self {
        Self { job, alone: outputs.pop().unwrap_or_default() }
    }

    pub(super) fn is_finite(&self) -> bool {
        self.alone.iter().all(is_finite)
    }
}

/// The number of rows of a batch of requests of one row.
pub(super) fn row_count(batch: &[usize]) -> u32 {
    u32::try_from(batch.len()).unwrap_or(u32::MAX)
}
