//! Draws test rows: requests of one row with values of each kind, as the model takes them.

use std::time::Duration;

use batchfleet_broker::{
    Datatype, GatewayId, Job, ModelSpec, Priority, RequestId, Tensor, TensorSpec,
};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::{
    bench::{Hints, TestBench, TestRow},
    sizes::Shapes,
    values::{self, Integers, Known, RowKind, Strings, Style},
};
use crate::engine::EngineError;

/// A model whose rows take longer is proven with fewer runs.
const SLOW: Duration = Duration::from_secs(1);
/// Attempts to draw a row of one kind.
const ATTEMPTS: u64 = 2;

/// Which values to draw.
pub(super) enum Drawing {
    /// The first ones; one row has run already.
    First(TestRow),
    /// Others, by the number of the drawing.
    Again(u64),
}

/// The kinds of rows to draw. A model that takes digits may take words too, which are not all of one
/// length, and may know only the words in its file.
fn kinds(hints: &Hints<'_>, model: &ModelSpec, style: Style) -> Vec<(RowKind, Style)> {
    let mut kinds: Vec<_> = hints.kinds().iter().map(|&kind| (kind, style)).collect();
    let has_strings = model.inputs.iter().any(|input| input.datatype == Datatype::Bytes);
    if has_strings && !hints.only_zeros {
        let of = |strings| Style { strings, ..style };
        if style.strings == Strings::Digits {
            kinds.extend([RowKind::Unit, RowKind::Large].map(|kind| (kind, of(Strings::Words))));
        }
        if !hints.graph.words().is_empty() {
            let listed = [RowKind::Unit, RowKind::Small, RowKind::Zeros];
            kinds.extend(listed.map(|kind| (kind, of(Strings::Listed))));
        }
    }
    kinds
}

/// Draws one row of each kind that the model takes. Fails if the outputs for one of them do not hold
/// the row: a model that leaves out or repeats rows keeps the rows of a batch only by chance.
pub(super) fn draw_rows(
    bench: &mut TestBench<'_>,
    hints: &Hints<'_>,
    (shapes, style): (&Shapes, Style),
    drawing: Drawing,
) -> Result<Vec<TestRow>, EngineError> {
    let model = bench.model().clone();
    let (seed, mut found) = match drawing {
        Drawing::First(found) => (0, Some(found).filter(TestRow::is_finite)),
        Drawing::Again(seed) => (seed, None),
    };
    let mut rows: Vec<TestRow> = Vec::new();
    let mut error = None;
    for (kind, style) in kinds(hints, &model, style) {
        let began = Instant::now();
        let drawn = match found.take() {
            Some(found) => Ok(found),
            None => draw_row(bench, &model, hints, (shapes, kind, style), seed),
        };
        match drawn {
            Ok(row) if rows.iter().any(|other| other.job.inputs == row.job.inputs) => {}
            Ok(row) => rows.push(row),
            Err(uneven @ EngineError::Uneven(_)) => return Err(uneven),
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
                Err(uneven @ EngineError::Uneven(_)) => return Err(uneven),
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
pub(super) fn draw(
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
        let graph = hints.graph;
        let known = Known { table: graph.table_rows(&input.name), words: graph.words() };
        values::tensor(input, shape, (kind, style), known, &mut random)
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
        offer: None,
        trace: None,
    }
}
