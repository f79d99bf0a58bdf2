//! What a run shall do.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Second, Target, Workload};

/// A whole run.
#[derive(Clone)]
pub struct Plan {
    /// The gateways; users are spread over them in turn.
    pub targets: Vec<Target>,
    /// What is sent, and what must come back.
    pub workload: Arc<dyn Workload>,
    /// How many users; each has one keep-alive connection and at most one request on it.
    pub users: usize,
    /// When users send.
    pub pace: Pace,
    /// How long before rates and latencies count. Answers are checked from the first on.
    pub warm_up: Duration,
    /// How much after warming up.
    pub length: Length,
    /// How long a user waits for one answer before it gives up and opens a new connection.
    pub timeout: Duration,
    /// How often a user asks before it takes a refusal or a failure for an answer, at least once.
    /// Before it asks again it pauses a random time, of up to 100 ms at first, then 200 ms, and so
    /// on.
    pub tries: u32,
    /// Whether a user that is told when to come back (`Retry-After`) waits that long before it asks
    /// again.
    pub honour_retry_after: bool,
    /// Told about each second of the run when it is over.
    pub watch: Option<Watch>,
    /// Whether the report keeps what became of each single request.
    pub journal: bool,
    /// Ends the run earlier than planned.
    pub stop: Stop,
}

impl Plan {
    /// One user sending `requests` requests to `target`, one after the other, without warm-up, with
    /// 30 s of patience for each.
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

/// Whoever follows a run; called on the load's own thread.
pub type Watch = Arc<dyn Fn(&Second) + Send + Sync>;

/// Ends a run at a moment nobody knew when it began; clones end the same run.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<OnceLock<Instant>>);

impl Stop {
    /// No request falls due from now on. What is under way is still awaited.
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
    /// Each user sends its next request as soon as it has heard the answer to its last.
    Closed,
    /// Requests fall due at random (Poisson) moments, whatever the server does, and the first idle
    /// user sends them. Latency counts from when a request was due, even where every user was still
    /// waiting, so a stall is seen by all who would have met it. Timers are good to 1 ms.
    Open {
        /// Mean requests per second, over all users.
        per_second: f64,
    },
}

/// How much to send after warming up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many requests.
    Requests(u64),
    /// For so long; what is under way at the end is still awaited: its latency counts, but not in
    /// the rate.
    Time(Duration),
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The plan makes no sense.
    #[error("{0}")]
    Plan(String),
    /// Not one connection could be opened.
    #[error("cannot connect to {target}: {reason}")]
    Unreachable {
        /// Where to, as `host:port`.
        target: String,
        /// What the system said.
        reason: String,
    },
    /// The server does not have the model.
    #[error("{target} has no model {model:?}: {said}")]
    NoModel {
        /// The server, as `host:port`.
        target: String,
        /// The model asked for.
        model: String,
        /// What it said.
        said: String,
    },
    /// The server did not answer a question that must be answered before a run.
    #[error("{target} {said}")]
    Unanswered {
        /// The server, as `host:port`.
        target: String,
        /// What it said instead.
        said: String,
    },
    /// The process may not open as many connections.
    #[error("{users} users need more open files than the {limit} allowed; raise `ulimit -n`")]
    Files {
        /// The users asked for.
        users: usize,
        /// The hard limit.
        limit: u64,
    },
    /// Test data could not be read.
    #[error("{file}: {reason}")]
    Data {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The thread that carries out the run could not start, or died.
    #[error("the load's own thread: {0}")]
    Thread(String),
}
