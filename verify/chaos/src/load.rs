//! The loads: who asks, how often, and what is special about some of the requests.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use batchfleet_loadgen::{
    Answer, Echo, Length, LoadError, Pace, Plan, Prepared, Report, Stop, Target, Workload,
    infer::Encoding, run,
};
use hyper::header::{HeaderName, HeaderValue};
use tokio::task::JoinHandle;

use crate::seen::Seen;

/// Longer than any deadline: who is not answered by then is lost.
const PATIENCE: Duration = Duration::from_secs(45);
/// Longer than any fault: loads are stopped.
const LONGEST: Duration = Duration::from_hours(24);
/// Bytes of a request's one row.
const ROW: u64 = 64;

/// Something that depends on the number of a request.
pub(crate) type Of<T> = Arc<dyn Fn(u64) -> T + Send + Sync>;

/// A load that can be started.
#[derive(Clone)]
pub(crate) struct Shape {
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

impl Shape {
    /// Each user asks again as soon as it has its answer.
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

    /// Requests fall due at random, `per_second` on average, with at most `users` at a time.
    pub(crate) fn open(per_second: f64, users: usize) -> Self {
        Self { pace: Pace::Open { per_second }, ..Self::closed(users) }
    }

    /// Only to these gateways; else to all.
    pub(crate) fn to(self, targets: Vec<String>) -> Self {
        Self { targets: Some(targets), ..self }
    }

    /// No more than so many requests.
    pub(crate) fn only(self, requests: u64) -> Self {
        Self { length: Length::Requests(requests), ..self }
    }

    /// Users ask up to so many times.
    pub(crate) fn tries(self, tries: u32) -> Self {
        Self { tries, ..self }
    }

    /// Chosen requests carry a marker that the echo looks for.
    pub(crate) fn marked(
        self,
        mark: &'static str,
        chosen: impl Fn(u64) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { mark: Some((mark, Arc::new(chosen))), ..self }
    }

    /// Each request asks for this deadline.
    pub(crate) fn deadline(self, of: impl Fn(u64) -> Duration + Send + Sync + 'static) -> Self {
        Self { deadline: Some(Arc::new(of)), ..self }
    }

    /// Users hang up after this time.
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

    /// Starts it, on `targets` unless it has its own.
    pub(crate) fn start(self, targets: Vec<String>) -> Result<Load> {
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
        let plan = Plan {
            targets,
            users,
            pace,
            length,
            timeout: PATIENCE,
            tries,
            journal: true,
            stop: stop.clone(),
            ..Plan::new(first, Arc::new(Users { echo, shape: self }), 0)
        };
        Ok(Load { nonce, stop, running: tokio::spawn(run(plan)) })
    }
}

/// A running load.
pub(crate) struct Load {
    nonce: u128,
    stop: Stop,
    running: JoinHandle<Result<Report, LoadError>>,
}

impl Load {
    /// Lets no more requests fall due; what is under way goes on.
    pub(crate) fn end(&self) {
        self.stop.now();
    }

    /// Ends it; what is under way is awaited.
    pub(crate) async fn stop(self) -> Result<Seen> {
        self.end();
        let stopped = SystemTime::now();
        Ok(Seen::new(self.running.await??, self.nonce, stopped))
    }
}

/// The requests of a shape.
struct Users {
    echo: Echo,
    shape: Shape,
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

    fn check(&self, index: u64, answer: &Answer) -> Result<(), String> {
        self.echo.check(index, answer)
    }
}
