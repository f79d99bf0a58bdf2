//! The measurements of a trial, and whether they keep the promises.

use std::{fmt::Display, time::Duration};

/// The measurements of one trial, in chronological order.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    measured: Vec<String>,
    failures: Vec<String>,
    /// Whether speeds are recorded but not judged, as for a debug build on a busy machine.
    slow: bool,
}

impl Findings {
    /// Empty findings that will not judge speeds.
    pub(crate) fn of_a_slow_machine() -> Self {
        Self { slow: true, ..Self::default() }
    }

    /// Records a promise about speed.
    pub(crate) fn speed(&mut self, kept: bool, text: impl Display) {
        self.check(kept || self.slow, text);
    }

    /// Records a promise about speed: `measured` must not exceed `limit`.
    pub(crate) fn as_fast_as(&mut self, what: &str, measured: Duration, limit: Duration) {
        let text = format!("{what} {} (≤ {})", time(measured), time(limit));
        self.speed(measured <= limit, text);
    }

    /// Records a measurement without a promise.
    pub(crate) fn note(&mut self, text: impl Display) {
        self.measured.push(text.to_string());
    }

    /// Records a promise with its measurement, `text`.
    pub(crate) fn check(&mut self, kept: bool, text: impl Display) {
        let text = text.to_string();
        if !kept {
            self.failures.push(text.clone());
        }
        self.measured.push(text);
    }

    /// Records the promise that a count is 0; a count of 0 adds no text.
    pub(crate) fn none(&mut self, what: &str, count: u64) {
        if count > 0 {
            self.check(false, format!("{what} {count}"));
        }
    }

    /// Records a time that must not exceed `limit`.
    pub(crate) fn within(&mut self, what: &str, measured: Duration, limit: Duration) {
        let kept = measured <= limit;
        self.check(kept, format!("{what} {} (≤ {})", time(measured), time(limit)));
    }

    /// Records a number that must not exceed `limit`.
    pub(crate) fn at_most(&mut self, what: &str, measured: f64, limit: f64) {
        self.check(measured <= limit, format!("{what} {} (≤ {})", plain(measured), plain(limit)));
    }

    /// Records a number that must reach `limit`.
    pub(crate) fn at_least(&mut self, what: &str, measured: f64, limit: f64) {
        self.check(measured >= limit, format!("{what} {} (≥ {})", plain(measured), plain(limit)));
    }

    /// Adds the findings of another part of the same fault.
    pub(crate) fn and(mut self, mut other: Self) -> Self {
        self.measured.append(&mut other.measured);
        self.failures.append(&mut other.failures);
        self
    }

    /// Whether every promise was kept.
    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// All measurements in one line.
    pub(crate) fn line(&self) -> String {
        self.measured.join("; ")
    }

    /// The broken promises.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }
}

/// A time with its unit, rounded for reading.
pub(crate) fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 10.0 => format!("{seconds:.0} s"),
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds if seconds >= 0.01 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}

/// `part` of `whole` in percent; 0 if `whole` is 0.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn plain(number: f64) -> String {
    let decimals = if number.fract() == 0.0 || number >= 100.0 { 0 } else { 2 };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_promise_fails_a_fault_and_is_named() {
        let mut findings = Findings::default();
        findings.none("lost", 0);
        findings.within("p99", Duration::from_millis(20), Duration::from_secs(1));
        assert!(findings.passed());
        assert_eq!(findings.line(), "p99 20 ms (≤ 1.0 s)");
        let mut other = Findings::default();
        other.at_most("wasted runs, %", 1.5, 1.0);
        other.none("lost", 2);
        let both = findings.and(other);
        assert!(!both.passed());
        assert_eq!(both.failures(), ["wasted runs, % 1.50 (≤ 1)", "lost 2"]);
    }
}
