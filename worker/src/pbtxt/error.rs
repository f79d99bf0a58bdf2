//! Mistakes in a text.

use std::fmt;

/// A mistake in a text, and its line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct SyntaxError {
    /// The line, counted from 1.
    pub line: usize,
    /// What the parser found or expected on the line.
    pub problem: String,
}

impl SyntaxError {
    pub(super) fn new(line: usize, problem: impl Into<String>) -> Self {
        Self { line, problem: problem.into() }
    }

    /// Sets the line of an error that has none.
    pub(super) fn or_line(self, line: usize) -> Self {
        if self.line == 0 { Self { line, ..self } } else { self }
    }
}

/// An error without a line, as serde's generated code creates it.
impl serde::de::Error for SyntaxError {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self::new(0, problem.to_string())
    }
}
