//! Finds the cause of a container's end in its termination message, which is the end of its log.

use serde_json::{Map, Value};

/// Longest text that is taken over, in characters.
const LONGEST: usize = 600;
/// Fields of a log line that tell the cause, beside its message.
const CAUSES: [&str; 3] = ["error", "panic", "reason"];

/// Returns the last error in a termination message, else its last warning, else its last line that
/// is no line of a log. Kubernetes cuts the message at its beginning, so the first line may be
/// incomplete.
pub(super) fn last_words(message: &str) -> Option<String> {
    let lines: Vec<_> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last_of = |wanted: Level| {
        lines.iter().rev().find_map(|line| {
            let (level, text) = read(line);
            text.filter(|_| level == wanted)
        })
    };
    [Level::Error, Level::Warning, Level::None].into_iter().find_map(last_of).map(|it| cut(&it))
}

/// Cuts a text to [`LONGEST`] characters.
pub(super) fn cut(text: &str) -> String {
    let end = text.char_indices().nth(LONGEST).map(|(at, _)| at);
    end.map_or_else(|| text.to_owned(), |at| format!("{}...", &text[..at]))
}

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Error,
    Warning,
    /// A line of a log that reports no trouble.
    Other,
    /// No line of a log.
    None,
}

/// Returns the level and the text of a line: of a program whose logging has not started, or of a log
/// in JSON or text.
fn read(line: &str) -> (Level, Option<String>) {
    if let Some(text) = line.strip_prefix("error: ") {
        return (Level::Error, Some(text.to_owned()));
    }
    if let Ok(Value::Object(fields)) = serde_json::from_str(line) {
        let level = fields.get("level").and_then(Value::as_str);
        return match level {
            Some("ERROR") => (Level::Error, text(&fields)),
            Some("WARN") => (Level::Warning, text(&fields)),
            Some(_) => (Level::Other, None),
            None => (Level::None, Some(line.to_owned())),
        };
    }
    let levels = [
        (" ERROR ", Level::Error),
        (" WARN ", Level::Warning),
        (" INFO ", Level::Other),
        (" DEBUG ", Level::Other),
    ];
    let found =
        levels.into_iter().find_map(|(mark, level)| Some((level, line.split_once(mark)?.1)));
    let (level, text) = found.unwrap_or((Level::None, line));
    (level, Some(text.trim().to_owned()))
}

/// Returns the message and the cause of a log line in JSON.
fn text(fields: &Map<String, Value>) -> Option<String> {
    let text = |field: &str| fields.get(field).and_then(Value::as_str);
    let cause = CAUSES.iter().find_map(|field| text(field));
    let texts: Vec<_> = text("message").into_iter().chain(cause).collect();
    (!texts.is_empty()).then(|| texts.join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_counts_in_every_format_of_logs() {
        let json = r#"{"timestamp":"t","level":"ERROR","error":"CUDA error 700","message":"device lost","target":"w"}"#;
        let info = r#"{"timestamp":"t","level":"INFO","message":"draining"}"#;
        let panic = r#"{"level":"ERROR","thread":"main","panic":"index out of range","message":"panicked"}"#;
        for (message, expected) in [
            (
                "error: no model \"a\" in /models; there is: b\n".to_owned(),
                "no model \"a\" in /models; there is: b",
            ),
            (format!("rror: cut off\n{json}\n{info}\n"), "device lost: CUDA error 700"),
            (panic.to_owned(), "panicked: index out of range"),
            (
                "2026-01-01T00:00:00Z ERROR process failed error=gone".to_owned(),
                "process failed error=gone",
            ),
            (
                "downloading\ncurl: (6) Could not resolve host\n\n".to_owned(),
                "curl: (6) Could not resolve host",
            ),
            (
                format!(
                    "{info}\n{{\"level\":\"WARN\",\"error\":\"refused\",\"message\":\"failed\"}}\n{info}"
                ),
                "failed: refused",
            ),
        ] {
            assert_eq!(last_words(&message).as_deref(), Some(expected), "{message}");
        }
        for nothing in [" \n", info, "2026-01-01T00:00:00Z  INFO draining"] {
            assert_eq!(last_words(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn long_words_are_cut() {
        let words = last_words(&"ä".repeat(2 * LONGEST)).unwrap();
        assert_eq!(words.chars().count(), LONGEST + 3);
    }
}
