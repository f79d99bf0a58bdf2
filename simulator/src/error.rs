//! Errors of `batchfleet simulate`.

use std::{io, path::PathBuf};

/// The reason why a simulation failed.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// `--curve` is missing.
    #[error("--curve is missing: how long does a batch of b rows take?")]
    NoCurve,
    /// `--sizes` is not in ascending order.
    #[error("--sizes must rise, from 1 or more")]
    Sizes,
    /// The load lasts 0 s.
    #[error("the load has no duration: set --duration")]
    NoTime,
    /// A file cannot be read.
    #[error("cannot read {}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// A line of a recorded load is malformed.
    #[error("{} line {line}: expected a time in seconds, or `seconds,rate`, rising", file.display())]
    Recorded {
        /// The file.
        file: PathBuf,
        /// The line number, starting at 1.
        line: usize,
    },
    /// A line of a file of lengths is malformed.
    #[error("{} line {line}: expected a length of at least 1", file.display())]
    Length {
        /// The file.
        file: PathBuf,
        /// The line number, starting at 1.
        line: usize,
    },
    /// The chart or the result cannot be written.
    #[error("cannot write {what}: {error}")]
    Write {
        /// The file, or `the result`.
        what: String,
        /// The cause.
        error: io::Error,
    },
    /// The decisions miss a goal of `--goals`.
    #[error("not all goals are reached")]
    Goals,
}

impl SimulateError {
    /// Returns whether the settings are wrong, as opposed to a file or the result.
    pub const fn is_of_settings(&self) -> bool {
        matches!(self, Self::NoCurve | Self::Sizes | Self::NoTime)
    }
}
