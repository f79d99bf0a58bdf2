//! A fleet of this build's programs and a Redis, serving an echo model.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{Program, RedisServer};

/// The name of the worker's program.
const WORKER: &str = "batchfleet-worker";

/// The programs of a fleet, and their settings.
#[derive(Clone, Debug)]
pub struct FleetPlan<'a> {
    /// Number of gateways.
    pub gateways: usize,
    /// Additional flags of each gateway.
    pub gateway_flags: &'a [&'a str],
    /// Number of workers.
    pub workers: usize,
    /// Additional flags of each worker.
    pub worker_flags: &'a [&'a str],
    /// Folder with the program of the workers; `None` for that of this build.
    pub worker_programs: Option<&'a Path>,
    /// Fixed part of the echo's batch time, in milliseconds.
    pub batch_ms: u32,
    /// A model repository to serve instead of the echo, and the name of the model that every
    /// gateway must know before the fleet counts as started.
    pub serving: Option<(&'a Path, &'a str)>,
    /// URL of the Redis to use instead of the fleet's own.
    pub redis_url: Option<&'a str>,
    /// File with the URL of the Redis, which each program reads itself.
    pub redis_url_file: Option<&'a Path>,
}

impl Default for FleetPlan<'_> {
    fn default() -> Self {
        Self {
            gateways: 1,
            gateway_flags: &[],
            workers: 1,
            worker_flags: &[],
            worker_programs: None,
            batch_ms: 0,
            serving: None,
            redis_url: None,
            redis_url_file: None,
        }
    }
}

impl<'a> FleetPlan<'a> {
    /// Two gateways and enough workers that some live at each of three or four shards: the Redises of
    /// `redis_url`, separated by spaces, or the partitions of a cluster.
    pub fn over_shards(redis_url: &'a str) -> Self {
        let worker_flags = &["--workers-per-shard", "1"];
        let redis_url = Some(redis_url);
        Self { gateways: 2, workers: 6, worker_flags, batch_ms: 5, redis_url, ..Self::default() }
    }
}

/// Gateways and workers on one Redis; all are stopped on drop.
///
/// The default model is `echo`, which returns its input `INPUT0`, `UINT8` of shape `[-1, -1]`, as
/// `OUTPUT0`.
pub struct Fleet {
    /// The fleet's own Redis, unused if the plan names another.
    pub redis: RedisServer,
    /// The gateways, in the order of [`Fleet::targets`].
    pub gateways: Vec<Program>,
    /// The workers.
    pub workers: Vec<Program>,
    targets: Vec<String>,
    /// The flag for the Redis, and its value.
    redis_flag: [String; 2],
    repository: PathBuf,
    model: String,
    /// The program of the workers.
    worker: PathBuf,
    _folder: TempDir,
}

impl Fleet {
    /// Starts all programs, and waits until each gateway knows the model.
    ///
    /// # Errors
    /// If a program is missing or does not start; the error shows its log.
    pub async fn start(plan: FleetPlan<'_>) -> Result<Self> {
        let folder = TempDir::new()?;
        let (repository, model) = plan.serving.unwrap_or((folder.path(), "echo"));
        let (repository, model) = (repository.to_owned(), model.to_owned());
        if plan.serving.is_none() {
            echo_model(&repository, &[("batch_ms", &plan.batch_ms.to_string())])?;
        }
        let redis = RedisServer::start().await;
        let redis_flag = if let Some(file) = plan.redis_url_file {
            ["--redis-url-file".to_owned(), file.to_string_lossy().into_owned()]
        } else {
            let url = plan.redis_url.map_or_else(|| redis.url(), str::to_owned);
            ["--redis-url".to_owned(), url]
        };
        let worker = match plan.worker_programs {
            Some(folder) => folder.join(WORKER),
            None => Program::path(WORKER)?,
        };
        let mut fleet = Self {
            redis,
            worker,
            redis_flag,
            gateways: Vec::new(),
            workers: Vec::new(),
            targets: Vec::new(),
            repository,
            model,
            _folder: folder,
        };
        for _ in 0..plan.workers {
            fleet.add_worker(plan.worker_flags).await?;
        }
        for _ in 0..plan.gateways {
            fleet.add_gateway(plan.gateway_flags).await?;
        }
        Ok(fleet)
    }

    /// Starts another worker, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub async fn add_worker(&mut self, flags: &[&str]) -> Result<()> {
        let repository = self.repository.to_str().context("the repository's path is not UTF-8")?;
        let serve = ["--model-repository", repository, "--model", &self.model];
        let worker = self.spawn(&self.worker, &serve, flags)?;
        let admin = worker.address("admin").await?;
        while get(&admin, "/readyz").await?.0 != 200 {
            tokio::task::yield_now().await;
        }
        self.workers.push(worker);
        Ok(())
    }

    /// Starts another gateway, and waits until it knows the model.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub async fn add_gateway(&mut self, flags: &[&str]) -> Result<()> {
        let program = Program::path("batchfleet-gateway")?;
        let gateway = self.spawn(&program, &["--listen", "127.0.0.1:0"], flags)?;
        let address = gateway.address("http").await?;
        // The port for clients may speak HTTPS only, or require an API key.
        let admin = gateway.address("admin").await?;
        while !serves(&get(&admin, "/metrics").await?.1, &self.model) {
            tokio::task::yield_now().await;
        }
        let scheme = if flags.contains(&"--tls-cert") { "https" } else { "http" };
        self.targets.push(format!("{scheme}://{address}"));
        self.gateways.push(gateway);
        Ok(())
    }

    /// `http://host:port` of each gateway, or `https://host:port` of a gateway with a certificate.
    pub fn targets(&self) -> &[String] {
        &self.targets
    }

    fn spawn(&self, program: &Path, needed: &[&str], flags: &[&str]) -> Result<Program> {
        let [flag, value] = &self.redis_flag;
        let common = [flag, value, "--admin-listen", "127.0.0.1:0"];
        let flags = common.iter().chain(needed).chain(flags).copied();
        Program::at(program).args(flags).spawn()
    }
}

/// Whether a gateway with these metrics knows a worker of the model.
fn serves(metrics: &str, model: &str) -> bool {
    let series = format!("batchfleet_gateway_workers{{model=\"{model}\"");
    metrics.lines().any(|line| line.starts_with(&series) && !line.ends_with(" 0"))
}

/// Writes the model `echo`, with these parameters, into a model repository.
///
/// # Errors
/// If the repository cannot be written.
pub fn echo_model(repository: &Path, parameters: &[(&str, &str)]) -> Result<()> {
    named_echo_model(repository, "echo", 256, parameters)
}

/// Writes a model like `echo` with this name and `max_batch_size` into a model repository.
///
/// # Errors
/// If the repository cannot be written.
pub fn named_echo_model(
    repository: &Path,
    name: &str,
    max_batch: u32,
    parameters: &[(&str, &str)],
) -> Result<()> {
    let tensor = |name| format!("[{{ name: \"{name}\" data_type: TYPE_UINT8 dims: [ -1 ] }}]");
    let mut config = format!("backend: \"batchfleet_echo\"\nmax_batch_size: {max_batch}\n");
    writeln!(config, "input {}\noutput {}", tensor("INPUT0"), tensor("OUTPUT0"))?;
    for (key, value) in parameters {
        let value = format!("value {{ string_value: \"{value}\" }}");
        writeln!(config, "parameters {{ key: \"{key}\" {value} }}")?;
    }
    fs::create_dir_all(repository.join(name).join("1"))?;
    fs::write(repository.join(name).join("config.pbtxt"), config)?;
    Ok(())
}

/// The sum of a metric over all its series, read from a program's admin port.
///
/// # Errors
/// If the admin port does not answer.
pub async fn metric(program: &Program, name: &str) -> Result<f64> {
    let (status, text) = get(&program.address("admin").await?, "/metrics").await?;
    if status != 200 {
        bail!("/metrics answered {status}: {text}");
    }
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    Ok(samples.sum())
}

/// GETs a path from `host:port`. Returns the status and the body.
///
/// # Errors
/// If the connection fails, or the answer is not HTTP.
pub async fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.context("an answer without a status")?, body.to_owned()))
}
