//! The error for invalid settings.

use std::fmt;

/// Settings that contradict each other or do not fit the machine: the process must not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSettings(pub String);

impl InvalidSettings {
    /// Creates the error. `problem` is one line that tells the user what to change.
    pub fn new(problem: impl fmt::Display) -> Self {
        Self(problem.to_string())
    }
}
