//! How a request ended.

use std::time::Duration;

/// One request of a run. Times count from the start of the run.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The number of the request.
    pub index: u64,
    /// When the request was due.
    pub due: Duration,
    /// When the user sent the request, for the first time if there were retries.
    pub sent: Duration,
    /// When the request ended.
    pub done: Duration,
    /// How the request ended.
    pub ending: Ending,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Status 200 with the expected answer.
    Right,
    /// Status 200 with a wrong answer.
    Wrong,
    /// A status other than 200.
    Refused(Refusal),
    /// No answer: no connection, a lost connection, or a timeout.
    Failed,
    /// The user hung up on purpose.
    HungUp,
}

/// An answer with a status other than 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// The `x-error-code` header; empty if missing.
    pub code: Box<str>,
    /// The `Retry-After` header, in seconds.
    pub retry_after: Option<u32>,
}
