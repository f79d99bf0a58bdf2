//! Proves that the rows of a batch do not influence each other: several different rows run alone
//! and together, in different orders and batch sizes, and each row must have the same outputs every
//! time. A model that batches only by assumption would mix the requests of different callers.

mod bench;
mod compare;
mod draw;
mod objection;
mod padding;
mod samples;
mod search;
mod sizes;
mod values;

use batchfleet_broker::Tensor;

use self::bench::{TestBench, row_count};
pub(crate) use self::{
    bench::Hints,
    compare::{Magnitudes, differs, differs_beyond_noise},
    padding::prove_padding,
    samples::samples,
    search::TestRows,
};
pub use self::{compare::Mismatch, objection::Objection};
use crate::engine::Engine;

/// Other rows are drawn this often to confirm a difference, which may come from a tie.
const CONFIRMATIONS: u64 = 2;

/// What a proof compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Shapes and values.
    Values,
    /// Only shapes, for models that draw random numbers.
    Shapes,
}

/// Runs the test rows alone and together. An error says why requests cannot be joined.
///
/// A difference counts only if other rows confirm it: two numbers that are equal by chance may
/// change places in the smallest noise.
pub(crate) fn prove(
    engine: &mut dyn Engine,
    hints: &Hints<'_>,
    rows: &TestRows,
    scope: Scope,
) -> Result<(), Objection> {
    let Err(objection) = Trial::new(engine, hints, rows, scope).run() else { return Ok(()) };
    if !matches!(&objection, Objection::Mixed(mismatch) if !mismatch.is_shape) {
        return Err(objection);
    }
    let mut is_confirmed = true;
    for seed in 1..=CONFIRMATIONS {
        let Ok(others) = rows.redraw(engine, hints, seed) else { continue };
        Trial::new(engine, hints, &others, scope).run()?;
        is_confirmed = false;
    }
    if is_confirmed { Err(objection) } else { Ok(()) }
}

/// One pass over batches of the test rows.
struct Trial<'a> {
    bench: TestBench<'a>,
    rows: &'a TestRows,
    scope: Scope,
}

impl<'a> Trial<'a> {
    fn new(
        engine: &'a mut dyn Engine,
        hints: &Hints<'_>,
        rows: &'a TestRows,
        scope: Scope,
    ) -> Self {
        Self { bench: TestBench::new(engine, hints), rows, scope }
    }

    fn run(mut self) -> Result<(), Objection> {
        for batch in batches(self.rows.len(), self.bench.most_rows()) {
            self.check(&batch)?;
        }
        Ok(())
    }

    /// Runs the rows with these indices together.
    fn check(&mut self, batch: &[usize]) -> Result<(), Objection> {
        let outputs = self.outputs(batch)?;
        for (place, (&row, batched)) in batch.iter().zip(&outputs).enumerate() {
            let alone = self.rows.alone(row);
            let rows = row_count(batch);
            let magnitudes = self.rows.magnitudes();
            let differs = differs(alone, batched, rows, magnitudes);
            let Some(mismatch) = self.counts(differs) else { continue };
            if mismatch.is_shape {
                return Err(Objection::Mixed(mismatch));
            }
            // The kernels for this size may compute with other noise, which copies of the row show.
            let copies = self.outputs(&vec![row; batch.len()])?;
            let copy = copies.get(place).map(Vec::as_slice).unwrap_or_default();
            let beyond_noise = differs_beyond_noise(alone, batched, copy, rows, magnitudes);
            if let Some(mismatch) = self.counts(beyond_noise) {
                return Err(self.explain(row, mismatch));
            }
        }
        Ok(())
    }

    /// Whether the outputs of a row differ even if it runs alone again.
    fn explain(&mut self, row: usize, mismatch: Mismatch) -> Objection {
        let again = self.outputs(&[row]).ok().and_then(|mut outputs| outputs.pop());
        let (alone, magnitudes) = (self.rows.alone(row), self.rows.magnitudes());
        match again.and_then(|again| self.counts(differs(alone, &again, 1, magnitudes))) {
            Some(mismatch) => Objection::Random(mismatch),
            None => Objection::Mixed(mismatch),
        }
    }

    fn outputs(&mut self, batch: &[usize]) -> Result<Vec<Vec<Tensor>>, Objection> {
        let jobs: Vec<_> = batch.iter().map(|&row| self.rows.job(row)).collect();
        let rows = row_count(batch);
        self.bench.run(&jobs).map_err(|error| Objection::Fails { rows, error })
    }

    /// The mismatch, if mismatches of its kind count.
    fn counts(&self, mismatch: Option<Mismatch>) -> Option<Mismatch> {
        mismatch.filter(|mismatch| self.scope == Scope::Values || mismatch.is_shape)
    }
}

/// The batches to run, as indices of rows: all rows in two orders, and half of the rows, in batches
/// of at most `most` rows.
fn batches(rows: usize, most: u32) -> Vec<Vec<usize>> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let forward: Vec<usize> = (0..rows).collect();
    let backward: Vec<usize> = (0..rows).rev().collect();
    let half: Vec<usize> = (0..rows).rev().step_by(2).collect();
    let orders = if rows > 2 { vec![forward, backward, half] } else { vec![backward] };
    let of_order = |order: Vec<usize>| -> Vec<Vec<usize>> {
        let chunks = order.chunks(most.max(1)).map(<[usize]>::to_vec);
        chunks.filter(|chunk| chunk.len() > 1).collect()
    };
    orders.into_iter().flat_map(of_order).collect()
}

#[cfg(test)]
mod tests;
