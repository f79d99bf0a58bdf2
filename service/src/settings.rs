//! Settings every process shares, and how a wrong one is reported.

use std::{fmt, net::SocketAddr, time::Duration};

use clap::{Args, Parser, ValueEnum, error::ErrorKind};

use crate::trace::TraceSettings;

/// Longer durations are mistakes.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Exit status for unknown or contradictory settings: `EX_USAGE` of sysexits.h.
pub const EXIT_USAGE: u8 = 64;

/// Settings of the process itself.
#[derive(Args, Clone, Debug)]
pub struct ProcessSettings {
    /// Where /metrics, /livez and /readyz are served; port 0 takes any free one
    #[arg(
        long,
        env = "BATCHFLEET_ADMIN_LISTEN",
        default_value = "0.0.0.0:9090",
        value_name = "ADDR"
    )]
    pub admin_listen: SocketAddr,

    /// What is logged: error, warn, info, debug or trace, or a filter such as `info,actix_web=debug`
    #[arg(long, env = "BATCHFLEET_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// How it is logged
    #[arg(long, env = "BATCHFLEET_LOG_FORMAT", default_value = "json", value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// How long a drain may take after the first signal; what is not finished then is cut off
    #[arg(
        long,
        env = "BATCHFLEET_DRAIN_TIMEOUT",
        default_value = "45s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub drain_timeout: Duration,

    /// Where traces go.
    #[command(flatten)]
    pub trace: TraceSettings,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Settings that contradict each other or the machine: the process must not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSettings(pub String);

impl InvalidSettings {
    /// `what` says what to change, in one line.
    pub fn new(what: impl fmt::Display) -> Self {
        Self(what.to_string())
    }
}

/// Reads the settings from flags and environment.
///
/// # Errors
///
/// The exit status, once it has been told on the terminal: 0 after `--help` and `--version`,
/// [`EXIT_USAGE`] and one line saying what to change after anything else.
pub fn parse<S: Parser>() -> Result<S, u8> {
    S::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Without a terminal to tell there is nobody to tell about that either.
            error.print().ok();
            0
        }
        _ => {
            complain(&one_line(&error.render().to_string()));
            EXIT_USAGE
        }
    })
}

/// A duration with its unit, such as `250ms`, `30s` or `2m`.
///
/// # Errors
///
/// What was expected, when the text is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| "expected a duration such as 250ms or 30s".to_owned())?;
    // Any moment can be moved by so much.
    if duration <= LONGEST { Ok(duration) } else { Err("expected a year at most".to_owned()) }
}

/// Prints one line about settings, before there is a log.
pub(crate) fn complain(line: &str) {
    eprintln!("{line}");
}

/// The first paragraph of clap's report, joined: what is wrong and which values are possible.
fn one_line(report: &str) -> String {
    report
        .split("\n\nUsage:")
        .next()
        .unwrap_or_default()
        .split('\n')
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser, Debug)]
    struct Settings {
        #[command(flatten)]
        process: ProcessSettings,
    }

    fn complaint(arguments: &[&str]) -> String {
        let error = Settings::try_parse_from(arguments).unwrap_err();
        one_line(&error.render().to_string())
    }

    #[test]
    fn a_duration_is_a_year_at_most() {
        assert_eq!(duration("365days"), Ok(Duration::from_hours(8760)));
        for wrong in ["366days", "584542046years", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_value_is_reported_in_one_line_that_says_what_is_possible() {
        let line = complaint(&["x", "--log-format", "xml"]);
        assert_eq!(
            line,
            "error: invalid value 'xml' for '--log-format <FORMAT>' [possible values: json, text]"
        );
    }

    #[test]
    fn an_unknown_flag_is_reported_in_one_line() {
        let line = complaint(&["x", "--batch-size", "3"]);
        assert!(line.starts_with("error: unexpected argument '--batch-size' found"), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn durations_carry_their_unit() {
        let settings = Settings::try_parse_from(["x", "--drain-timeout", "250ms"]).unwrap();
        assert_eq!(settings.process.drain_timeout, Duration::from_millis(250));
        assert!(complaint(&["x", "--drain-timeout", "250"]).contains("such as 250ms"));
    }
}
