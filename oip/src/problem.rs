//! Errors of requests, independent of the protocol front.

/// The reason why a request cannot be served: an HTTP status, a code for programs, and a sentence
/// for people. The sentence is always short: text from the client is truncated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The code, one of a fixed set: the `x-error-code` header and the label of metrics.
    pub code: &'static str,
    /// The mistake, and its position in the request.
    pub message: String,
}

impl Problem {
    /// A mistake of the client: status 400.
    pub fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: 400, code, message: message.into() }
    }

    /// A feature of the protocol or its extensions that this server does not support: status 400.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::bad("unsupported", message)
    }

    /// An unknown model or version: status 404.
    pub fn model_not_found(message: impl Into<String>) -> Self {
        Self { status: 404, code: "model_not_found", message: message.into() }
    }

    /// A model that exists but cannot be served: status 503.
    pub fn model_unavailable(message: impl Into<String>) -> Self {
        Self { status: 503, code: "model_unavailable", message: message.into() }
    }

    /// A fault of this server or of the model: status 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { status: 500, code: "internal", message: message.into() }
    }

    /// Prefixes the message with the `place` of the problem.
    #[must_use]
    pub(crate) fn within(self, place: impl std::fmt::Display) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }
}

/// Maximum number of characters of client text in a message.
const QUOTED: usize = 64;

/// Quotes client text for a message: escaped and truncated.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_client_text_is_escaped_and_truncated() {
        assert_eq!(quote("a\n\u{1b}[31m"), r#""a\n\u{1b}[31m""#);
        assert_eq!(quote(&"ä".repeat(100)), format!("\"{}\"...", "ä".repeat(64)));
    }
}
