//! The report of a run: counts, rates, latencies, and examples of failures.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use crate::{
    ending::{Ending, Entry},
    latency::Latencies,
    timeline::{Clock, Second},
};

/// The number of descriptions that a report keeps per kind of trouble.
const SAMPLES: usize = 5;

/// The result of a run.
///
/// Counts cover all requests. Rates cover right answers received in the measured time. Latencies
/// cover right answers to requests due in the measured time, even if received later, so a slow
/// server looks neither faster nor slower than it is.
#[derive(Clone, Debug)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Requests with status 200 and the expected answer.
    pub right: u64,
    /// Requests with status 200 and a wrong answer.
    pub wrong: u64,
    /// Requests with a status other than 200, by status.
    pub refused: BTreeMap<u16, u64>,
    /// Requests with a status other than 200, by status and `x-error-code`.
    pub reasons: BTreeMap<String, u64>,
    /// Requests without answer: no connection, a lost connection, or a timeout.
    pub failed: u64,
    /// Requests whose users hung up on purpose.
    pub hung_up: u64,
    /// Requests of an open loop that were due before the end, but found no idle user.
    pub unsent: u64,
    /// Connections that the server or the network closed without `connection: close`.
    pub dropped_connections: u64,
    /// Descriptions of the first few wrong answers, refusals and failures.
    pub troubles: Vec<String>,
    /// Right answers received in the measured time.
    pub measured: u64,
    /// The measured time: from the end of the warm-up to the end of the plan, or to the last answer
    /// if a number of requests ends the run.
    pub window: Duration,
    /// Start of the run.
    pub began: SystemTime,
    /// CPU time of the load's thread, warm-up included, where the system provides it.
    pub cpu: Option<Duration>,
    /// Each full second of the run, warm-up included.
    pub timeline: Vec<Second>,
    /// All requests in the order in which they ended, if the plan has `journal` set.
    pub journal: Vec<Entry>,
    latencies: Latencies,
}

impl Report {
    /// Right answers per second of the measured time.
    pub fn rate(&self) -> f64 {
        self.per_second(self.measured)
    }

    fn per_second(&self, count: u64) -> f64 {
        if self.window.is_zero() {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of answers is far below 2^52")]
        let count = count as f64;
        count / self.window.as_secs_f64()
    }

    /// A quantile (0.99 is the p99) of the latency of right answers to requests due in the measured
    /// time, to three significant digits.
    pub fn latency(&self, quantile: f64) -> Duration {
        self.latencies.quantile(quantile)
    }

    /// Right answers to requests due in the measured time that took longer than `limit`.
    pub fn later_than(&self, limit: Duration) -> u64 {
        self.latencies.above(limit)
    }

    /// Requests per second, by due time, that were answered right within `limit`.
    pub fn goodput(&self, limit: Duration) -> f64 {
        self.per_second(self.latencies.len() - self.later_than(limit))
    }

    /// The number of requests answered with a status other than 200.
    pub fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Whether every request was answered right and no connection was dropped.
    pub fn is_flawless(&self) -> bool {
        self.sent == self.right && self.unsent == 0 && self.dropped_connections == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99] = [0.5, 0.99].map(|quantile| self.latency(quantile));
        writeln!(f, "{:.0} right answers/s, p50 {p50:.1?}, p99 {p99:.1?}", self.rate())?;
        write!(
            f,
            "{} sent: {} right, {} wrong, {} refused, {} failed",
            self.sent,
            self.right,
            self.wrong,
            self.refusals(),
            self.failed,
        )?;
        if self.hung_up > 0 {
            write!(f, ", {} hung up", self.hung_up)?;
        }
        write!(f, "; {} unsent, {} connections dropped", self.unsent, self.dropped_connections)?;
        self.troubles.iter().try_for_each(|trouble| write!(f, "\n  {trouble}"))
    }
}

/// Whether a request was due, and whether it ended, in the measured time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// The request was due in the measured time: it counts in the latency.
    pub(crate) due: bool,
    /// The request ended in the measured time: it counts in the rate.
    pub(crate) done: bool,
}

/// Collects a report during a run.
pub(crate) struct Recorder {
    report: Report,
    journal: bool,
    clock: Clock,
    samples: BTreeMap<&'static str, usize>,
}

impl Recorder {
    /// A recorder for a run that begins now.
    pub(crate) fn new(journal: bool) -> Result<Self, hdrhistogram::CreationError> {
        let report = Report {
            sent: 0,
            right: 0,
            wrong: 0,
            refused: BTreeMap::new(),
            reasons: BTreeMap::new(),
            failed: 0,
            hung_up: 0,
            unsent: 0,
            dropped_connections: 0,
            troubles: Vec::new(),
            measured: 0,
            window: Duration::ZERO,
            began: SystemTime::now(),
            cpu: None,
            timeline: Vec::new(),
            journal: Vec::new(),
            latencies: Latencies::new()?,
        };
        Ok(Self { report, journal, clock: Clock::new()?, samples: BTreeMap::new() })
    }

    /// Counts one request; `trouble` describes the problem, if any.
    pub(crate) fn record(&mut self, entry: Entry, trouble: &str, window: Window) {
        self.report.sent += 1;
        match &entry.ending {
            Ending::Right => {
                let latency = entry.done.saturating_sub(entry.due);
                self.report.right += 1;
                self.clock.right(latency);
                self.report.measured += u64::from(window.done);
                if window.due {
                    self.report.latencies.record(latency);
                }
            }
            Ending::Wrong => {
                self.report.wrong += 1;
                self.sample("wrong", trouble);
            }
            Ending::Refused(refusal) => {
                *self.report.refused.entry(refusal.status).or_default() += 1;
                let reason = format!("{} {}", refusal.status, refusal.code);
                *self.report.reasons.entry(reason.trim_end().to_owned()).or_default() += 1;
                self.sample("refused", trouble);
            }
            Ending::Failed => {
                self.report.failed += 1;
                self.sample("failed", trouble);
            }
            Ending::HungUp => self.report.hung_up += 1,
        }
        self.clock.ended(&entry.ending);
        if self.journal {
            self.report.journal.push(entry);
        }
    }

    /// Ends a second of the timeline.
    pub(crate) fn tick(&mut self) -> Second {
        let second = self.clock.tick();
        self.report.timeline.push(second.clone());
        second
    }

    /// Counts dropped connections.
    pub(crate) fn dropped(&mut self, connections: u64) {
        self.report.dropped_connections += connections;
    }

    /// Completes the report at the end of the run.
    pub(crate) fn finish(self, window: Duration, unsent: u64, cpu: Option<Duration>) -> Report {
        Report { unsent, window, cpu, ..self.report }
    }

    fn sample(&mut self, kind: &'static str, text: &str) {
        let taken = self.samples.entry(kind).or_default();
        if *taken < SAMPLES {
            *taken += 1;
            self.report.troubles.push(format!("{kind}: {text}"));
        }
    }
}
