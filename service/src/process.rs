//! The life of a process: start, serve, drain, exit.

use std::{future::Future, process::ExitCode, time::Duration};

use anyhow::Context;
use prometheus::{Registry, process_collector::ProcessCollector};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    AdminPages, InvalidSettings, ProcessSettings, Readiness, admin, logs,
    metrics::{MetricGroup, ProcessMetrics},
    settings::{EXIT_USAGE, complain},
    trace::Tracer,
};

/// What a process hands to its parts.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Every metric of the process; served at /metrics.
    pub registry: Registry,
    /// Whether work may come; served at /readyz.
    pub readiness: Readiness,
    /// Cancelled by the first signal: finish what was begun, then return.
    pub shutdown: CancellationToken,
    /// What the admin port shows beside metrics and health.
    pub pages: AdminPages,
    /// Where traces go.
    pub tracer: Tracer,
}

/// Runs `program`, which others know as `name`, until it returns or a signal ends it: logs, a runtime of one thread beside this
/// one, the admin port, traces, signals.
///
/// The first SIGTERM or SIGINT cancels [`Process::shutdown`]; `program` then has the drain timeout
/// to return. A second signal, or the timeout, ends it at once with status 1. Settings it finds
/// wrong ([`InvalidSettings`]) end it with status 64 and one line.
pub fn run<P, F>(name: &str, settings: &ProcessSettings, program: P) -> ExitCode
where
    P: FnOnce(Process) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let outcome = logs::init(settings).map_err(anyhow::Error::from).and_then(|()| {
        raise_file_limit();
        let tracer = Tracer::start(&settings.trace, name)?;
        // What runs here only waits and passes on: more threads would mostly wake each other. What
        // computes or serves HTTP has threads of its own.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        let outcome = runtime.block_on(supervise(settings, tracer.clone(), program));
        // Not waited for: a blocking thread may hang, and what matters has been finished.
        runtime.shutdown_background();
        tracer.end();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<InvalidSettings>() => {
            complain(&format!("error: {error}"));
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            error!(error = sentence(&error), "ended by an error");
            ExitCode::FAILURE
        }
    }
}

/// The text of an error and of its sources, each said once: some errors already include the text of
/// their source.
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

/// Each connection is an open file, and the usual soft limit of 1,024 is no limit to plan with.
fn raise_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        warn!(%error, "cannot raise the limit of open files");
    }
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
    let process = Process {
        registry: registry()?,
        readiness: Readiness::default(),
        shutdown: CancellationToken::new(),
        pages: AdminPages::default(),
        tracer,
    };
    let signals = Signals::listen()?;
    let Process { registry, readiness, pages, .. } = process.clone();
    let admin = admin::start(settings.admin_listen, registry, readiness, pages)
        .with_context(|| format!("cannot listen on --admin-listen {}", settings.admin_listen))?;
    let shutdown = process.shutdown.clone();
    let readiness = process.readiness.clone();
    let outcome = tokio::select! {
        outcome = program(process) => outcome,
        cut_off = signals.drain(readiness, shutdown, settings.drain_timeout) => Err(cut_off),
    };
    admin.stop(false).await;
    outcome
}

fn registry() -> anyhow::Result<Registry> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self()))?;
    ProcessMetrics::register(&registry)?.set_version();
    Ok(registry)
}

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

    /// Begins the drain at the first signal; returns only when the drain must be cut off.
    async fn drain(
        mut self,
        readiness: Readiness,
        shutdown: CancellationToken,
        timeout: Duration,
    ) -> anyhow::Error {
        self.next().await;
        info!("draining: finishing what was begun");
        readiness.not_ready("draining");
        shutdown.cancel();
        tokio::select! {
            () = self.next() => {
                warn!("second signal: leaving at once");
                anyhow::anyhow!("cut off by a second signal")
            }
            () = tokio::time::sleep(timeout) => {
                anyhow::anyhow!("the drain took longer than {timeout:?}")
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
