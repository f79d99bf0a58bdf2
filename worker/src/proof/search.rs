//! Finds rows that a model takes: the sizes of open dimensions and the kinds of values are tried
//! until one row runs.

use std::{collections::BTreeMap, time::Duration};

use batchfleet_broker::{Job, ModelSpec, Tensor};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    bench::{Hints, TestBench, TestRow},
    compare::{Magnitudes, Mismatch, Tolerance, compare},
    draw::{Drawing, draw, draw_rows},
    sizes::{Dimensions, Shapes},
    values::{Integers, RowKind, Style},
};
use crate::{
    engine::{Engine, EngineError},
    layout::{JobRows, Layout},
    warmup::Rehearsal,
};

/// The search for sizes and values ends after this time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Rows that a model takes, with their outputs.
#[derive(Debug)]
pub(crate) struct TestRows {
    layout: Layout,
    /// The sizes and values of the rows that were made up; `None` if there are only those of the
    /// config.
    drawn: Option<(Shapes, Style)>,
    rows: Vec<TestRow>,
    magnitudes: Magnitudes,
    mismatch: Option<Mismatch>,
}

impl TestRows {
    /// Finds rows that the model takes. Fails with the model's error if it takes none.
    pub(crate) fn find(engine: &mut dyn Engine, hints: &Hints<'_>) -> Result<Self, EngineError> {
        let model = engine.spec().clone();
        let began = Instant::now();
        let dimensions = Dimensions::new(&model, hints.graph, hints.shapes);
        let mut bench = TestBench::new(engine, hints);
        let mut first_error = None;
        let mut uneven = BTreeMap::new();
        for style in Style::all(&model.inputs) {
            for shapes in dimensions.shapes() {
                let job = draw(&model, hints, &shapes, (hints.kinds()[0], style), 0);
                match bench.run(&[&job]) {
                    Ok(outputs) => {
                        // Other values of these sizes ran as well.
                        if let Some(error) = uneven.remove(&shapes) {
                            return Err(error);
                        }
                        info!(model = %model.queue, ?shapes, "found inputs that the model takes");
                        let found = TestRow::new(job, outputs);
                        let rows =
                            draw_rows(&mut bench, hints, (&shapes, style), Drawing::First(found))?;
                        return Ok(Self::new(bench, hints, Some((shapes, style)), rows));
                    }
                    Err(error) => {
                        debug!(model = %model.queue, ?shapes, ?style, %error, "model refused inputs");
                        // The outputs do not hold the rows: the model has run, which says more.
                        let is_first = first_error.is_none();
                        if matches!(error, EngineError::Uneven(_)) {
                            uneven.insert(shapes, error.clone());
                            first_error = Some(error);
                        } else if is_first {
                            first_error = Some(error);
                        }
                    }
                }
                if began.elapsed() > PATIENCE {
                    break;
                }
            }
        }
        let rows = Self::new(bench, hints, None, Vec::new());
        if rows.rows.is_empty() {
            return Err(first_error.unwrap_or_else(|| EngineError::failed("it has no inputs")));
        }
        Ok(rows)
    }

    /// Adds the rows of the config that the model takes to rows that were made up.
    fn new(
        mut bench: TestBench<'_>,
        hints: &Hints<'_>,
        drawn: Option<(Shapes, Style)>,
        mut rows: Vec<TestRow>,
    ) -> Self {
        for sample in hints.samples {
            let fits = |first: &TestRow| bench.layout().can_join(&first.job, sample);
            if !rows.first().is_none_or(fits) {
                continue;
            }
            match bench.run(&[sample]) {
                Ok(outputs) => rows.push(TestRow::new(sample.clone(), outputs)),
                Err(error) => {
                    let model = &bench.model().queue;
                    warn!(%model, %error, "model refused a sample of model_warmup");
                }
            }
        }
        let magnitudes = Magnitudes::of(rows.iter().map(|row| &row.alone[..]));
        Self { layout: bench.layout().clone(), drawn, rows, magnitudes, mismatch: None }
    }

    /// Rows of the same sizes and kinds with other values.
    pub(super) fn redraw(
        &self,
        engine: &mut dyn Engine,
        hints: &Hints<'_>,
        seed: u64,
    ) -> Result<Self, EngineError> {
        let nothing = || EngineError::failed("no rows were made up");
        let (shapes, style) = self.drawn.clone().ok_or_else(nothing)?;
        let mut bench = TestBench::new(engine, hints);
        let rows = draw_rows(&mut bench, hints, (&shapes, style), Drawing::Again(seed))?;
        Ok(Self::new(bench, hints, self.drawn.clone(), rows))
    }

    /// Whether the rows are too much alike to prove that they do not influence each other.
    pub(crate) fn are_alike(&self) -> bool {
        self.rows.len() < 2
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The request of one row.
    pub(super) fn job(&self, row: usize) -> &Job {
        &self.rows[row].job
    }

    /// The outputs of one row alone.
    pub(super) fn alone(&self, row: usize) -> &[Tensor] {
        &self.rows[row].alone
    }

    /// The magnitudes of the outputs.
    pub(super) fn magnitudes(&self) -> &Magnitudes {
        &self.magnitudes
    }

    /// The request of one of the rows.
    pub(crate) fn first(&self) -> Option<&Job> {
        self.rows.first().map(|row| &row.job)
    }

    /// A request of one row whose open dimensions have this size; `None` if no such rows were made
    /// up.
    pub(crate) fn of_size(&self, model: &ModelSpec, hints: &Hints<'_>, size: u64) -> Option<Job> {
        let (_, style) = self.drawn.as_ref()?;
        let shapes = Dimensions::new(model, hints.graph, hints.shapes).uniform(size);
        let kind = hints.kinds().iter().copied().find(|&kind| kind == RowKind::Unit);
        let kind = kind.unwrap_or(hints.kinds()[0]);
        Some(draw(model, hints, &shapes, (kind, *style), 0))
    }

    /// The same with 1 as the value of all integers that select no row of a known table, such as
    /// masks, and other values for another `seed`.
    pub(super) fn of_size_unmasked(
        &self,
        model: &ModelSpec,
        hints: &Hints<'_>,
        size: u64,
        seed: u64,
    ) -> Option<Job> {
        let (_, style) = self.drawn.as_ref()?;
        let style = Style { integers: Integers::Ones, ..*style };
        let shapes = Dimensions::new(model, hints.graph, hints.shapes).uniform(size);
        Some(draw(model, hints, &shapes, (RowKind::Unit, style), seed))
    }

    /// The inputs of a batch of `rows` copies of a request of one row.
    pub(crate) fn copies(&self, job: &Job, rows: u32) -> Vec<Tensor> {
        let parts = vec![JobRows::all(job); rows as usize];
        self.layout.lay_out(&parts, 0).join().0
    }

    /// Uses each row as a request to a model that does not batch from now on.
    pub(crate) fn serve_singly(&mut self, model: &ModelSpec) {
        self.layout = Layout::of(model);
    }

    /// The first output that differed between a single row and a batch in the warm-up since the last
    /// call.
    pub(crate) fn take_mismatch(&mut self) -> Option<Mismatch> {
        self.mismatch.take()
    }
}

/// A warm-up repeats the test rows, and checks that devices compute the same at each size.
impl Rehearsal for TestRows {
    fn inputs(&self, rows: u32) -> Vec<Tensor> {
        let parts = self.rows.iter().map(|row| JobRows::all(&row.job)).cycle();
        let parts: Vec<JobRows<'_>> = parts.take(rows as usize).collect();
        self.layout.lay_out(&parts, 0).join().0
    }

    fn alike(&self, rows: u32, one: &[Tensor], other: &[Tensor]) -> bool {
        compare(one, other, rows, &self.magnitudes, |_| Tolerance::Widest).is_ok()
    }

    fn check(&mut self, rows: u32, outputs: Vec<Tensor>) -> Result<(), EngineError> {
        // Fails if the outputs do not hold the batch's rows.
        let outputs = self.layout.single_rows(rows).split(outputs)?;
        for (row, batched) in self.rows.iter().cycle().zip(&outputs) {
            let compared =
                compare(&row.alone, batched, rows, &self.magnitudes, |_| Tolerance::Widest);
            if self.mismatch.is_none() {
                self.mismatch = compared.err();
            }
        }
        Ok(())
    }
}
