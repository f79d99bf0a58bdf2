//! Settings every process shares, and how a wrong one is reported.

use std::{
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, ValueEnum, error::ErrorKind};

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
}

/// Where Redis is: on the command line, or in a file where a password is in it.
#[derive(Args, Clone, Debug)]
pub struct RedisSettings {
    /// The Redis with the queues, such as `redis://user:password@host:6379/0`
    #[arg(
        long,
        env = "BATCHFLEET_REDIS_URL",
        default_value = "redis://127.0.0.1:6379/0",
        hide_env_values = true,
        conflicts_with = "redis_url_file",
        value_name = "URL"
    )]
    pub redis_url: String,

    /// A file that holds the URL and nothing else, so that no password stands in the environment
    #[arg(long, env = "BATCHFLEET_REDIS_URL_FILE", value_name = "FILE")]
    pub redis_url_file: Option<PathBuf>,
}

impl RedisSettings {
    /// The URL, wherever it stands.
    ///
    /// # Errors
    ///
    /// If the file cannot be read. What is in it is never told.
    pub fn url(&self) -> Result<String, InvalidSettings> {
        let Some(path) = &self.redis_url_file else { return Ok(self.redis_url.clone()) };
        read_line(path).map_err(|error| {
            InvalidSettings::new(format_args!("--redis-url-file {}: {error}", path.display()))
        })
    }
}

fn read_line(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        line if line.contains(char::is_whitespace) => Err("it holds more than a URL".to_owned()),
        line => Ok(line.to_owned()),
    }
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
        #[command(flatten)]
        redis: RedisSettings,
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

    #[test]
    fn the_redis_url_comes_from_a_file_without_the_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let url = || {
            let file = path.to_str().unwrap();
            let settings = Settings::try_parse_from(["x", "--redis-url-file", file]).unwrap();
            settings.redis.url().map_err(|error| error.to_string())
        };
        assert!(url().unwrap_err().starts_with("--redis-url-file /"));
        fs::write(&path, "redis://worker:secret@redis:6379/0\n").unwrap();
        assert_eq!(url().unwrap(), "redis://worker:secret@redis:6379/0");
        for wrong in ["\n", "redis://a:secret@b:1\nredis://a:secret@b:2"] {
            fs::write(&path, wrong).unwrap();
            assert!(!url().unwrap_err().contains("secret"));
        }
    }

    #[test]
    fn a_redis_url_and_a_file_with_one_are_one_too_many() {
        let line = complaint(&["x", "--redis-url", "redis://a:1", "--redis-url-file", "/b"]);
        assert!(line.contains("cannot be used with"), "{line}");
    }
}
