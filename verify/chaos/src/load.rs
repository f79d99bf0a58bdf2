//! The loads: number of users, pace, and properties of single requests.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use batchfleet_loadgen::{
    Echo, HttpAnswer, Length, LoadError, LoadPlan, Pace, Prepared, Report, Stop, Target, Workload,
    run,
};
use hyper::header::{HeaderName, HeaderValue};
use tokio::task::JoinHandle;

use crate::{
    journal::LoadJournal,
    protocol::{self, Protocol},
};

/// Timeout of a request: longer than any deadline, so a request without an answer is lost.
const PATIENCE: Duration = Duration::from_secs(45);
/// Length of a load: longer than any fault, because the trial stops the load.
const LONGEST: Duration = Duration::from_hours(24);
/// Bytes of a row; a request has one row.
const ROW: u64 = 64;

/// A property of each request, as a function of the request's number.
pub(crate) type Of<T> = Arc<dyn Fn(u64) -> T + Send + Sync>;

/// The properties of a load.
#[derive(Clone)]
pub(crate) struct LoadShape {
    pace: Pace,
    users: usize,
    length: Length,
    tries: u32,
    targets: Option<Vec<String>>,
    mark: Option<(&'static str, Of<bool>)>,
    deadline: Option<Of<Duration>>,
    hang_up: Option<Of<Option<Duration>>>,
    key: Option<Of<&'static str>>,
}

impl LoadShape {
    /// A closed loop: each user sends the next request after the answer to the last.
    pub(crate) fn closed(users: usize) -> Self {
        Self {
            pace: Pace::Closed,
            users,
            length: Length::Time(LONGEST),
            tries: 1,
            targets: None,
            mark: None,
            deadline: None,
            hang_up: None,
            key: None,
        }
    }

    /// An open loop: requests are due at random times, `per_second` on average, with at most
    /// `users` in flight.
    pub(crate) fn open(per_second: f64, users: usize) -> Self {
        Self { pace: Pace::Open { per_second }, ..Self::closed(users) }
    }

    /// Sends only to these gateways.
    pub(crate) fn to(self, targets: Vec<String>) -> Self {
        Self { targets: Some(targets), ..self }
    }

    /// Ends the load after `requests` requests.
    pub(crate) fn only(self, requests: u64) -> Self {
        Self { length: Length::Requests(requests), ..self }
    }

    /// Users send a refused request again, up to `tries` times in all.
    pub(crate) fn tries(self, tries: u32) -> Self {
        Self { tries, ..self }
    }

    /// Puts a marker, which the echo model looks for, into chosen requests.
    pub(crate) fn marked(
        self,
        mark: &'static str,
        chosen: impl Fn(u64) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { mark: Some((mark, Arc::new(chosen))), ..self }
    }

    /// Sets the deadline of each request.
    pub(crate) fn deadline(self, of: impl Fn(u64) -> Duration + Send + Sync + 'static) -> Self {
        Self { deadline: Some(Arc::new(of)), ..self }
    }

    /// Users hang up after this time without an answer; `None` for users that wait.
    pub(crate) fn hang_up(
        self,
        of: impl Fn(u64) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        Self { hang_up: Some(Arc::new(of)), ..self }
    }

    /// Sets the API key of each request.
    pub(crate) fn key(self, of: impl Fn(u64) -> &'static str + Send + Sync + 'static) -> Self {
        Self { key: Some(Arc::new(of)), ..self }
    }

    /// Starts the load, on `targets` unless the load has its own.
    pub(crate) fn start(self, targets: Vec<String>) -> Result<RunningLoad> {
        let targets = self.targets.clone().unwrap_or(targets);
        let encoding = targets.first().map_or(Protocol::Http, |url| Protocol::of(url)).encoding();
        let targets: Vec<Target> =
            targets.iter().map(|url| protocol::target(url)).collect::<Result<_, LoadError>>()?;
        let mut echo = Echo::new("echo", "INPUT0", 1, ROW, encoding)?;
        if let Some((mark, chosen)) = self.mark.clone() {
            echo = echo.marked(mark, move |index| chosen(index));
        }
        let (nonce, stop) = (echo.nonce(), Stop::default());
        let (pace, users, length, tries) = (self.pace, self.users, self.length, self.tries);
        let first = targets.first().context("a load needs a target")?.clone();
        let plan = LoadPlan {
            targets,
            users,
            pace,
            length,
            timeout: PATIENCE,
            tries,
            journal: true,
            stop: stop.clone(),
            ..LoadPlan::new(first, Arc::new(Users { echo, shape: self }), 0)
        };
        Ok(RunningLoad { nonce, stop, running: tokio::spawn(run(plan)) })
    }
}

/// A running load.
pub(crate) struct RunningLoad {
    nonce: u128,
    stop: Stop,
    running: JoinHandle<Result<Report, LoadError>>,
}

impl RunningLoad {
    /// Stops sending; requests in flight continue.
    pub(crate) fn end(&self) {
        self.stop.now();
    }

    /// Stops sending, and waits for the answers to requests in flight.
    pub(crate) async fn stop(self) -> Result<LoadJournal> {
        self.end();
        let stopped = SystemTime::now();
        Ok(LoadJournal::new(self.running.await??, self.nonce, stopped))
    }
}

/// The requests of a load.
struct Users {
    echo: Echo,
    shape: LoadShape,
}

impl Workload for Users {
    fn request(&self, index: u64) -> Prepared {
        let mut request = self.echo.request(index);
        let mut add = |name: &'static str, value: HeaderValue| {
            request.headers.insert(HeaderName::from_static(name), value);
        };
        if let Some(deadline) = &self.shape.deadline {
            let milliseconds = u64::try_from(deadline(index).as_millis()).unwrap_or(u64::MAX);
            add("x-request-timeout-ms", HeaderValue::from(milliseconds));
        }
        if let Some(key) = &self.shape.key {
            add("x-api-key", HeaderValue::from_static(key(index)));
        }
        request.hang_up = self.shape.hang_up.as_ref().and_then(|of| of(index));
        request
    }

    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String> {
        self.echo.check(index, answer)
    }
}
