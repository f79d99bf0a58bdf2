//! Mistakes in a config.

/// A mistake in a config, and the field that contains it.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) field: &'static str,
    /// For a repeated field, the index of the element.
    pub(super) index: usize,
    pub(super) problem: String,
}

impl Mistake {
    pub(super) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, index: 0, problem: problem.into() }
    }

    pub(super) fn at(field: &'static str, index: usize, problem: impl Into<String>) -> Self {
        Self { field, index, problem: problem.into() }
    }
}
