//! What came of a run.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use hdrhistogram::Histogram;

use crate::timeline::{Clock, Second};

/// How many texts of each kind of trouble a report keeps.
const SAMPLES: usize = 5;
/// Significant digits of latencies.
pub(crate) const DIGITS: u8 = 3;
/// The longest latency told apart from longer ones: an hour, in microseconds.
pub(crate) const LONGEST: u64 = 3_600_000_000;

/// What came of a run. Counts cover every request sent, rates the right answers that came in the
/// measured time, and latencies those to requests that were due in it: however slow a server is, it
/// looks neither faster nor slower than it was.
#[derive(Clone, Debug)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Answered 200, as expected.
    pub right: u64,
    /// Answered 200, otherwise than expected.
    pub wrong: u64,
    /// Answered with another status: how many of each.
    pub refused: BTreeMap<u16, u64>,
    /// The same by reason: status and `x-error-code`.
    pub reasons: BTreeMap<String, u64>,
    /// Not answered: no connection, a lost one, or too late.
    pub failed: u64,
    /// Not answered before their users hung up on purpose.
    pub hung_up: u64,
    /// Due in an open loop, but every user was still waiting when time was up.
    pub unsent: u64,
    /// Open connections that the server, or the way to it, closed without announcing it.
    pub dropped_connections: u64,
    /// What was wrong, refused or failed: the first few texts of each.
    pub troubles: Vec<String>,
    /// Right answers that came in the measured time.
    pub measured: u64,
    /// The measured time: from the end of warming up to the end of the plan, or to the last answer
    /// where a number of requests ends it.
    pub window: Duration,
    /// When the first request could be sent.
    pub began: SystemTime,
    /// CPU time of the load's own thread, warming up included, where the system tells.
    pub cpu: Option<Duration>,
    /// Each whole second of the run, warming up included.
    pub timeline: Vec<Second>,
    /// What became of each request, in the order in which they ended, if the plan asked for it.
    pub journal: Vec<Entry>,
    latencies: Histogram<u64>,
}

/// What became of one request. Times count from the start of the run.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number.
    pub index: u64,
    /// When it should have been sent.
    pub due: Duration,
    /// When its user was free to send it: the first time, if it asked more than once.
    pub sent: Duration,
    /// When it ended.
    pub done: Duration,
    /// How.
    pub ending: Ending,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Answered 200, as expected.
    Right,
    /// Answered 200, otherwise than expected.
    Wrong,
    /// Answered with another status.
    Refused(Refusal),
    /// Not answered: no connection, a lost one, or too late.
    Failed,
    /// Its user hung up on purpose.
    HungUp,
}

/// An answer with another status than 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// Its `x-error-code`; empty where there is none.
    pub code: Box<str>,
    /// Its `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
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

    /// The latency that this share of the right answers to requests due in the measured time did not
    /// exceed: 0.99 is the p99. Good to three digits.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latencies.value_at_quantile(quantile))
    }

    /// Right answers to requests due in the measured time that took longer than `limit`.
    pub fn later_than(&self, limit: Duration) -> u64 {
        self.latencies.count_between(micros(limit).saturating_add(1), u64::MAX)
    }

    /// Requests due per second of the measured time that were answered right within `limit`.
    pub fn goodput(&self, limit: Duration) -> f64 {
        self.per_second(self.latencies.len() - self.later_than(limit))
    }

    /// All requests answered with another status than 200.
    pub fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Whether every request was answered, and right, on a connection that held.
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

/// How one request ended, and what was wrong if anything was.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ending: Ending,
    pub(crate) trouble: String,
}

/// Which ends of a request lie in the measured time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// It was due then: its latency counts, whenever the answer came.
    pub(crate) due: bool,
    /// It ended then: it counts in the rate, whenever it was due.
    pub(crate) done: bool,
}

/// A report in the making.
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
            latencies: Histogram::new_with_bounds(1, LONGEST, DIGITS)?,
        };
        Ok(Self { report, journal, clock: Clock::new()?, samples: BTreeMap::new() })
    }

    /// Counts one request.
    pub(crate) fn record(&mut self, entry: Entry, trouble: &str, window: Window) {
        self.report.sent += 1;
        match &entry.ending {
            Ending::Right => {
                let latency = micros(entry.done.saturating_sub(entry.due));
                self.report.right += 1;
                self.clock.answered(latency);
                self.report.measured += u64::from(window.done);
                if window.due {
                    self.report.latencies.saturating_record(latency);
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
        self.clock.unanswered(&entry.ending);
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

    /// Counts connections that went away by themselves.
    pub(crate) fn dropped(&mut self, connections: u64) {
        self.report.dropped_connections += connections;
    }

    /// The report, once nobody records any more.
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

fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}
