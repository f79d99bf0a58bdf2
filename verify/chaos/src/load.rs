//! The loads: how many users, how often they send, and what is special about some requests.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use batchfleet_loadgen::{
    Echo, HttpAnswer, Length, LoadError, LoadPlan, Pace, Prepared, Report, Stop, Target, Workload,
    infer::Encoding, run,
};
use hyper::header::{HeaderName, HeaderValue};
use tokio::task::JoinHandle;

use crate::journal::LoadJournal;

/// How long users wait for an answer: longer than any deadline, so a request without one is lost.
const PATIENCE: Duration = Duration::from_secs(45);
/// Longer than any fault: a trial stops its loads.
const LONGEST: Duration = Duration::from_hours(24);
/// Bytes of a request's one row.
const ROW: u64 = 64;

/// A property of a request, by the request's number.
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
    /// A closed loop: each user sends the next request once the last is answered.
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

    /// An open loop: requests fall due at random, `per_second` on average; at most `users` at once.
    pub(crate) fn open(per_second: f64, users: usize) -> Self {
        Self { pace: Pace::Open { per_second }, ..Self::closed(users) }
    }

    /// Sends to these gateways instead of all.
    pub(crate) fn to(self, targets: Vec<String>) -> Self {
        Self { targets: Some(targets), ..self }
    }

    /// Ends after so many requests.
    pub(crate) fn only(self, requests: u64) -> Self {
        Self { length: Length::Requests(requests), ..self }
    }

    /// Users send a refused request up to `tries` times.
    pub(crate) fn tries(self, tries: u32) -> Self {
        Self { tries, ..self }
    }

    /// Chosen requests carry a marker that the echo model looks for.
    pub(crate) fn marked(
        self,
        mark: &'static str,
        chosen: impl Fn(u64) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { mark: Some((mark, Arc::new(chosen))), ..self }
    }

    /// Each request has this deadline.
    pub(crate) fn deadline(self, of: impl Fn(u64) -> Duration + Send + Sync + 'static) -> Self {
        Self { deadline: Some(Arc::new(of)), ..self }
    }

    /// Users close the connection after this time.
    pub(crate) fn hang_up(
        self,
        of: impl Fn(u64) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        Self { hang_up: Some(Arc::new(of)), ..self }
    }

    /// Each request carries this API key.
    pub(crate) fn key(self, of: impl Fn(u64) -> &'static str + Send + Sync + 'static) -> Self {
        Self { key: Some(Arc::new(of)), ..self }
    }

    /// Starts the load, on `targets` unless the load has its own.
    pub(crate) fn start(self, targets: Vec<String>) -> Result<RunningLoad> {
        let targets = self.targets.clone().unwrap_or(targets);
        let targets: Vec<Target> =
            targets.iter().map(|target| target.parse()).collect::<Result<_, LoadError>>()?;
        let mut echo = Echo::new("echo", "INPUT0", 1, ROW, Encoding::Binary)?;
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
    /// Lets no more requests fall due; requests in flight go on.
    pub(crate) fn end(&self) {
        self.stop.now();
    }

    /// Ends the load, and waits for the requests in flight.
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
