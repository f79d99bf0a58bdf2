//! Carrying out a plan.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use hyper::StatusCode;
use tokio::{
    runtime,
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    LoadError, Plan, Report, Target, Workload,
    connection::{Connection, connecting},
    report::{Outcome, Recorder},
    schedule::{Schedule, Turn},
};

/// How long a user waits after a failure, so that a dead server is not asked in a tight loop.
const PAUSE: Duration = Duration::from_millis(100);
/// Open files a process needs beside its users' connections.
const OTHER_FILES: u64 = 64;
/// Bytes of a refusal's body that a report quotes.
const QUOTED: usize = 200;

/// Carries out a plan and reports. Dropping the future ends the run.
///
/// The load has a thread and a runtime of its own, so that it neither waits for a server in the
/// same process nor makes it wait, and its CPU time can be told apart.
pub async fn run(plan: Plan) -> Result<Report, LoadError> {
    check(&plan)?;
    let (report, reported) = oneshot::channel();
    thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || report_to(report, plan))
        .map_err(|error| LoadError::Thread(error.to_string()))?;
    reported.await.map_err(|_| LoadError::Thread("it ended without a report".to_owned()))?
}

fn check(plan: &Plan) -> Result<(), LoadError> {
    if plan.users == 0 || plan.targets.is_empty() {
        return Err(LoadError::Plan("a run needs at least one user and one target".to_owned()));
    }
    if let crate::Pace::Open { per_second } = plan.pace
        && !(per_second.is_finite() && per_second > 0.0)
    {
        return Err(LoadError::Plan(format!("{per_second} requests per second is no rate")));
    }
    // A limit that cannot be read is met when a connection fails.
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(u64::MAX);
    let users = plan.users;
    if users as u64 + OTHER_FILES > limit {
        return Err(LoadError::Files { users, limit });
    }
    Ok(())
}

/// The load's thread.
fn report_to(mut report: oneshot::Sender<Result<Report, LoadError>>, plan: Plan) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Whoever asked has gone if it cannot be told.
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

async fn drive(plan: Plan) -> Result<Report, LoadError> {
    let cpu_before = thread_cpu();
    let recorder = Recorder::new().map_err(|error| LoadError::Plan(error.to_string()))?;
    let connections = connect(&plan).await?;
    let schedule = Schedule::new(plan.pace, plan.warm_up, plan.length, Instant::now());
    let run = Arc::new(Run { workload: plan.workload, schedule, recorder: Mutex::new(recorder) });

    let mut users: JoinSet<()> =
        connections.into_iter().map(|connection| user(Arc::clone(&run), connection)).collect();
    while users.join_next().await.is_some() {}
    drop(users);

    let run = Arc::into_inner(run).ok_or_else(|| LoadError::Thread("a user is left".to_owned()))?;
    let end = run.schedule.ends.unwrap_or_else(Instant::now);
    let window = end.saturating_duration_since(run.schedule.measured_from);
    let cpu = cpu_before.zip(thread_cpu()).map(|(before, after)| after.saturating_sub(before));
    let recorder = run.recorder.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(recorder.finish(window, run.schedule.unsent(), cpu))
}

/// Every user's connection, open where that was possible.
async fn connect(plan: &Plan) -> Result<Vec<Connection>, LoadError> {
    let connecting = connecting();
    let targets = plan.targets.iter().cycle().take(plan.users);
    let mut opening: JoinSet<_> = targets
        .map(|target| opened(target.clone(), plan.timeout, Arc::clone(&connecting)))
        .collect();
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
        _ => Ok(connections),
    }
}

/// A connection, and why it is not open yet, if it is not. It is tried again with each request.
async fn opened(
    target: Target,
    patience: Duration,
    connecting: Arc<Semaphore>,
) -> (Connection, Option<LoadError>) {
    let unreachable = target.to_string();
    let mut connection = Connection::new(target, patience, connecting);
    let trouble = connection
        .open()
        .await
        .err()
        .map(|lost| LoadError::Unreachable { target: unreachable, reason: lost.to_string() });
    (connection, trouble)
}

/// What users share.
struct Run {
    workload: Arc<dyn Workload>,
    schedule: Schedule,
    recorder: Mutex<Recorder>,
}

impl Run {
    fn record(&self, turn: Turn, outcome: Outcome, dropped: u64) {
        let now = Instant::now();
        let in_time = self.schedule.ends.is_none_or(|ends| now < ends);
        let counts = turn.due >= self.schedule.measured_from && in_time;
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        recorder.record(outcome, counts.then(|| now.duration_since(turn.due)));
        recorder.dropped(dropped);
    }
}

/// One user, from its first turn to the last.
async fn user(run: Arc<Run>, mut connection: Connection) {
    while let Some(turn) = run.schedule.take(Instant::now()) {
        if turn.due > Instant::now() {
            sleep_until(turn.due).await;
        }
        let outcome = ask(&*run.workload, turn.index, &mut connection).await;
        let failed = matches!(outcome, Outcome::Failed(_));
        run.record(turn, outcome, std::mem::take(&mut connection.dropped));
        if failed {
            sleep(PAUSE).await;
        }
    }
}

async fn ask(workload: &dyn Workload, index: u64, connection: &mut Connection) -> Outcome {
    match connection.ask(workload.request(index)).await {
        Ok((StatusCode::OK, answer)) => match workload.check(index, &answer) {
            Ok(()) => Outcome::Right,
            Err(text) => Outcome::Wrong(format!("request {index}: {text}")),
        },
        Ok((status, answer)) => {
            let quoted = &answer.body[..answer.body.len().min(QUOTED)];
            let text = format!("{status} {}", String::from_utf8_lossy(quoted));
            Outcome::Refused(status.as_u16(), text)
        }
        Err(lost) => Outcome::Failed(lost.to_string()),
    }
}

/// CPU time of this thread so far.
fn thread_cpu() -> Option<Duration> {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = times.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}
