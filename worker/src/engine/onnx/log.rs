//! ONNX Runtime's own log lines in the log of the worker.
//!
//! The library may write the same line for every run. The worker logs such a line at most once a
//! minute, with the number of lines that were left out.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use ort::logging::LogLevel;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Minimum time between two lines of the same kind.
const EVERY: Duration = Duration::from_mins(1);
/// Maximum number of kinds of lines to remember.
const KINDS: usize = 256;

/// Maximum number of warnings that [`warnings_of`] returns.
const KEPT: usize = 256;

thread_local! {
    /// The library's warnings on this thread, while something collects them.
    static WARNINGS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Calls `work`, and returns its result and the warnings that the library gave on this thread.
pub(super) fn warnings_of<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    WARNINGS.set(Some(Vec::new()));
    let result = work();
    (result, WARNINGS.take().unwrap_or_default())
}

fn collect(message: &str) {
    WARNINGS.with_borrow_mut(|warnings| {
        if let Some(warnings) = warnings.as_mut().filter(|warnings| warnings.len() < KEPT) {
            warnings.push(message.to_owned());
        }
    });
}

/// Logs a message of the library.
pub(super) fn log(level: LogLevel, category: &str, id: &str, location: &str, message: &str) {
    static REPEATS: Mutex<Option<Repeats>> = Mutex::new(None);
    let warning = match level {
        _ if is_of_run(message) => None,
        LogLevel::Error | LogLevel::Fatal => Some(false),
        LogLevel::Warning => Some(true),
        _ => None,
    };
    if warning == Some(true) {
        collect(message);
    }
    let omitted = warning.and_then(|_| {
        let kind = kind(location, message);
        REPEATS.lock().get_or_insert_default().admit(kind, Instant::now())
    });
    match (warning, omitted) {
        (Some(false), Some(omitted)) => {
            tracing::error!(category, id, location, omitted, "onnxruntime: {message}");
        }
        (Some(true), Some(omitted)) => {
            tracing::warn!(category, id, location, omitted, "onnxruntime: {message}");
        }
        _ => tracing::debug!(category, id, location, "onnxruntime: {message}"),
    }
}

/// Whether the message is about a failed run. The run also returns the message as its error, and the
/// worker decides whether the caller, the model or the device caused it.
fn is_of_run(message: &str) -> bool {
    message.starts_with("Non-zero status code returned while running ")
}

/// The kind of a line: lines that differ only in numbers are alike.
fn kind(location: &str, message: &str) -> String {
    let letters = message.chars().filter(|letter| !letter.is_ascii_digit());
    location.chars().chain([' ']).chain(letters).collect()
}

/// When lines were last logged, by their kind.
#[derive(Debug, Default)]
struct Repeats(HashMap<String, Seen>);

#[derive(Debug)]
struct Seen {
    logged: Instant,
    /// Lines of this kind that were left out since.
    omitted: u64,
}

impl Repeats {
    /// Whether to log a line of this kind now, and the number of lines that were left out since the
    /// last one; `None` to leave out the line.
    fn admit(&mut self, kind: String, now: Instant) -> Option<u64> {
        if self.0.len() >= KINDS {
            self.0.retain(|_, seen| now - seen.logged < EVERY);
        }
        if let Some(seen) = self.0.get_mut(&kind) {
            if now - seen.logged < EVERY {
                seen.omitted += 1;
                return None;
            }
            let omitted = seen.omitted;
            *seen = Seen { logged: now, omitted: 0 };
            return Some(omitted);
        }
        if self.0.len() >= KINDS {
            return None;
        }
        self.0.insert(kind, Seen { logged: now, omitted: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_logged_once_a_minute_with_the_number_of_its_repetitions() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut admit =
            |message: &str, seconds| repeats.admit(kind("a.cc:1", message), at(seconds));
        assert_eq!(admit("shape {1,3} of Y", 0), Some(0));
        assert_eq!(admit("shape {2,3} of Y", 1), None);
        assert_eq!(admit("shape {2,3} of Z", 1), Some(0));
        assert_eq!(admit("shape {16,3} of Y", 59), None);
        assert_eq!(admit("shape {7,3} of Y", 60), Some(2));
        assert_eq!(admit("shape {7,3} of Y", 120), Some(0));
    }

    #[test]
    fn the_warnings_of_a_call_are_its_own() {
        let warn = |text: &str| log(LogLevel::Warning, "", "", "a.cc:1", text);
        warn("before");
        let (result, warnings) = warnings_of(|| {
            warn("one");
            log(LogLevel::Error, "", "", "a.cc:1", "an error");
            std::thread::spawn(move || warn("on another thread")).join().unwrap();
            warn("two");
            7
        });
        warn("after");
        assert_eq!((result, warnings), (7, vec!["one".to_owned(), "two".to_owned()]));
    }

    #[test]
    fn the_memory_for_kinds_is_bounded() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let letters = |mut number: usize| {
            let mut word = String::new();
            while number > 0 {
                word.push(char::from(b'a' + u8::try_from(number % 26).unwrap()));
                number /= 26;
            }
            word
        };
        let admitted =
            (1..=2 * KINDS).filter(|n| repeats.admit(letters(*n), start).is_some()).count();
        assert_eq!((admitted, repeats.0.len()), (KINDS, KINDS));
        assert_eq!(repeats.admit("other".to_owned(), start + EVERY), Some(0));
    }

    #[test]
    fn the_error_of_a_run_is_left_to_the_worker() {
        assert!(is_of_run("Non-zero status code returned while running Gather node. Name:'g'"));
        assert!(!is_of_run("Some nodes were not assigned to the preferred execution providers"));
    }
}
