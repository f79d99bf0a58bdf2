//! Settings common to all processes, and how invalid settings are reported.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Parser, ValueEnum, error::ErrorKind};

use crate::trace::TraceSettings;

/// Upper bound of durations in settings, so that adding a duration to a time cannot overflow.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Exit status for invalid settings: `EX_USAGE` of sysexits.h.
pub const EXIT_USAGE: u8 = 64;

/// Settings of a process.
#[derive(Args, Clone, Debug)]
pub struct ProcessSettings {
    /// Address of the admin port, with /metrics, /livez and /readyz; port 0 is any free port
    #[arg(
        long,
        env = "BATCHFLEET_ADMIN_LISTEN",
        default_value = "0.0.0.0:9090",
        value_name = "ADDR"
    )]
    pub admin_listen: SocketAddr,

    /// Log level (error, warn, info, debug or trace), or a filter such as `info,actix_web=debug`
    #[arg(long, env = "BATCHFLEET_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// Format of log lines
    #[arg(long, env = "BATCHFLEET_LOG_FORMAT", default_value = "json", value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// Time to finish the work in progress after the first signal; the rest is aborted
    #[arg(
        long,
        env = "BATCHFLEET_DRAIN_TIMEOUT",
        default_value = "45s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub drain_timeout: Duration,

    /// Settings of traces.
    #[command(flatten)]
    pub trace: TraceSettings,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Plain text.
    Text,
}

/// Parses the settings from flags and environment variables.
///
/// # Errors
///
/// The exit status, after a message has been printed: 0 for `--help` and `--version`, else
/// [`EXIT_USAGE`] after one line that tells the user what to change.
pub fn parse<S: Parser>() -> Result<S, u8> {
    S::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // If the terminal cannot be written to, there is nowhere to report the error.
            error.print().ok();
            0
        }
        _ => {
            complain(&one_line(&error.render().to_string()));
            EXIT_USAGE
        }
    })
}

/// Parses a duration with its unit, such as `250ms`, `30s` or `2m`.
///
/// # Errors
///
/// The expected format, if `text` is not a duration or more than a year.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| "expected a duration such as 250ms or 30s".to_owned())?;
    if duration <= LONGEST { Ok(duration) } else { Err("expected at most a year".to_owned()) }
}

/// Prints one line about settings to standard error, because logging may not have started.
pub(crate) fn complain(line: &str) {
    eprintln!("{line}");
}

/// Returns the first paragraph of clap's report in one line: the problem and the possible values.
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
    fn a_duration_is_at_most_a_year() {
        assert_eq!(duration("365days"), Ok(Duration::from_hours(8760)));
        for wrong in ["366days", "584542046years", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_value_is_reported_in_one_line_with_the_possible_values() {
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
    fn durations_need_a_unit() {
        let settings = Settings::try_parse_from(["x", "--drain-timeout", "250ms"]).unwrap();
        assert_eq!(settings.process.drain_timeout, Duration::from_millis(250));
        assert!(complaint(&["x", "--drain-timeout", "250"]).contains("such as 250ms"));
    }
}
