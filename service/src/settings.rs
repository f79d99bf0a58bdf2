//! Settings common to all processes, and how invalid settings are reported.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    time::Duration,
};

use clap::{Args, Parser, ValueEnum, error::ErrorKind};

use crate::{complaint::complain, trace::TraceSettings, variables};

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
        value_name = "ADDR",
        value_parser = listen_address
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
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    if let Some(problem) = variables::misspelt(&S::command(), variables) {
        complain(&format!("error: {problem}"));
        return Err(EXIT_USAGE);
    }
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

/// Parses the address of a listener: an IP address or a host name, and a port. Without a host, the
/// listener is reachable at every address of the machine. `[::]` is every address as well, of both IP
/// families; on a machine without IPv6 it is `0.0.0.0`.
///
/// # Errors
///
/// The expected format, or the reason why the host name has no address.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(bindable(address, has_ipv6));
    }
    let expected =
        || "expected an address such as 0.0.0.0:8080, localhost:8080 or :8080".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let port: u16 = port.parse().map_err(|_| expected())?;
    if host.is_empty() {
        return Ok(([0, 0, 0, 0], port).into());
    }
    let addresses = (host, port).to_socket_addrs();
    let addresses: Vec<_> =
        addresses.map_err(|error| format!("cannot resolve {host:?}: {error}"))?.collect();
    let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    first.copied().ok_or_else(|| format!("{host:?} has no address"))
}

/// Replaces `[::]` by `0.0.0.0` on a machine without IPv6, where it cannot be bound.
fn bindable(address: SocketAddr, has_ipv6: impl Fn() -> bool) -> SocketAddr {
    if address.ip() == Ipv6Addr::UNSPECIFIED && !has_ipv6() {
        return (Ipv4Addr::UNSPECIFIED, address.port()).into();
    }
    address
}

fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
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
    fn a_listener_has_an_address_a_host_name_or_only_a_port() {
        for (text, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            (":80", "0.0.0.0:80"),
            ("localhost:0", "127.0.0.1:0"),
        ] {
            assert_eq!(
                listen_address(text).map(|address| address.to_string()),
                Ok(expected.into())
            );
        }
        for wrong in ["", "80", "localhost", "localhost:x", ":65536", "no.such.host.invalid:80"] {
            assert!(listen_address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_address_of_both_families_is_every_ipv4_address_without_ipv6() {
        let both: SocketAddr = "[::]:80".parse().unwrap();
        assert_eq!(bindable(both, || true), both);
        assert_eq!(bindable(both, || false), "0.0.0.0:80".parse().unwrap());
        for other in ["[::1]:80", "127.0.0.1:80"].map(|text| text.parse().unwrap()) {
            assert_eq!(bindable(other, || false), other);
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
