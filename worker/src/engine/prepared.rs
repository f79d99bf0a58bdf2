//! How a model runs on a device: plainly, through memory that stays between runs, or as a graph that
//! was recorded for a batch size.
//!
//! The faster ways are used only after the warm-up has compared their outputs with those of the
//! plain way. If a way fails or computes something else, the model runs without it, and its users
//! are told. Graphs are recorded during the warm-up only: recording fails if another thread uses the
//! device, and no model of the process serves before all are warmed up.

use batchfleet_broker::Tensor;

use super::{Alike, EngineError};

/// Runs of a graph before it is trusted: ONNX Runtime runs the operators the first time, records
/// them the second time, and replays them from then on.
const TRIALS: usize = 3;
/// Maximum number of graphs. Each needs memory of its own for inputs and outputs.
const MOST_GRAPHS: usize = 64;

/// The ways in which a device runs a model.
pub(crate) trait Device {
    /// A graph, with the memory of its inputs and outputs.
    type Graph;

    /// Runs a batch of any shape.
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError>;

    /// Runs a batch of any shape through memory that stays between runs.
    fn run_kept(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError>;

    /// Gets the memory of a graph for inputs and outputs of these shapes.
    fn graph(&mut self, inputs: &[Tensor], outputs: &[Tensor]) -> Result<Self::Graph, EngineError>;

    /// Runs a batch of exactly the shapes of `graph`.
    fn run_graph(
        &mut self,
        graph: &mut Self::Graph,
        inputs: &[Tensor],
    ) -> Result<Vec<Tensor>, EngineError>;
}

/// Which ways a model may use besides the plain one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    /// Through memory that stays between runs.
    pub(crate) kept_memory: bool,
    /// As graphs. Needs memory that stays.
    pub(crate) graphs: bool,
}

/// A device, and the ways that were found to work on it.
pub(crate) struct Prepared<D: Device> {
    device: D,
    wanted: Ways,
    /// Whether memory that stays gave the right outputs.
    kept_works: bool,
    graphs: Vec<Recorded<D::Graph>>,
    notes: Vec<String>,
}

/// A graph, and the shapes of its inputs.
struct Recorded<G> {
    shapes: Vec<Vec<u64>>,
    graph: G,
}

impl<D: Device> Prepared<D> {
    /// Prepares nothing yet: every batch runs plainly.
    pub(crate) fn new(device: D, wanted: Ways) -> Self {
        Self { device, wanted, kept_works: false, graphs: Vec::new(), notes: Vec::new() }
    }

    /// The device.
    pub(crate) fn device(&mut self) -> &mut D {
        &mut self.device
    }

    /// Whether batches of some sizes run as graphs.
    pub(crate) fn has_graphs(&self) -> bool {
        !self.graphs.is_empty()
    }

    /// Sentences for users about the ways that do not work.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Runs a batch in the best way that works for its shapes.
    pub(crate) fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
        if let Some(recorded) = self.graphs.iter_mut().find(|graph| graph.fits(inputs)) {
            return self.device.run_graph(&mut recorded.graph, inputs);
        }
        if self.kept_works { self.device.run_kept(inputs) } else { self.device.run(inputs) }
    }

    /// Tries the wanted ways on a batch of these inputs. Fails only if the plain way does.
    pub(crate) fn prepare(
        &mut self,
        inputs: &[Tensor],
        alike: Alike<'_>,
    ) -> Result<(), EngineError> {
        let is_known = self.graphs.iter().any(|graph| graph.fits(inputs));
        if self.wanted == Ways::default() || is_known || (self.kept_works && !self.wanted.graphs) {
            return Ok(());
        }
        let expected = self.device.run(inputs)?;
        if !self.kept_works {
            match compare(self.device.run_kept(inputs), &expected, alike) {
                Ok(()) => self.kept_works = true,
                Err(why) => {
                    self.wanted = Ways::default();
                    self.notes.push(format!(
                        "inputs and outputs have no memory of their own on the device, because {why}"
                    ));
                    return Ok(());
                }
            }
        }
        if self.wanted.graphs && self.graphs.len() < MOST_GRAPHS {
            self.record(inputs, &expected, alike);
        }
        Ok(())
    }

    /// Records a graph, or ends the recording of graphs.
    fn record(&mut self, inputs: &[Tensor], expected: &[Tensor], alike: Alike<'_>) {
        let mut graph = match self.device.graph(inputs, expected) {
            Ok(graph) => graph,
            Err(error) => return self.end_recording(&cause(&error)),
        };
        for _ in 0..TRIALS {
            let outputs = self.device.run_graph(&mut graph, inputs);
            if let Err(why) = compare(outputs, expected, alike) {
                return self.end_recording(&why);
            }
        }
        let shapes = inputs.iter().map(|input| input.shape.clone()).collect();
        self.graphs.push(Recorded { shapes, graph });
    }

    fn end_recording(&mut self, why: &str) {
        self.wanted.graphs = false;
        let which = if self.graphs.is_empty() { "batches" } else { "batches of further sizes" };
        self.notes.push(format!("{which} run without a CUDA graph, because {why}"));
    }
}

impl<G> Recorded<G> {
    fn fits(&self, inputs: &[Tensor]) -> bool {
        self.shapes.len() == inputs.len()
            && self.shapes.iter().zip(inputs).all(|(shape, input)| *shape == input.shape)
    }
}

/// Fails with the reason if outputs are not the expected ones.
fn compare(
    outputs: Result<Vec<Tensor>, EngineError>,
    expected: &[Tensor],
    alike: Alike<'_>,
) -> Result<(), String> {
    match outputs {
        Ok(outputs) if alike(expected, &outputs) => Ok(()),
        Ok(_) => Err("the outputs differ from those of a plain run".to_owned()),
        Err(error) => Err(cause(&error)),
    }
}

/// The runtime's own words, because a way that fails is no fault of the model.
fn cause(error: &EngineError) -> String {
    match error {
        EngineError::Failed(source) => source.to_string(),
        EngineError::Uneven(uneven) => uneven.to_string(),
    }
}

#[cfg(test)]
mod tests;
