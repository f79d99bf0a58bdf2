//! Why there is no simulation.

use std::{io, path::PathBuf};

/// What to change.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// Nothing is known of the model.
    #[error("--curve is missing: what does a batch of b rows take?")]
    NoCurve,
    /// The sizes of batches make no sense.
    #[error("--sizes must rise, from 1 or more")]
    Sizes,
    /// There is no time to simulate.
    #[error("the load has no duration: set --duration")]
    NoTime,
    /// A file can't be read.
    #[error("cannot read {}: {error}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A file has something else in it.
    #[error("{} line {line}: expected a time in seconds, or `seconds,rate`, rising", file.display())]
    Recorded {
        /// Which.
        file: PathBuf,
        /// Where, from 1.
        line: usize,
    },
    /// The drawing or the result can't be written.
    #[error("cannot write {what}: {error}")]
    Write {
        /// Which.
        what: String,
        /// Why not.
        error: io::Error,
    },
    /// The decisions do not reach what they must.
    #[error("not all goals are reached")]
    Goals,
}

impl SimulateError {
    /// Whether other settings would help.
    pub const fn is_of_settings(&self) -> bool {
        matches!(self, Self::NoCurve | Self::Sizes | Self::NoTime)
    }
}
