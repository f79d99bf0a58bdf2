//! The plan of a run: targets, workload, users, pace and length.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Second, Target, Workload};

/// A plan for a run.
#[derive(Clone)]
pub struct LoadPlan {
    /// The servers; users are assigned round-robin.
    pub targets: Vec<Target>,
    /// Makes the requests and checks the answers.
    pub workload: Arc<dyn Workload>,
    /// The number of users. Each has one keep-alive connection with at most one request in flight.
    pub users: usize,
    /// When users send.
    pub pace: Pace,
    /// Time before rates and latencies are measured. Answers are also checked during the warm-up.
    pub warm_up: Duration,
    /// Length of the run after the warm-up.
    pub length: Length,
    /// Time after which a user gives up a request and opens a new connection.
    pub timeout: Duration,
    /// Attempts per request, at least one: a refused or failed request is retried after a random
    /// pause of up to 100 ms, then 200 ms, 400 ms, and so on.
    pub tries: u32,
    /// Whether a refused user pauses for the time in `Retry-After`.
    pub honour_retry_after: bool,
    /// Called at the end of each second of the run.
    pub watch: Option<Watch>,
    /// Whether the report keeps an entry for each request.
    pub journal: bool,
    /// Ends the run early.
    pub stop: Stop,
}

impl LoadPlan {
    /// One user that sends `requests` requests to `target`, one after the other, without warm-up
    /// and with a timeout of 30 s.
    pub fn new(target: Target, workload: Arc<dyn Workload>, requests: u64) -> Self {
        Self {
            targets: vec![target],
            workload,
            users: 1,
            pace: Pace::Closed,
            warm_up: Duration::ZERO,
            length: Length::Requests(requests),
            timeout: Duration::from_secs(30),
            tries: 1,
            honour_retry_after: false,
            watch: None,
            journal: false,
            stop: Stop::default(),
        }
    }
}

/// A callback for each second of a run. It runs on the thread of the load.
pub type Watch = Arc<dyn Fn(&Second) + Send + Sync>;

/// Ends a run early; clones end the same run.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<OnceLock<Instant>>);

impl Stop {
    /// Ends the run: no more requests are due. Answers to requests in flight are still awaited.
    pub fn now(&self) {
        self.0.get_or_init(Instant::now);
    }

    pub(crate) fn at(&self) -> Option<Instant> {
        self.0.get().copied()
    }
}

/// When users send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Closed loop: each user sends the next request once the last request has ended.
    Closed,
    /// Open loop: requests are due at random (Poisson) times, regardless of the server, and the
    /// first idle user sends each request. Latency counts from the due time, even if all users were
    /// busy, so a stall affects all requests that were due meanwhile (no coordinated omission).
    /// Timers are accurate to 1 ms.
    Open {
        /// Mean requests per second, over all users.
        per_second: f64,
    },
}

/// Length of a run after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// A number of requests.
    Requests(u64),
    /// A time. Answers to requests in flight at the end are still awaited, and count in the latency
    /// but not in the rate.
    Time(Duration),
}
