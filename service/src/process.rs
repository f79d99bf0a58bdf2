//! The life cycle of a process: start, serve, drain, exit.

use std::{future::Future, net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context;
use prometheus::{Registry, process_collector::ProcessCollector};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinError,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    AdminPages, EXIT_TASK, InvalidSettings, Liveness, LongTasks, ProcessSettings, Readiness,
    TaskEnded,
    admin::{self, AdminPort, Shown},
    complaint::complain,
    logs,
    metrics::{MetricGroup, ProcessMetrics},
    settings::EXIT_USAGE,
    trace::Tracer,
};

/// Handles that a process passes to its components.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// All metrics of the process; served at /metrics.
    pub registry: Registry,
    /// Whether the process accepts work; served at /readyz.
    pub readiness: Readiness,
    /// Whether a restart of the process would help; served at /livez.
    pub liveness: Liveness,
    /// The bound address of the admin port.
    pub admin_address: Option<SocketAddr>,
    /// Cancelled by the first signal. Components then finish the work in progress and return.
    pub shutdown: CancellationToken,
    /// Additional pages of the admin port.
    pub pages: AdminPages,
    /// Sends traces to the collector.
    pub tracer: Tracer,
}

/// Runs `program` until it returns or a signal ends it. Sets up the allocator, logs, a runtime with one
/// worker thread, the admin port, traces and signal handling. `name` is the service name in traces.
///
/// The first SIGTERM or SIGINT cancels [`Process::shutdown`]; `program` then has to return within
/// the drain timeout. After the timeout, or a second signal a second or more after the first, the
/// process exits immediately with status 1. For [`InvalidSettings`] the process prints one line and
/// exits with status 64; for [`TaskEnded`] it exits with status [`EXIT_TASK`].
pub fn run<P, F>(name: &str, settings: &ProcessSettings, program: P) -> ExitCode
where
    P: FnOnce(Process) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    batchfleet_heap::keep_freed();
    let outcome = logs::init(settings).map_err(anyhow::Error::from).and_then(|()| {
        raise_file_limit();
        let tracer = Tracer::start(&settings.trace, name)?;
        // Tasks on this runtime mostly wait and forward messages, so additional threads would only
        // wake each other. Inference and HTTP servers have their own threads.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        let outcome = runtime.block_on(supervise(settings, tracer.clone(), program));
        // In the background: a blocking thread may hang, and the program has already returned.
        runtime.shutdown_background();
        tracer.flush();
        outcome
    });
    let status = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<InvalidSettings>() => {
            complain(&format!("error: {error}"));
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            error!(error = sentence(&error), "process failed");
            if is_of_task(&error) { ExitCode::from(EXIT_TASK) } else { ExitCode::FAILURE }
        }
    };
    logs::flush();
    status
}

/// Whether the cause is a task of this process that ended or panicked.
fn is_of_task(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<TaskEnded>() || cause.is::<JoinError>())
}

/// Formats an error and its sources. A source whose text is already included is omitted.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = error.to_string();
    for source in error.chain().skip(1).map(ToString::to_string) {
        if !sentence.contains(&source) {
            sentence.push_str(": ");
            sentence.push_str(&source);
        }
    }
    sentence
}

/// Raises the soft limit of open files to the hard limit, because each connection is an open file,
/// and the usual soft limit is 1,024.
fn raise_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        warn!(%error, "failed to raise the limit of open files");
    }
}

/// The number of files that this process may have open; every connection is an open file.
pub fn open_file_limit() -> u64 {
    rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX)
}

async fn supervise<P, F>(
    settings: &ProcessSettings,
    tracer: Tracer,
    program: P,
) -> anyhow::Result<()>
where
    P: FnOnce(Process) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let mut process = Process { tracer, ..Process::default() };
    let signals = Signals::listen()?;
    let Process { registry, readiness, liveness, pages, .. } = process.clone();
    registry.register(Box::new(ProcessCollector::for_self()))?;
    let metrics = ProcessMetrics::register(&registry)?;
    let shown = Shown { registry, metrics, liveness, readiness, pages };
    let AdminPort { server, address } = admin::bind(settings.admin_listen, shown)
        .with_context(|| format!("cannot listen on --admin-listen {}", settings.admin_listen))?;
    process.admin_address = address;
    let admin = server.handle();
    let mut tasks = LongTasks::default();
    tasks.spawn("admin port", async {
        if let Err(error) = server.await {
            error!(%error, "the admin port failed");
        }
    });
    tasks.spawn("liveness", process.liveness.clone().beat());
    let (shutdown, readiness) = (process.shutdown.clone(), process.readiness.clone());
    let outcome = tokio::select! {
        outcome = program(process) => outcome,
        cut_off = signals.drain(readiness, shutdown, settings.drain_timeout) => Err(cut_off),
        ended = tasks.ended() => Err(ended.into()),
    };
    admin.stop(false).await;
    outcome
}

/// Signals that follow the first one within this time are repetitions of it: `timeout`, init
/// programs and terminals signal a process and its group, so that one stop arrives twice.
const REPETITION: Duration = Duration::from_secs(1);

/// Receives SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Starts the drain at the first signal. Returns an error at the next signal that is no
    /// [repetition](REPETITION), or after the drain timeout; the caller must then abort the drain.
    async fn drain(
        mut self,
        readiness: Readiness,
        shutdown: CancellationToken,
        timeout: Duration,
    ) -> anyhow::Error {
        self.next().await;
        info!(drain_timeout = ?timeout, "draining: finishing work in progress");
        readiness.drain();
        shutdown.cancel();
        let repeated_until = Instant::now() + REPETITION;
        let second = async {
            self.next().await;
            while Instant::now() < repeated_until {
                self.next().await;
            }
        };
        tokio::select! {
            () = second => {
                warn!("received a second signal: aborting the drain");
                anyhow::anyhow!("drain aborted by a second signal")
            }
            () = tokio::time::sleep(timeout) => {
                anyhow::anyhow!("drain aborted after the drain timeout of {timeout:?}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_source_that_the_error_already_includes_is_not_repeated() {
        let refused = std::io::Error::other("refused");
        let error = Err::<(), _>(refused).context("no broker (refused)").context("no gateway");
        assert_eq!(sentence(&error.unwrap_err()), "no gateway: no broker (refused)");
    }
}
