//! Whether requests of a loaded model may be padded.

use std::sync::Arc;

use tracing::{info, warn};

use crate::{
    engine::Engine,
    error::WorkerError,
    padding::{self, Padding},
    proof::{Hints, Objection, TestRows, prove_padding},
    repository::ModelSource,
    settings::ModelSettings,
};

/// The padding of a model's requests. Adds notes for the model's users, and the lines that its config
/// should have.
pub(super) fn choose(
    (settings, source): (&ModelSettings, &ModelSource),
    engine: &mut dyn Engine,
    hints: &Hints<'_>,
    rows: Option<&TestRows>,
    (notes, config_lines): (&mut Vec<String>, &mut Vec<String>),
) -> Result<Option<Arc<Padding>>, WorkerError> {
    Ok(match declared((settings, source), engine, hints, rows, notes)? {
        Declared::Nothing => {
            let lines = suggested(source, engine, hints, rows);
            notes.extend(lines.as_deref().map(advice));
            config_lines.extend(lines);
            None
        }
        Declared::Refused => None,
        Declared::Proven(padding) => Some(padding),
    })
}

/// What became of the padding that is declared.
enum Declared {
    /// None is declared.
    Nothing,
    /// It changes answers.
    Refused,
    /// It changes no answer.
    Proven(Arc<Padding>),
}

/// The padding that is declared, if it changes no answer. Adds notes for the model's users.
fn declared(
    (settings, source): (&ModelSettings, &ModelSource),
    engine: &mut dyn Engine,
    hints: &Hints<'_>,
    rows: Option<&TestRows>,
    notes: &mut Vec<String>,
) -> Result<Declared, WorkerError> {
    let model = source.queue.clone();
    let parameters = settings.padding.parameters(&source.config.parameters);
    let declared = Padding::declared(&parameters, engine.spec(), hints.graph);
    let declared = declared.map_err(|problem| source.contradiction(problem))?;
    let Some(declared) = declared.map(Arc::new) else { return Ok(Declared::Nothing) };
    let proven = match rows {
        Some(rows) => prove_padding(engine, hints, rows, &declared),
        None => Err(Objection::OneLength),
    };
    let Err(objection) = proven else { return Ok(Declared::Proven(declared)) };
    warn!(%model, %objection, "requests are not padded: only requests of the same length share a batch");
    notes.push(format!(
        "only requests of the same length share a batch, although padding is declared: \
         {objection}"
    ));
    Ok(Declared::Refused)
}

/// The lines of a config that pad the requests of a common kind of model, if this changes no answer.
fn suggested(
    source: &ModelSource,
    engine: &mut dyn Engine,
    hints: &Hints<'_>,
    rows: Option<&TestRows>,
) -> Option<String> {
    let (model, rows) = (&source.queue, rows?);
    let mut parameters = padding::suggestion(engine.spec(), hints.graph)?;
    loop {
        let padding = Padding::declared(&parameters, engine.spec(), hints.graph).ok()??;
        let Err(objection) = prove_padding(engine, hints, rows, &Arc::new(padding)) else { break };
        // The shape of an output may follow the length although the model's file does not say so.
        let follows = match &objection {
            Objection::Padded(mismatch) if mismatch.is_shape => Some(&mismatch.output),
            _ => None,
        };
        if !follows.is_some_and(|output| padding::also_cut(&mut parameters, output)) {
            info!(%model, %objection, "requests of different lengths run in different batches");
            return None;
        }
    }
    let lines = padding::lines(&parameters);
    info!(
        %model, lines,
        "requests of different lengths run in different batches: these lines of config.pbtxt pad \
         them"
    );
    Some(lines)
}

/// A note for the users of a model whose config should have these lines.
fn advice(lines: &str) -> String {
    let lines = lines.replace('\n', " ");
    format!(
        "only requests of the same length share a batch; {lines} in config.pbtxt pads shorter requests"
    )
}
