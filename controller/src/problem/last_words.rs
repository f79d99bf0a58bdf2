//! Finds the cause of a container's end in its termination message, which is the end of its log.

use serde_json::Value;

/// Longest text that is taken over, in characters.
const LONGEST: usize = 600;
/// Fields of a log line that tell the cause, beside its message.
const CAUSES: [&str; 3] = ["error", "panic", "reason"];

/// Returns the last error in a termination message, else its last line. Kubernetes cuts the message
/// at its beginning, so the first line may be incomplete.
pub(super) fn last_words(message: &str) -> Option<String> {
    let mut lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().rev().find_map(error);
    let words = error.or_else(|| lines.next_back().map(str::to_owned))?;
    let end = words.char_indices().nth(LONGEST).map(|(at, _)| at);
    Some(end.map_or_else(|| words.clone(), |at| format!("{}...", &words[..at])))
}

/// Returns the text of a line that reports an error: a line of a program whose logging has not
/// started, or a line of a log in JSON or text.
fn error(line: &str) -> Option<String> {
    if let Some(text) = line.strip_prefix("error: ") {
        return Some(text.to_owned());
    }
    if let Ok(Value::Object(fields)) = serde_json::from_str(line) {
        if fields.get("level")? != "ERROR" {
            return None;
        }
        let text = |field: &str| fields.get(field).and_then(Value::as_str);
        let cause = CAUSES.iter().find_map(|field| text(field));
        let texts: Vec<_> = text("message").into_iter().chain(cause).collect();
        return (!texts.is_empty()).then(|| texts.join(": "));
    }
    line.split_once(" ERROR ").map(|(_, text)| text.trim().to_owned())
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
        ] {
            assert_eq!(last_words(&message).as_deref(), Some(expected), "{message}");
        }
        assert_eq!(last_words(" \n"), None);
    }

    #[test]
    fn long_words_are_cut() {
        let words = last_words(&"ä".repeat(2 * LONGEST)).unwrap();
        assert_eq!(words.chars().count(), LONGEST + 3);
    }
}
