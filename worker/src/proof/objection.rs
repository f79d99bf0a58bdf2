//! Why the requests for a model cannot be joined.

use super::compare::Mismatch;
use crate::{engine::EngineError, layout::UnevenOutput};

/// Why the requests for a model cannot be joined.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Objection {
    /// The outputs of a row depend on the other rows of the batch.
    #[error("the rows of a batch influence each other: {0}")]
    Mixed(Mismatch),
    /// The outputs of a row depend on the values that are added to it.
    #[error("the values that are added to short requests change their outputs: {0}")]
    Padded(Mismatch),
    /// Too few lengths run to compare padded requests.
    #[error(
        "the warm-up found only one length that the model takes, so that padding is not proven"
    )]
    OneLength,
    /// The outputs of a row differ from run to run.
    #[error(
        "its outputs differ from run to run, which hides whether rows influence each other: {0}"
    )]
    Random(Mismatch),
    /// The outputs do not hold the rows of the inputs.
    #[error(transparent)]
    Uneven(UnevenOutput),
    /// A batch fails, although each of its rows runs alone.
    #[error("a batch of {rows} rows fails, although each row runs alone: {error}")]
    Fails {
        /// Rows of the batch.
        rows: u32,
        /// The error of the run.
        error: EngineError,
    },
}
