//! The summary of a report, for terminals and as JSON.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use crate::{Report, Second};

/// The quantiles of latency in a summary.
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// The main figures of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Right answers per second of the measured time.
    pub rate: f64,
    /// The measured time, in seconds.
    pub seconds: f64,
    /// Quantiles of the latency of right answers to requests due in the measured time, in
    /// milliseconds.
    pub latency_ms: BTreeMap<&'static str, f64>,
    /// Requests sent. All counts except `late` include the warm-up.
    pub sent: u64,
    /// Right answers.
    pub right: u64,
    /// Wrong answers.
    pub wrong: u64,
    /// Answers with a status other than 200, by status and `x-error-code`.
    pub refused: BTreeMap<String, u64>,
    /// Requests without answer.
    pub failed: u64,
    /// Requests of an open loop that were due, but found no idle user.
    pub unsent: u64,
    /// Connections that the server or the network closed without `connection: close`.
    pub dropped_connections: u64,
    /// Right answers to requests due in the measured time that took longer than the limit, if set.
    pub late: Option<u64>,
    /// Descriptions of the first few wrong answers, refusals and failures.
    pub troubles: Vec<String>,
    /// Each second of the run.
    pub timeline: Vec<Second>,
}

impl Summary {
    /// Summarizes a report; answers that took longer than `limit` are late.
    pub fn new(report: &Report, limit: Option<Duration>) -> Self {
        let milliseconds = |quantile| report.latency(quantile).as_secs_f64() * 1e3;
        Self {
            rate: report.rate(),
            seconds: report.window.as_secs_f64(),
            latency_ms: QUANTILES.map(|(name, quantile)| (name, milliseconds(quantile))).into(),
            sent: report.sent,
            right: report.right,
            wrong: report.wrong,
            refused: report.reasons.clone(),
            failed: report.failed,
            unsent: report.unsent,
            dropped_connections: report.dropped_connections,
            late: limit.map(|limit| report.later_than(limit)),
            troubles: report.troubles.clone(),
            timeline: report.timeline.clone(),
        }
    }

    /// The lines of the summary: name and value.
    pub fn lines(&self) -> Vec<(String, String)> {
        let mut lines = vec![
            ("req/s".to_owned(), format!("{:.0}, over {:.1} s", self.rate, self.seconds)),
            ("sent".to_owned(), self.sent.to_string()),
            ("answered right".to_owned(), self.right.to_string()),
            ("answered wrong".to_owned(), self.wrong.to_string()),
        ];
        let mut add = |name: &str, count: u64| lines.push((name.to_owned(), count.to_string()));
        self.refused.iter().for_each(|(reason, count)| add(&format!("refused, {reason}"), *count));
        add("not answered", self.failed);
        if self.unsent > 0 {
            add("never sent", self.unsent);
        }
        if self.dropped_connections > 0 {
            add("connections lost", self.dropped_connections);
        }
        if let Some(late) = self.late {
            add("late", late);
        }
        let latencies = QUANTILES.iter().filter_map(|(name, _)| {
            Some(((*name).to_owned(), format!("{:.2} ms", self.latency_ms.get(name)?)))
        });
        lines.extend(latencies);
        lines
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.lines() {
            writeln!(f, "{name:<28} {value}")?;
        }
        self.troubles.iter().try_for_each(|trouble| writeln!(f, "  {trouble}"))
    }
}
