//! Finds rows that a model takes: the sizes of open dimensions and the kinds of values are tried
//! until one row runs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use batchfleet_broker::{GatewayId, Job, ModelSpec, Priority, RequestId, Tensor, TensorSpec};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    compare::{Mismatch, Tolerance, compare, is_finite},
    sizes::{Dimensions, Shapes},
    values::{self, Integers, RowKind, Style},
};
use crate::{
    engine::{Engine, EngineError},
    graph::Graph,
    layout::{JobRows, Layout},
    padding::Padding,
    warmup::Rehearsal,
};

/// The search for sizes and values ends after this time.
const PATIENCE: Duration = Duration::from_secs(20);
/// A model whose rows take longer is proven with fewer runs.
const SLOW: Duration = Duration::from_secs(1);
/// Attempts to draw a row of one kind.
const ATTEMPTS: u64 = 2;

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
    fn kinds(&self) -> &'static [RowKind] {
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
struct TestRow {
    job: Job,
    alone: Vec<Tensor>,
}

impl TestRow {
    fn new(job: Job, mut outputs: Vec<Vec<Tensor>>) -> Self {
        Self { job, alone: outputs.pop().unwrap_or_default() }
    }

    fn is_finite(&self) -> bool {
        self.alone.iter().all(is_finite)
    }
}

/// Which values to draw.
enum Drawing {
    /// The first ones; one row has run already.
    First(TestRow),
    /// Others, by the number of the drawing.
    Again(u64),
}

/// Rows that a model takes, with their outputs.
#[derive(Debug)]
pub(crate) struct TestRows {
    layout: Layout,
    /// The sizes and values of the rows that were made up; `None` if there are only those of the
    /// config.
    drawn: Option<(Shapes, Style)>,
    rows: Vec<TestRow>,
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
        for style in Style::all(&model.inputs) {
            for shapes in dimensions.shapes() {
                let job = draw(&model, hints, &shapes, (hints.kinds()[0], style), 0);
                match bench.run(&[&job]) {
                    Ok(outputs) => {
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
                        if is_first || matches!(error, EngineError::Uneven(_)) {
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
            let fits = |first: &TestRow| bench.layout.can_join(&first.job, sample);
            if !rows.first().is_none_or(fits) {
                continue;
            }
            match bench.run(&[sample]) {
                Ok(outputs) => rows.push(TestRow::new(sample.clone(), outputs)),
                Err(error) => {
                    let model = &bench.engine.spec().queue;
                    warn!(%model, %error, "model refused a sample of model_warmup");
                }
            }
        }
        Self { layout: bench.layout, drawn, rows, mismatch: None }
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

    /// The first output that differed between a single row and a batch in the warm-up.
    pub(crate) fn mismatch(self) -> Option<Mismatch> {
        self.mismatch
    }
}

/// A warm-up repeats the test rows, and checks that devices compute the same at each size.
impl Rehearsal for TestRows {
    fn inputs(&self, rows: u32) -> Vec<Tensor> {
        let parts = self.rows.iter().map(|row| JobRows::all(&row.job)).cycle();
        let parts: Vec<JobRows<'_>> = parts.take(rows as usize).collect();
        self.layout.lay_out(&parts, 0).join().0
    }

    fn check(&mut self, rows: u32, outputs: Vec<Tensor>) -> Result<(), EngineError> {
        // Fails if the outputs do not hold the batch's rows.
        let outputs = self.layout.single_rows(rows).split(outputs)?;
        for (row, batched) in self.rows.iter().cycle().zip(&outputs) {
            let compared = compare(&row.alone, batched, rows, |_| Tolerance::Widest);
            if self.mismatch.is_none() {
                self.mismatch = compared.err();
            }
        }
        Ok(())
    }
}

/// Draws one row of each kind that the model takes.
fn draw_rows(
    bench: &mut TestBench<'_>,
    hints: &Hints<'_>,
    (shapes, style): (&Shapes, Style),
    drawing: Drawing,
) -> Result<Vec<TestRow>, EngineError> {
    let model = bench.engine.spec().clone();
    let (seed, mut found) = match drawing {
        Drawing::First(found) => (0, Some(found).filter(TestRow::is_finite)),
        Drawing::Again(seed) => (seed, None),
    };
    let mut rows: Vec<TestRow> = Vec::new();
    let mut error = None;
    for &kind in hints.kinds() {
        let began = Instant::now();
        let drawn = match found.take() {
            Some(found) => Ok(found),
            None => draw_row(bench, &model, hints, (shapes, kind, style), seed),
        };
        match drawn {
            Ok(row) if rows.iter().any(|other| other.job.inputs == row.job.inputs) => {}
            Ok(row) => rows.push(row),
            Err(refused) => error = Some(refused),
        }
        if began.elapsed() > SLOW && rows.len() > 1 {
            break;
        }
    }
    match error {
        Some(error) if rows.is_empty() => Err(error),
        _ => Ok(rows),
    }
}

/// Draws a row of one kind and runs it alone. Prefers rows with finite outputs, which show more.
fn draw_row(
    bench: &mut TestBench<'_>,
    model: &ModelSpec,
    hints: &Hints<'_>,
    (shapes, kind, style): (&Shapes, RowKind, Style),
    seed: u64,
) -> Result<TestRow, EngineError> {
    let styles: Vec<Style> = std::iter::successors(Some(style), |style| style.milder()).collect();
    let kinds = if kind == RowKind::Unit { vec![kind] } else { vec![kind, RowKind::Unit] };
    let (mut infinite, mut error) = (None, None);
    for (attempt, kind) in (0..).zip(kinds) {
        for &style in &styles {
            // Each kind of row has values of its own.
            let seed = (seed * ATTEMPTS + attempt) * 4 + kind as u64;
            let job = draw(model, hints, shapes, (kind, style), seed);
            match bench.run(&[&job]) {
                Ok(outputs) => {
                    let row = TestRow::new(job, outputs);
                    if row.is_finite() {
                        return Ok(row);
                    }
                    infinite.get_or_insert(row);
                }
                Err(refused) => error = Some(refused),
            }
        }
        if infinite.is_some() {
            break;
        }
    }
    let nothing = || EngineError::failed("no row to run");
    infinite.ok_or_else(|| error.unwrap_or_else(nothing))
}

/// Draws a request of one row. All rows have the same value in an input that has no rows.
fn draw(
    model: &ModelSpec,
    hints: &Hints<'_>,
    shapes: &Shapes,
    (kind, style): (RowKind, Style),
    seed: u64,
) -> Job {
    let required = model.inputs.iter().zip(shapes).filter(|(input, _)| !input.optional);
    let tensor = |(at, (input, shape)): (u64, (&TensorSpec, &Vec<u64>))| {
        let is_shared = model.batches() && (input.row_axis.is_none() || input.shape.is_empty());
        let given = hints.samples.iter().flat_map(|sample| &sample.inputs);
        if is_shared && let Some(given) = given.into_iter().find(|given| given.name == input.name) {
            return given.clone();
        }
        let (kind, style, seed) = if is_shared {
            let integers = match style.integers {
                Integers::Zeros => Integers::Zeros,
                _ => Integers::Ones,
            };
            (RowKind::Unit, Style { integers, ..style }, 0)
        } else {
            (kind, style, seed)
        };
        let mut random = StdRng::seed_from_u64(seed * 1000 + at);
        let table = hints.graph.table_rows(&input.name);
        values::tensor(input, shape, (kind, style), table, &mut random)
    };
    let inputs = (0..).zip(required).map(tensor).collect();
    job(inputs, seed)
}

/// A request of one row.
pub(super) fn job(inputs: Vec<Tensor>, number: u64) -> Job {
    Job {
        id: RequestId(number.into()),
        gateway: GatewayId(0),
        attempt: 0,
        priority: Priority::Default,
        ttl: Duration::MAX,
        rows: 1,
        digest: 0,
        inputs,
        outputs: Vec::new(),
        classes: Vec::new(),
        trace: None,
    }
}

pub(super) fn row_count(batch: &[usize]) -> u32 {
    u32::try_from(batch.len()).unwrap_or(u32::MAX)
}
