//! Executes a plan: one task per user, all on one thread.

use std::{sync::Arc, thread, time::Duration};

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};
use parking_lot::Mutex;
use rand::RngExt;
use tokio::{
    runtime,
    sync::oneshot,
    task::JoinSet,
    time::{Instant, interval_at, sleep, sleep_until},
};

use crate::{
    LoadError, LoadPlan, Pace, Report, Target, Workload,
    connection::{Connection, Lost, connecting},
    ending::{Ending, Entry, Refusal},
    report::{Recorder, Window},
    schedule::{Schedule, Turn},
};

/// Pause of a user after a failure, so that a dead server is not retried in a tight loop.
const PAUSE: Duration = Duration::from_millis(100);
/// Upper bound of the pause before the first retry; doubled for each further retry.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
/// Open files of the process besides the users' connections.
const OTHER_FILES: u64 = 64;
/// The header with the reason of a refusal.
const ERROR_CODE: &str = "x-error-code";
/// Bytes of a refusal's body that a report quotes.
const QUOTED: usize = 200;

/// Executes a plan and returns its report. Dropping the future ends the run.
///
/// The load runs on its own thread and runtime: a server in the same process does not share the
/// runtime, and the load's CPU time can be measured.
pub async fn run(plan: LoadPlan) -> Result<Report, LoadError> {
    check(&plan)?;
    let (report, reported) = oneshot::channel();
    thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || report_to(report, plan))
        .map_err(|error| LoadError::Thread(error.to_string()))?;
    reported.await.map_err(|_| LoadError::Thread("it ended without a report".to_owned()))?
}

fn check(plan: &LoadPlan) -> Result<(), LoadError> {
    if plan.users == 0 || plan.targets.is_empty() {
        return Err(LoadError::Plan("a run needs at least one user and one target".to_owned()));
    }
    if let Pace::Open { per_second } = plan.pace
        && !(per_second.is_finite() && per_second > 0.0)
    {
        return Err(LoadError::Plan(format!(
            "{per_second} is not a number of requests per second"
        )));
    }
    // If the limit is unknown, opening a connection fails at the actual limit.
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(u64::MAX);
    let users = plan.users;
    if users as u64 + OTHER_FILES > limit {
        return Err(LoadError::Files { users, limit });
    }
    Ok(())
}

/// The main function of the load's thread.
fn report_to(mut report: oneshot::Sender<Result<Report, LoadError>>, plan: LoadPlan) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Fails only if the caller dropped the run.
            report.send(Err(LoadError::Thread(error.to_string()))).ok();
            return;
        }
    };
    runtime.block_on(async {
        let done = tokio::select! {
            done = drive(plan) => done,
            () = report.closed() => return,
        };
        report.send(done).ok();
    });
}

async fn drive(plan: LoadPlan) -> Result<Report, LoadError> {
    let cpu_before = thread_cpu();
    let connections = connect(&plan).await?;
    let recorder =
        Recorder::new(plan.journal).map_err(|error| LoadError::Plan(error.to_string()))?;
    let start = Instant::now();
    let run = Arc::new(Run {
        workload: plan.workload,
        tries: plan.tries,
        start,
        honour_retry_after: plan.honour_retry_after,
        schedule: Schedule::new(plan.pace, plan.warm_up, plan.length, start).ended_by(plan.stop),
        recorder: Mutex::new(recorder),
    });

    let mut users: JoinSet<()> =
        connections.into_iter().map(|connection| user(Arc::clone(&run), connection)).collect();
    let mut seconds = interval_at(start + SECOND, SECOND);
    loop {
        tokio::select! {
            ended = users.join_next() => if ended.is_none() { break },
            _ = seconds.tick() => {
                let second = run.recorder.lock().tick();
                if let Some(watch) = &plan.watch {
                    watch(&second);
                }
            }
        }
    }
    drop(users);

    let run =
        Arc::into_inner(run).ok_or_else(|| LoadError::Thread("a user has not ended".to_owned()))?;
    let end = run.schedule.end().unwrap_or_else(Instant::now);
    let window = end.saturating_duration_since(run.schedule.measured_from);
    let cpu = cpu_before.zip(thread_cpu()).map(|(before, after)| after.saturating_sub(before));
    Ok(run.recorder.into_inner().finish(window, run.schedule.unsent(), cpu))
}

/// Returns a connection per user. In a closed loop, where every user sends at once, all connections
/// are open. In an open loop one per target is: a server may close a connection that is not used soon.
/// Fails only if no connection could be opened.
async fn connect(plan: &LoadPlan) -> Result<Vec<Connection>, LoadError> {
    let connecting = connecting();
    let used_at_once = match plan.pace {
        Pace::Closed => plan.users,
        Pace::Open { .. } => plan.targets.len().min(plan.users),
    };
    let connection =
        |target: &Target| Connection::new(target.clone(), plan.timeout, Arc::clone(&connecting));
    let targets = plan.targets.iter().cycle();
    let mut opening: JoinSet<_> =
        targets.clone().take(used_at_once).map(|target| opened(connection(target))).collect();
    let later = targets.skip(used_at_once).take(plan.users - used_at_once);
    let later: Vec<_> = later.map(connection).collect();
    let mut connections = Vec::with_capacity(plan.users);
    let mut any = false;
    let mut refused = None;
    while let Some(opened) = opening.join_next().await {
        let (connection, trouble) = opened.map_err(|e| LoadError::Thread(e.to_string()))?;
        any |= trouble.is_none();
        refused = refused.or(trouble);
        connections.push(connection);
    }
    match refused {
        Some(unreachable) if !any => Err(unreachable),
        _ => {
            connections.extend(later);
            Ok(connections)
        }
    }
}

/// A connection, and the error if opening failed. A closed connection is reopened by the next
/// request.
async fn opened(mut connection: Connection) -> (Connection, Option<LoadError>) {
    let unreachable = connection.target.to_string();
    let trouble = connection
        .open()
        .await
        .err()
        .map(|lost| LoadError::Unreachable { target: unreachable, reason: lost.to_string() });
    (connection, trouble)
}

/// Shared state of the users.
struct Run {
    workload: Arc<dyn Workload>,
    tries: u32,
    honour_retry_after: bool,
    start: Instant,
    schedule: Schedule,
    recorder: Mutex<Recorder>,
}

impl Run {
    fn record(&self, turn: Turn, sent: Instant, outcome: Verdict, dropped: u64) {
        let now = Instant::now();
        let measured_from = self.schedule.measured_from;
        let window = Window {
            due: turn.due >= measured_from,
            done: now >= measured_from && self.schedule.end().is_none_or(|end| now < end),
        };
        let since_start = |moment: Instant| moment.saturating_duration_since(self.start);
        let entry = Entry {
            index: turn.index,
            due: since_start(turn.due),
            sent: since_start(sent),
            done: since_start(now),
            ending: outcome.ending,
        };
        let mut recorder = self.recorder.lock();
        recorder.record(entry, &outcome.trouble, window);
        recorder.dropped(dropped);
    }

    /// The pause of a user after a request with this ending.
    fn pause(&self, ending: &Ending) -> Option<Duration> {
        match ending {
            Ending::Failed => Some(PAUSE),
            Ending::Refused(refusal) if self.honour_retry_after => {
                refusal.retry_after.map(|seconds| Duration::from_secs(seconds.into()))
            }
            _ => None,
        }
    }
}

/// Runs one user until the schedule ends.
async fn user(run: Arc<Run>, mut connection: Connection) {
    while let Some(turn) = run.schedule.take(Instant::now()) {
        if turn.due > Instant::now() {
            sleep_until(turn.due).await;
        }
        let sent = Instant::now();
        let outcome = ask(&run, turn.index, &mut connection).await;
        let pause = run.pause(&outcome.ending);
        run.record(turn, sent, outcome, std::mem::take(&mut connection.dropped));
        if let Some(pause) = pause {
            let until = Instant::now() + pause;
            sleep_until(run.schedule.end().map_or(until, |end| end.min(until))).await;
        }
    }
}

/// The result of a request; `trouble` describes the problem, and is empty for right answers.
struct Verdict {
    ending: Ending,
    trouble: String,
}

/// Sends a request, with the retries of the plan.
async fn ask(run: &Run, index: u64, connection: &mut Connection) -> Verdict {
    for again in 1..run.tries {
        let outcome = ask_once(&*run.workload, index, connection).await;
        if !matches!(outcome.ending, Ending::Refused(_) | Ending::Failed) {
            return outcome;
        }
        let most = RETRY_PAUSE * 2_u32.saturating_pow(again - 1);
        let pause = most.mul_f64(rand::rng().random());
        sleep(pause).await;
    }
    ask_once(&*run.workload, index, connection).await
}

async fn ask_once(workload: &dyn Workload, index: u64, connection: &mut Connection) -> Verdict {
    let (ending, trouble) = match connection.ask(workload.request(index)).await {
        Ok((StatusCode::OK, answer)) => match workload.check(index, &answer) {
            Ok(()) => (Ending::Right, String::new()),
            Err(text) => (Ending::Wrong, format!("request {index}: {text}")),
        },
        Ok((status, answer)) => {
            let quoted = &answer.body[..answer.body.len().min(QUOTED)];
            let text = format!("{status} {}", String::from_utf8_lossy(quoted));
            (Ending::Refused(refusal(status, &answer.headers)), text)
        }
        Err(Lost::HungUp) => (Ending::HungUp, String::new()),
        Err(lost) => (Ending::Failed, lost.to_string()),
    };
    Verdict { ending, trouble }
}

fn refusal(status: StatusCode, headers: &HeaderMap) -> Refusal {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    Refusal {
        status: status.as_u16(),
        code: text(ERROR_CODE).unwrap_or_default().into(),
        retry_after: text(RETRY_AFTER.as_str()).and_then(|seconds| seconds.parse().ok()),
    }
}

/// CPU time used by this thread.
fn thread_cpu() -> Option<Duration> {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = times.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}
