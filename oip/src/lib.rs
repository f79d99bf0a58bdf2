//! The Open Inference Protocol v2 as pure functions: bytes of a request in, tensors out, and back.
//!
//! [`infer::parse`] reads a request body against the model's [`ModelSpec`](batchfleet_broker::ModelSpec),
//! [`response::encode`] writes the answer, [`metadata`] describes servers and models, and [`names`]
//! reads the names in a path. Nothing here does I/O, waits, or keeps state; whatever is wrong with
//! what a client sent becomes a [`Problem`].

mod binary;
mod data;
mod document;
pub mod infer;
mod json;
pub mod metadata;
pub mod names;
mod number;
mod outputs;
mod parameters;
pub mod response;
mod shape;
pub mod statistics;

#[cfg(test)]
mod bad_inputs;
#[cfg(test)]
mod bad_tensors;
#[cfg(test)]
mod round_trips;
#[cfg(test)]
mod samples;

/// Why a request cannot be served as it was written: an HTTP status, a name programs may match on,
/// and a sentence for people. The sentence is short whatever the client sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The bounded name: `x-error-code`, and the label of metrics.
    pub code: &'static str,
    /// What is wrong, and where.
    pub message: String,
}

impl Problem {
    /// The client's mistake: status 400.
    pub fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: 400, code, message: message.into() }
    }

    /// A part of the protocol, or of its extensions, that is not offered here.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::bad("unsupported", message)
    }

    /// No such model or version: status 404.
    pub fn model_not_found(message: impl Into<String>) -> Self {
        Self { status: 404, code: "model_not_found", message: message.into() }
    }

    /// Our own mistake, or the model's: status 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { status: 500, code: "internal", message: message.into() }
    }

    /// The same problem, said to be at `place`.
    #[must_use]
    pub fn within(self, place: impl std::fmt::Display) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }
}

/// The most characters of a client's own words that a message repeats.
const QUOTED: usize = 64;

/// A client's own words as they may stand in a message: quoted, escaped and cut short.
pub fn quote(words: &str) -> String {
    match words.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{:?}...", &words[..end]),
        None => format!("{words:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_repeats_a_client_only_escaped_and_cut_short() {
        assert_eq!(quote("a\n\u{1b}[31m"), r#""a\n\u{1b}[31m""#);
        assert_eq!(quote(&"ä".repeat(100)), format!("\"{}\"...", "ä".repeat(64)));
    }
}
