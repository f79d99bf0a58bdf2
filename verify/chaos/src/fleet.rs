//! The fleet under test: real programs on a real Redis. A trial can kill, pause, drain and restart
//! each program, and cut its link to Redis.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use batchfleet_testkit::{CuttingProxy, Program, echo_model, get};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    control::Control,
    protocol::Protocol,
    redises::{RedisPlan, Redises},
};

/// How long a program may take to become ready.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The programs of a fleet, and their settings.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChaosPlan {
    /// The protocol of the loads.
    pub(crate) protocol: Protocol,
    pub(crate) gateways: usize,
    pub(crate) gateway_flags: Vec<String>,
    pub(crate) workers: usize,
    pub(crate) worker_flags: Vec<String>,
    /// Flags of workers that those of an older version do not know.
    pub(crate) new_worker_flags: Vec<String>,
    /// Parameters of the echo model.
    pub(crate) parameters: Vec<(&'static str, String)>,
    pub(crate) redis: RedisPlan,
    /// Folder of the programs; `None` for those of this build.
    pub(crate) programs: Option<PathBuf>,
    /// Whether each program reaches Redis through a proxy of its own.
    pub(crate) links: bool,
    /// Whether programs read the URL of Redis from a file, which a trial may change.
    pub(crate) url_file: bool,
}

/// A program of the fleet, running or not.
pub(crate) struct Member {
    name: &'static str,
    flags: Vec<String>,
    /// Flags that the program of an older version does not know.
    new_flags: Vec<String>,
    environment: Vec<(String, String)>,
    /// Folder of the program from its next start on; `None` for that of this build.
    pub(crate) programs: Option<PathBuf>,
    program: Option<Program>,
    /// The proxy between the program and Redis, if the plan has `links`.
    pub(crate) link: Option<CuttingProxy>,
    /// The file with the URL of Redis, if the plan has one.
    url_file: Option<PathBuf>,
    /// Address of the admin port since the last start.
    pub(crate) admin: String,
    /// Address of a gateway's HTTP port, the same after every restart.
    pub(crate) address: String,
    /// Address of a gateway's gRPC port, the same after every restart, if loads come over gRPC.
    grpc: Option<String>,
}

/// A Redis, or several, with gateways and workers; all are stopped on drop.
pub(crate) struct ChaosFleet {
    pub(crate) redises: Redises,
    pub(crate) workers: Vec<Member>,
    pub(crate) gateways: Vec<Member>,
    protocol: Protocol,
    /// Programs that have ended, kept for their logs.
    ended: Vec<(String, Program)>,
    folder: TempDir,
}

impl ChaosFleet {
    /// Starts all programs, and waits until each gateway knows the model.
    pub(crate) async fn start(plan: &ChaosPlan) -> Result<Self> {
        let folder = TempDir::new()?;
        fs::create_dir_all(folder.path().join("runs"))?;
        let redises = Redises::start(&plan.redis).await;
        let (workers, gateways, ended, protocol) = (vec![], vec![], vec![], plan.protocol);
        let fleet = Self { redises, workers, gateways, protocol, ended, folder };
        let mut parameters = plan.parameters.clone();
        parameters.push(("run_log", text(&fleet.run_log())?));
        let parameters: Vec<_> = parameters.iter().map(|(key, value)| (*key, &**value)).collect();
        echo_model(&fleet.folder.path().join("models"), &parameters)?;
        fleet.fill(plan).await
    }

    async fn fill(mut self, plan: &ChaosPlan) -> Result<Self> {
        self.write_url("")?;
        for _ in 0..plan.workers {
            let mut flags = plan.worker_flags.clone();
            flags.extend(["--model-repository".to_owned(), text(&self.path("models"))?]);
            let mut worker = self.member("batchfleet-worker", flags, plan.links).await?;
            worker.url_file = plan.url_file.then(|| self.path("url"));
            worker.programs.clone_from(&plan.programs);
            worker.new_flags.clone_from(&plan.new_worker_flags);
            self.workers.push(worker);
        }
        for _ in 0..plan.gateways {
            let mut gateway =
                self.member("batchfleet-gateway", plan.gateway_flags.clone(), plan.links).await?;
            gateway.programs.clone_from(&plan.programs);
            gateway.grpc = self.grpc();
            gateway.url_file = plan.url_file.then(|| self.path("url"));
            self.gateways.push(gateway);
        }
        for index in 0..plan.workers {
            self.spawn_worker(index).await?;
        }
        for worker in &self.workers {
            until_200(worker, &worker.admin, "/readyz").await?;
        }
        for index in 0..plan.gateways {
            self.start_gateway(index).await?;
        }
        Ok(self)
    }

    async fn member(&self, name: &'static str, flags: Vec<String>, link: bool) -> Result<Member> {
        let link = if link {
            Some(CuttingProxy::start(self.redises.first.address()).await?)
        } else {
            None
        };
        Ok(Member {
            name,
            flags,
            new_flags: Vec::new(),
            environment: Vec::new(),
            programs: None,
            program: None,
            link,
            url_file: None,
            admin: String::new(),
            address: "127.0.0.1:0".to_owned(),
            grpc: None,
        })
    }

    /// The path of a file in the fleet's temporary folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the file with the URL of Redis. `user` is empty, or has the form `name:password@`.
    pub(crate) fn write_url(&self, user: &str) -> Result<()> {
        let fresh = self.path("url.fresh");
        fs::write(&fresh, format!("redis://{user}{}", self.redises.first.address()))?;
        // A rename, so that no program reads half a file.
        Ok(fs::rename(fresh, self.path("url"))?)
    }

    /// The folder of the run log, where the echo model of each worker logs every row that it begins
    /// to run.
    pub(crate) fn run_log(&self) -> PathBuf {
        self.path("runs")
    }

    /// Starts a worker that is not running, and waits until it is ready.
    pub(crate) async fn start_worker(&mut self, index: usize) -> Result<()> {
        let urls = self.redises.urls();
        let worker = &mut self.workers[index];
        worker.spawn(&urls, &[]).await?;
        until_200(worker, &worker.admin, "/readyz").await
    }

    /// Starts a worker that is not running, without waiting until it is ready.
    pub(crate) async fn spawn_worker(&mut self, index: usize) -> Result<()> {
        let urls = self.redises.urls();
        self.workers[index].spawn(&urls, &[]).await
    }

    /// Starts a gateway that is not running, on the port of its first start, and waits until it is
    /// ready.
    pub(crate) async fn start_gateway(&mut self, index: usize) -> Result<()> {
        let urls = self.redises.urls();
        let gateway = &mut self.gateways[index];
        let (listen, grpc) = (gateway.address.clone(), gateway.grpc.clone());
        let mut flags = vec!["--listen", &listen];
        flags.extend(grpc.iter().flat_map(|address| ["--grpc-listen", address]));
        gateway.spawn(&urls, &flags).await?;
        gateway.address = gateway.program()?.address("http").await?;
        if grpc.is_some() {
            gateway.grpc = Some(gateway.program()?.address("grpc").await?);
        }
        until_200(gateway, &gateway.address, "/v2/health/ready").await
    }

    /// Kills a worker.
    pub(crate) async fn kill_worker(&mut self, index: usize) -> Result<()> {
        let program = self.workers[index].take_killed().await?;
        self.ended.extend(program);
        Ok(())
    }

    /// Kills a gateway.
    pub(crate) async fn kill_gateway(&mut self, index: usize) -> Result<()> {
        let program = self.gateways[index].take_killed().await?;
        self.ended.extend(program);
        Ok(())
    }

    /// Waits for the end of a worker after a signal. Returns the exit status.
    pub(crate) async fn worker_ended(&mut self, index: usize) -> Result<std::process::ExitStatus> {
        let worker = &mut self.workers[index];
        let mut program = worker.program.take().context("this worker is not running")?;
        let status = program.wait().await;
        self.ended.push((worker.name.to_owned(), program));
        status
    }

    /// Waits for the end of a gateway after a signal. Returns the exit status.
    pub(crate) async fn gateway_ended(&mut self, index: usize) -> Result<std::process::ExitStatus> {
        let gateway = &mut self.gateways[index];
        let mut program = gateway.program.take().context("this gateway is not running")?;
        let status = program.wait().await;
        self.ended.push((gateway.name.to_owned(), program));
        status
    }

    /// Adds a gateway of the programs in a folder, and waits until it knows the model. Returns the
    /// gateway's index.
    pub(crate) async fn add_gateway(
        &mut self,
        programs: Option<&Path>,
        flags: Vec<String>,
    ) -> Result<usize> {
        let mut gateway = self.member("batchfleet-gateway", flags, false).await?;
        gateway.programs = programs.map(Path::to_owned);
        gateway.grpc = self.grpc();
        self.gateways.push(gateway);
        let index = self.gateways.len() - 1;
        self.start_gateway(index).await?;
        Ok(index)
    }

    /// The URL of each gateway, for the loads.
    pub(crate) fn targets(&self) -> Vec<String> {
        let addresses = self.gateways.iter().map(Member::load_address);
        addresses.map(|address| self.protocol.url(address)).collect()
    }

    /// The address on which a new gateway listens for gRPC.
    fn grpc(&self) -> Option<String> {
        (self.protocol == Protocol::Grpc).then(|| "127.0.0.1:0".to_owned())
    }

    /// A client of the fleet's Redis, or the first of several.
    pub(crate) fn control(&self) -> Control {
        Control::new(&self.redises.first.url())
    }

    /// Log lines about panics, from all programs of the fleet, ended ones included.
    pub(crate) fn panics(&self) -> Vec<String> {
        let members = self.workers.iter().chain(&self.gateways);
        let running = members.filter_map(|member| Some((member.name, member.program.as_ref()?)));
        let ended = self.ended.iter().map(|(name, program)| (name.as_str(), program));
        running
            .chain(ended)
            .flat_map(|(name, program)| {
                let lines = program.log().into_iter().map(|line| line.to_string());
                lines.filter(|line| line.contains("panicked")).map(move |l| format!("{name}: {l}"))
            })
            .collect()
    }
}

impl Member {
    async fn spawn(&mut self, urls: &str, more: &[&str]) -> Result<()> {
        if self.program.is_some() {
            bail!("{} is already running", self.name);
        }
        let link = self.link.as_ref().map(CuttingProxy::address);
        let (path, new_flags) = match &self.programs {
            Some(folder) => (folder.join(self.name), &[][..]),
            None => (Program::path(self.name)?, &*self.new_flags),
        };
        let url = if let Some(file) = &self.url_file {
            ["--redis-url-file".to_owned(), text(file)?]
        } else {
            let url = link.map_or_else(|| urls.to_owned(), |link| format!("redis://{link}"));
            ["--redis-url".to_owned(), url]
        };
        let mut builder = Program::at(path)
            .args(url)
            .args(["--admin-listen", "127.0.0.1:0"])
            .args(self.flags.iter().chain(new_flags).map(String::as_str))
            .args(more.iter().copied());
        for (name, value) in &self.environment {
            builder = builder.env(name, value);
        }
        let program = builder.spawn()?;
        self.admin = program.address("admin").await?;
        self.program = Some(program);
        Ok(())
    }

    async fn take_killed(&mut self) -> Result<Option<(String, Program)>> {
        let Some(mut program) = self.program.take() else { return Ok(None) };
        program.kill().await?;
        Ok(Some((self.name.to_owned(), program)))
    }

    /// The address of a gateway's port for the loads, the same after every restart.
    pub(crate) fn load_address(&self) -> &str {
        self.grpc.as_deref().unwrap_or(&self.address)
    }

    /// The running program.
    pub(crate) fn program(&self) -> Result<&Program> {
        self.program.as_ref().with_context(|| format!("a {} is not running", self.name))
    }

    /// Whether the program was started, and neither killed nor awaited since. The process may have
    /// ended by itself.
    pub(crate) fn is_started(&self) -> bool {
        self.program.is_some()
    }

    /// The process id, if the program was started.
    pub(crate) fn id(&self) -> Option<u32> {
        self.program.as_ref()?.id()
    }

    /// Whether the process has ended by itself, or was never started.
    pub(crate) fn is_gone(&self) -> bool {
        self.id().is_none_or(|id| {
            let state = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            state.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z'))
                || state.is_empty()
        })
    }

    /// Sets an environment variable from the next start on.
    pub(crate) fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

async fn until_200(member: &Member, address: &str, path: &str) -> Result<()> {
    let asked = timeout(START_LIMIT, async {
        // An error means that the program does not listen yet, or has ended.
        while !member.is_gone() {
            if get(address, path).await.is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
        bail!("the program ended")
    });
    asked.await.unwrap_or_else(|_| bail!("not ready within {START_LIMIT:?}")).with_context(|| {
        format!("{}{path}: {:?}", member.name, member.program.as_ref().map(Program::log))
    })
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("an odd temporary folder")?.to_owned())
}
