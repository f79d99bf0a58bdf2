//! Reads protobuf's text format, which `config.pbtxt` files use, into any type that implements
//! serde's `Deserialize`: a message becomes a struct, a `map` field a map, a repeated field a
//! sequence.
//!
//! The fields of the structs are the schema. An unknown field, a value of the wrong kind and a
//! field given twice are errors, as in protobuf's own parser.

mod access;
mod read;
mod token;
mod tree;
mod value;

use std::fmt;

pub(crate) use self::tree::parse;

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
    fn new(line: usize, problem: impl Into<String>) -> Self {
        Self { line, problem: problem.into() }
    }

    /// Sets the line of an error that has none.
    fn or_line(self, line: usize) -> Self {
        if self.line == 0 { Self { line, ..self } } else { self }
    }
}

/// An error without a line, as serde's generated code creates it.
impl serde::de::Error for SyntaxError {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self::new(0, problem.to_string())
    }
}

/// The name in `known` that a misspelt `name` most probably means: the only difference is a prefix,
/// or the names are similar.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    /// Below this similarity two names have nothing in common.
    const SIMILAR: f64 = 0.8;
    let has_prefix =
        |known: &&&str| known.strip_suffix(name).is_some_and(|prefix| prefix.ends_with('_'));
    if let Some(known) = known.iter().find(has_prefix) {
        return Some(known);
    }
    let similarity = |known: &&'a str| (strsim::jaro_winkler(name, known), *known);
    let (score, nearest) = known.iter().map(similarity).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score >= SIMILAR).then_some(nearest)
}

#[cfg(test)]
mod tests;
