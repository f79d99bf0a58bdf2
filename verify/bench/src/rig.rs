//! A fleet under measurement: the throughput of a load, and its CPU cost by program.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use batchfleet_loadgen::{
    Length, LoadError, LoadPlan, Pace, Report, Target, TlsTrust, Workload, run,
};
use batchfleet_testkit::{Fleet, FleetPlan, Program, RedisServer, metric};

/// Time before a measurement for connections, caches and batch sizes to settle.
const WARM_UP: Duration = Duration::from_secs(1);
/// Timeout of a request, longer than any deadline of a gateway.
const PATIENCE: Duration = Duration::from_mins(1);
/// Clock ticks per second in /proc: 100 on every common Linux.
const TICKS: f64 = 100.0;

/// A benchmarked fleet: gateways, a Redis and workers.
pub(crate) struct Rig {
    /// The setting in which the rig differs from others.
    pub(crate) name: String,
    fleet: Fleet,
    redis: u32,
    /// The authority of the gateway's certificate.
    ca: Option<PathBuf>,
}

/// A load.
#[derive(Clone)]
pub(crate) struct BenchLoad {
    pub(crate) workload: Arc<dyn Workload>,
    pub(crate) users: usize,
    pub(crate) pace: Pace,
    pub(crate) lasts: Duration,
}

/// The results of one load.
pub(crate) struct Measurement {
    pub(crate) report: Report,
    /// Mean rows of a batch.
    pub(crate) batch: f64,
    /// CPU per right answer, including connections and warm-up.
    pub(crate) cpu: Cpu,
    /// Redis commands per right answer.
    pub(crate) commands: f64,
}

/// CPU time in microseconds, by program.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) gateway: f64,
    pub(crate) redis: f64,
    pub(crate) worker: f64,
}

/// Totals since the start of the rig.
struct Usage {
    cpu: Cpu,
    rows: f64,
    batches: f64,
    commands: f64,
}

impl Rig {
    /// Starts the fleet.
    pub(crate) async fn start(name: &str, plan: FleetPlan<'_>) -> Result<Self> {
        let fleet = Fleet::start(plan).await.with_context(|| format!("starting {name}"))?;
        let redis = u32::try_from(fleet.redis.info("process_id").await?)?;
        Ok(Self { name: name.to_owned(), fleet, redis, ca: None })
    }

    /// The rig, whose programs use this Redis instead of the fleet's own.
    pub(crate) async fn using(mut self, redis: RedisServer) -> Result<Self> {
        self.redis = u32::try_from(redis.info("process_id").await?)?;
        self.fleet.redis = redis;
        Ok(self)
    }

    /// The rig, whose gateway has a certificate of this authority.
    pub(crate) fn trusting(self, ca: &Path) -> Self {
        Self { ca: Some(ca.to_owned()), ..self }
    }

    /// The address of the first gateway.
    pub(crate) fn target(&self) -> Result<Target, LoadError> {
        self.trusted(&self.fleet.targets()[0])
    }

    fn trusted(&self, target: &str) -> Result<Target, LoadError> {
        let target: Target = target.parse()?;
        target.trusting(&TlsTrust { ca: self.ca.as_deref(), identity: None })
    }

    /// A metric of the first worker.
    pub(crate) async fn worker_metric(&self, name: &str) -> Result<f64> {
        metric(&self.fleet.workers[0], name).await
    }

    /// Runs a load.
    pub(crate) async fn measure(&self, load: &BenchLoad) -> Result<Measurement> {
        let targets = self.fleet.targets().iter().map(|target| self.trusted(target));
        self.measure_at(targets.collect::<Result<_, _>>()?, load).await
    }

    /// Runs a load over the gRPC ports of the gateways.
    pub(crate) async fn measure_over_grpc(&self, load: &BenchLoad) -> Result<Measurement> {
        let mut targets = Vec::new();
        for gateway in &self.fleet.gateways {
            let address = gateway.address("grpc").await?;
            targets.push(self.trusted(&format!("http://{address}"))?.over_grpc());
        }
        self.measure_at(targets, load).await
    }

    async fn measure_at(&self, targets: Vec<Target>, load: &BenchLoad) -> Result<Measurement> {
        let plan = LoadPlan {
            targets,
            users: load.users,
            pace: load.pace,
            warm_up: WARM_UP,
            length: Length::Time(load.lasts),
            timeout: PATIENCE,
            ..LoadPlan::new(self.target()?, load.workload.clone(), 0)
        };
        let before = self.usage().await?;
        let report = run(plan).await?;
        let after = self.usage().await?;
        let per_answer = |used: f64| used / count(report.right.max(1));
        Ok(Measurement {
            batch: (after.rows - before.rows) / (after.batches - before.batches).max(1.0),
            cpu: Cpu {
                gateway: per_answer(after.cpu.gateway - before.cpu.gateway),
                redis: per_answer(after.cpu.redis - before.cpu.redis),
                worker: per_answer(after.cpu.worker - before.cpu.worker),
            },
            commands: per_answer(after.commands - before.commands),
            report,
        })
    }

    async fn usage(&self) -> Result<Usage> {
        let Fleet { gateways, workers, .. } = &self.fleet;
        let used = |programs: &[Program]| -> Result<f64> {
            programs.iter().map(|program| cpu(id(program)?)).sum()
        };
        let (mut rows, mut batches) = (0.0, 0.0);
        for worker in workers {
            rows += metric(worker, "batchfleet_worker_batch_size_sum").await?;
            batches += metric(worker, "batchfleet_worker_batch_size_count").await?;
        }
        Ok(Usage {
            cpu: Cpu { gateway: used(gateways)?, redis: cpu(self.redis)?, worker: used(workers)? },
            rows,
            batches,
            commands: count(self.fleet.redis.info("total_commands_processed").await?),
        })
    }
}

impl Measurement {
    /// The number of requests without the right answer.
    pub(crate) fn errors(&self) -> u64 {
        self.report.sent - self.report.right
    }
}

impl Cpu {
    /// CPU time of all programs.
    pub(crate) fn sum(self) -> f64 {
        self.gateway + self.redis + self.worker
    }
}

fn id(program: &Program) -> Result<u32> {
    program.id().context("a program has ended")
}

/// CPU time of a process since its start, in microseconds.
fn cpu(id: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The second field is the program's name in brackets and may contain any character. User and
    // system time are the twelfth and thirteenth fields after the brackets.
    let behind = stat.rsplit(')').next().unwrap_or_default();
    let times = behind.split_ascii_whitespace().skip(11).take(2).map(str::parse::<f64>);
    let ticks = times.sum::<Result<f64, _>>().context("cannot parse /proc/PID/stat")?;
    Ok(ticks / TICKS * 1e6)
}

/// The machine's load average over the last minute. A high load makes wall-clock figures
/// unreliable.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// A latency in milliseconds.
pub(crate) fn latency_ms(report: &Report, quantile: f64) -> f64 {
    report.latency(quantile).as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) fn count(count: u64) -> f64 {
    count as f64
}
