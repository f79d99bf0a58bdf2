//! Labels that several groups of metrics share.

/// The labels of a model version.
pub(super) const MODEL: [&str; 2] = ["model", "version"];
