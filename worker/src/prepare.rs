//! Makes a loaded model ready to serve: finds inputs that it takes, proves that requests may share a
//! batch, warms it up, and plans how it is served.

mod padding;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use batchfleet_broker::ModelSpec;
use batchfleet_policy::{BatchMode, BatchPolicy, Climb, CostModel, QueueLoad, SizeChange};
use batchfleet_service::{InvalidSettings, trace::Tracer};
use tracing::{info, warn};

use crate::{
    config::Backend,
    engine::{Engine, EngineError},
    error::WorkerError,
    fault::RunFault,
    graph::Graph,
    labels,
    lengths::RowLengths,
    limit::{BatchLimit, whole_units},
    plan::ServingPlan,
    proof::{Hints, Mismatch, Objection, Scope, TestRows, prove, samples},
    repository::ModelSource,
    settings::ModelSettings,
    stretch::measure_lengths,
    warmup::{Profile, Sizes, warm_up},
};

/// `--max-batch-time` must be at least this multiple of the longest expected batch time, because
/// batches take longer on a busy machine.
const WATCHDOG_MARGIN: u32 = 3;

/// The time of a run that nothing is known of. The first runs correct it.
const UNKNOWN: Duration = Duration::from_millis(10);

/// Warms up the engine, and makes the plan from the measured batch times.
pub(crate) fn plan(
    settings: &ModelSettings,
    source: &ModelSource,
    engine: &mut dyn Engine,
    graph: &Graph,
) -> Result<ServingPlan, WorkerError> {
    let only = only_sizes(settings, engine);
    let only_zeros = source.config.backend == Backend::Echo;
    let samples = samples(source, engine.spec())?;
    let hints =
        Hints { graph, shapes: &source.config.warmup, samples: &samples, sizes: &only, only_zeros };
    let mut notes = source.config.notes(engine.spec());
    let mut rows = test_rows(settings, source, engine, &hints, &mut notes)?;
    let Measured { cost, lengths, usable, size_change } = match &mut rows {
        Some(rows) => measure(settings, source, engine, &hints, (rows, &mut notes))?,
        None => Measured::nothing(engine.spec())?,
    };
    let mut config_lines = Vec::new();
    if source.config.max_batch.is_none() && !engine.spec().batches() {
        config_lines.push("max_batch_size: 0".to_owned());
    }
    let told = (&mut notes, &mut config_lines);
    let padding = padding::choose((settings, source), engine, &hints, rows.as_ref(), told)?;
    notes.extend(engine.notes());
    let policy = BatchPolicy {
        hung_after: settings.max_batch_time,
        pads: padding.is_some(),
        ..BatchPolicy::new(settings.batch, usable, settings.slo_p99)
    };
    let row_units = lengths.expected_units();
    let limit = policy.in_units(row_units).choose(&cost, &QueueLoad::unknown(1)).n;
    let provider = engine.provider();
    let usual_rows = BatchLimit { rows: limit, units: limit.into() }.rows_of(row_units);
    info!(model = %source.queue, provider, limit = usual_rows, "loaded and warmed up");
    let mut spec = engine.spec().clone();
    let has_one_size =
        only.is_empty() && lengths.are_free() && size_change.needs_one_size(&cost, limit);
    let (cost, policy) = if has_one_size {
        notes.push(one_size(limit, &size_change));
        (cost.at_one_size(limit), BatchPolicy { max_batch: limit, ..policy })
    } else {
        (cost, policy)
    };
    if !only.is_empty() {
        let largest = NonZeroU32::new(cost.largest());
        spec.max_batch = spec.max_batch.min(largest);
    }
    let plan = ServingPlan {
        spec: Arc::new(spec),
        provider,
        memcpy_nodes: engine.memcpy_nodes(),
        labels: Arc::new(labels::read(source)?),
        cost,
        lengths: lengths.with_padding(padding.clone()),
        padding,
        policy,
        size_change,
        linger: source.config.linger.unwrap_or(settings.linger),
        max_batch_time: settings.max_batch_time,
        sentinel_interval: settings.sentinel_interval,
        tracer: Tracer::default(),
        notes,
        config_lines,
    };
    check_watchdog(&plan, usual_rows)?;
    Ok(plan)
}

/// The only batch sizes that run: those of the settings, else powers of two if the engine has a
/// faster way for sizes that are prepared. Empty for any size.
fn only_sizes(settings: &ModelSettings, engine: &dyn Engine) -> Vec<u32> {
    if !settings.batch_sizes.is_empty() || !engine.has_sizes() {
        return settings.batch_sizes.iter().map(|rows| rows.get()).collect();
    }
    let most = engine.spec().max_batch.map_or(1, NonZeroU32::get);
    let powers = (0..u32::BITS).map(|power| 1 << power).take_while(|&rows| rows < most);
    powers.chain([most]).collect()
}

/// The batch times of a model.
struct Measured {
    /// L of units.
    cost: CostModel,
    /// What rows cost by their length.
    lengths: RowLengths,
    /// The most rows that may run.
    usable: u32,
    /// What a change of size costs.
    size_change: SizeChange,
}

impl Measured {
    /// Nothing is known of the times of this model.
    fn nothing(model: &ModelSpec) -> Result<Self, WorkerError> {
        Self::new(&[(1, UNKNOWN)], RowLengths::of(model), 1)
    }

    fn new(
        times: &[(u32, Duration)],
        lengths: RowLengths,
        usable: u32,
    ) -> Result<Self, WorkerError> {
        let nothing = || InvalidSettings::new("no batch size was measured");
        let cost = CostModel::from_profile(times).ok_or_else(nothing)?;
        Ok(Self { cost, lengths, usable, size_change: SizeChange::default() })
    }
}

/// A note for the users of a model whose batches all have `rows` rows.
fn one_size(rows: u32, size_change: &SizeChange) -> String {
    format!(
        "all batches are padded to {rows} rows, because a change of their size takes {:.1} ms",
        size_change.takes().as_secs_f64() * 1e3
    )
}

/// The facts in the bytes of a model; none if they cannot be read. Facts only help.
pub(crate) fn facts(source: &ModelSource, model: &[u8]) -> Graph {
    Graph::read(model).unwrap_or_else(|error| {
        warn!(model = %source.queue, %error, "failed to read the operators of the model");
        Graph::default()
    })
}

/// Finds rows that the model takes, and decides whether its requests may be joined. `None` if no rows
/// are found. Adds notes for the model's users.
fn test_rows(
    settings: &ModelSettings,
    source: &ModelSource,
    engine: &mut dyn Engine,
    hints: &Hints<'_>,
    notes: &mut Vec<String>,
) -> Result<Option<TestRows>, WorkerError> {
    let mut found = TestRows::find(engine, hints);
    if engine.spec().batches()
        && let Err(EngineError::Uneven(uneven)) = found
    {
        notes.push(no_batch(source, engine, hints.graph, Objection::Uneven(uneven))?);
        found = TestRows::find(engine, hints);
    }
    match found {
        Ok(mut rows) => {
            if engine.spec().max_rows() > 1 && !hints.only_zeros {
                notes.extend(may_batch(source, engine, hints, &mut rows)?);
            }
            Ok(Some(rows))
        }
        Err(error) => {
            notes.push(unproven(settings, source, engine, error)?);
            Ok(None)
        }
    }
}

/// Warms up the engine. A model that computes something else in a larger batch than in the batches of
/// the proof is served one request at a time, and measured again. Adds a note for its users.
fn measure(
    settings: &ModelSettings,
    source: &ModelSource,
    engine: &mut dyn Engine,
    hints: &Hints<'_>,
    (rows, notes): (&mut TestRows, &mut Vec<String>),
) -> Result<Measured, WorkerError> {
    let measured = measure_sizes(settings, source, engine, hints, rows)?;
    let counts = |mismatch: &Mismatch| scope(source) == Scope::Values || mismatch.is_shape;
    let mismatch = rows.take_mismatch().filter(counts);
    let Some(mismatch) = mismatch.filter(|_| engine.spec().batches()) else { return Ok(measured) };
    if source.config.max_batch.is_some() {
        return Err(WorkerError::Golden { model: source.queue.clone(), mismatch });
    }
    notes.push(no_batch(source, engine, hints.graph, Objection::Mixed(mismatch))?);
    rows.serve_singly(engine.spec());
    measure_sizes(settings, source, engine, hints, rows)
}

/// Measures the times of batches of all sizes that may run.
fn measure_sizes(
    settings: &ModelSettings,
    source: &ModelSource,
    engine: &mut dyn Engine,
    hints: &Hints<'_>,
    rows: &mut TestRows,
) -> Result<Measured, WorkerError> {
    let (up_to, must_reach) = match settings.batch {
        BatchMode::Auto => (u32::MAX, false),
        // A fixed N takes precedence over the latency target.
        BatchMode::Fixed(rows) => (rows, true),
    };
    let only = hints.sizes.to_vec();
    let sizes = Sizes { only, up_to, must_reach: must_reach || engine.has_sizes() };
    let climb = Climb::new(settings.slo_p99, settings.max_batch_time);
    let model = source.queue.clone();
    let Profile { times, usable, size_change } = warm_up(engine, rows, &sizes, climb)
        .map_err(|error| WorkerError::WarmUp { model: model.clone(), error })?;
    let size_change = SizeChange::new(size_change);
    let measured = if sizes.only.is_empty() {
        let (lengths, times) = measure_lengths(engine, hints, rows, &times);
        Measured::new(&times, lengths, usable)?
    } else {
        // An engine with fixed sizes counts rows.
        let measured = Measured::new(&times, RowLengths::of(engine.spec()), usable)?;
        Measured { cost: measured.cost.with_fixed_sizes(), ..measured }
    };
    Ok(Measured { size_change, ..measured })
}

/// Serves a model that takes no inputs of the warm-up one request at a time, unless the settings
/// forbid it or the device is at fault. Returns a note for its users.
fn unproven(
    settings: &ModelSettings,
    source: &ModelSource,
    engine: &mut dyn Engine,
    error: EngineError,
) -> Result<String, WorkerError> {
    let model = source.queue.clone();
    if settings.require_warm_up || RunFault::of(&error) != RunFault::Model {
        return Err(WorkerError::WarmUp { model, error });
    }
    warn!(
        %model, %error,
        "no inputs were found that the model takes: serving it unmeasured, one request at a time; \
         model_warmup in its config.pbtxt gives inputs to try"
    );
    engine.serve_singly();
    Ok(format!(
        "each request runs in a batch of its own, because the warm-up found no inputs that the model \
         takes ({error}); model_warmup in config.pbtxt gives inputs to try"
    ))
}

/// Decides whether requests for the model may be joined. Returns notes for its users.
fn may_batch(
    source: &ModelSource,
    engine: &mut dyn Engine,
    hints: &Hints<'_>,
    rows: &mut TestRows,
) -> Result<Vec<String>, WorkerError> {
    let model = &source.queue;
    let symbols: Vec<&str> = hints.graph.row_symbols().into_iter().collect();
    if source.config.max_batch.is_none() && symbols.len() > 1 {
        let symbols = symbols.join(", ");
        info!(
            %model, symbols,
            "the first dimensions of the inputs are no common batch: serving one request at a time"
        );
        engine.serve_singly();
        rows.serve_singly(engine.spec());
        return Ok(vec![format!(
            "each request runs in a batch of its own, because the first dimensions of its inputs are \
             not one batch: the model's file names them {symbols}"
        )]);
    }
    if rows.are_alike() {
        warn!(%model, "model takes only one kind of row: its batches are hardly proven");
        return Ok(vec![
            "the warm-up found only one kind of row that the model takes, so that it is hardly proven \
             that rows of a batch do not influence each other"
                .to_owned(),
        ]);
    }
    let Err(objection) = prove(engine, hints, rows, scope(source)) else {
        let operators: Vec<&str> = hints.graph.batch_scaled().into_iter().collect();
        if !operators.is_empty() {
            warn!(
                %model, operators = operators.join(", "),
                "operators of the model scale all rows of a batch together: rows of very different \
                 size had the right outputs, but other rows may not"
            );
        }
        return Ok(Vec::new());
    };
    let note = no_batch(source, engine, hints.graph, objection)?;
    rows.serve_singly(engine.spec());
    Ok(vec![note])
}

/// Serves a model whose requests cannot be joined one request at a time, unless its config demands a
/// batch. Returns a note for its users.
fn no_batch(
    source: &ModelSource,
    engine: &mut dyn Engine,
    graph: &Graph,
    objection: Objection,
) -> Result<String, WorkerError> {
    let model = source.queue.clone();
    if let Some(max_batch) = source.config.max_batch {
        return Err(WorkerError::Batch { model, max_batch, objection: Box::new(objection) });
    }
    let cause = cause(graph, &objection);
    warn!(
        %model, %objection, cause,
        "requests cannot share a batch: serving one request at a time; max_batch_size: 0 in its \
         config.pbtxt confirms this"
    );
    engine.serve_singly();
    Ok(format!("each request runs in a batch of its own, because {objection}{cause}"))
}

/// The operators that are the likely cause of an objection, in parentheses.
fn cause(graph: &Graph, objection: &Objection) -> String {
    let operators = match objection {
        Objection::Random(_) => graph.random(),
        _ if !graph.batch_scaled().is_empty() => graph.batch_scaled(),
        _ => graph.along_rows(),
    };
    let operators: Vec<&str> = operators.into_iter().collect();
    if operators.is_empty() {
        return String::new();
    }
    format!(" (likely because of its {})", operators.join(", "))
}

/// The parameter `golden_check` "off" of a model that draws random numbers takes its values out of
/// all comparisons. Shapes are always compared.
fn scope(source: &ModelSource) -> Scope {
    match source.config.parameters.get("golden_check") {
        Some(check) if check == "off" => Scope::Shapes,
        _ => Scope::Values,
    }
}

/// Rejects settings with which the watchdog would mistake a slow batch for a hang.
fn check_watchdog(plan: &ServingPlan, limit: u32) -> Result<(), InvalidSettings> {
    let (model, max_batch_time) = (&plan.spec.queue, plan.max_batch_time);
    let row_units = plan.lengths.expected_units();
    let time = |rows: u32| plan.cost.latency(whole_units(f64::from(rows) * row_units));
    let takes = time(limit);
    if takes >= max_batch_time {
        return Err(InvalidSettings::new(format_args!(
            "model {model} takes {takes:?} for a batch of {limit} rows, which --max-batch-time \
             {max_batch_time:?} takes for a hang: raise it to {:?} or more",
            takes * WATCHDOG_MARGIN
        )));
    }
    // N may rise to the largest size that the warm-up found usable.
    let largest = plan.policy.max_batch;
    let longest = time(largest);
    if longest * WATCHDOG_MARGIN > max_batch_time {
        warn!(
            %model, largest, ?longest, ?max_batch_time,
            "--max-batch-time may take the largest batch for a hang"
        );
    }
    Ok(())
}
