//! The requests that a warm-up runs.

use batchfleet_broker::Tensor;

use crate::engine::EngineError;

/// The inputs of a warm-up, and the check of its outputs.
pub(crate) trait Rehearsal {
    /// The inputs of a batch of `rows` rows.
    fn inputs(&self, rows: u32) -> Vec<Tensor>;

    /// Whether two outputs of a batch of `rows` rows are the same, but for rounding.
    fn alike(&self, rows: u32, one: &[Tensor], other: &[Tensor]) -> bool;

    /// Checks the outputs of a batch of `rows` rows. An error counts as a failed run.
    fn check(&mut self, rows: u32, outputs: Vec<Tensor>) -> Result<(), EngineError>;
}
