//! An echo in one process, or over Redis.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use batchfleet_loadgen::Target;
use batchfleet_testkit::{CuttingProxy, Fleet, FleetPlan, Program, RedisServer, get};

/// The gateway and the worker in one process.
const PROGRAM: &str = "batchfleet";

/// Where the queue of the model is.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// In the memory of `batchfleet serve`.
    OneProcess,
    /// In Redis.
    Redis,
    /// In a Redis of which each round trip takes this much longer.
    RedisAway(Duration),
}

/// The programs, which end when this is dropped.
pub(super) enum Served {
    InOneProcess(Program),
    OverRedis(Box<Fleet>),
    /// Through a proxy to another Redis than the fleet's own.
    OverProxy {
        fleet: Box<Fleet>,
        _redis: RedisServer,
        _proxy: CuttingProxy,
    },
}

impl Served {
    /// Serves the model `echo` of a repository. `programs` is the folder of other programs than those
    /// of this build.
    pub(super) async fn start(
        place: Place,
        repository: &Path,
        flags: &[&str],
        programs: Option<&Path>,
    ) -> Result<Self> {
        let serving = Some((repository, "echo"));
        let plan = FleetPlan {
            serving,
            worker_flags: flags,
            worker_programs: programs,
            ..FleetPlan::default()
        };
        match place {
            Place::OneProcess => {
                let local = "127.0.0.1:0";
                let serve = ["serve", "--listen", local, "--admin-listen", local];
                let path = match programs {
                    Some(folder) => folder.join(PROGRAM),
                    None => Program::path(PROGRAM)?,
                };
                let program = Program::at(path).args(serve).args(["--model-repository"]);
                let program = program.args([repository]).args(flags.iter().copied()).spawn()?;
                let admin = program.address("admin").await?;
                while get(&admin, "/readyz").await?.0 != 200 {
                    tokio::task::yield_now().await;
                }
                Ok(Self::InOneProcess(program))
            }
            Place::Redis => Ok(Self::OverRedis(Box::new(Fleet::start(plan).await?))),
            Place::RedisAway(round_trip) => {
                let redis = RedisServer::start().await;
                let proxy = CuttingProxy::start(redis.address()).await?;
                proxy.set_delay(round_trip / 2);
                let url = format!("redis://{}", proxy.address());
                let fleet = Fleet::start(FleetPlan { redis_url: Some(&url), ..plan }).await?;
                Ok(Self::OverProxy { fleet: Box::new(fleet), _redis: redis, _proxy: proxy })
            }
        }
    }

    /// The address for clients.
    pub(super) async fn target(&self) -> Result<Target> {
        let url = match self {
            Self::InOneProcess(program) => format!("http://{}", program.address("http").await?),
            Self::OverRedis(fleet) | Self::OverProxy { fleet, .. } => fleet.targets()[0].clone(),
        };
        Ok(url.parse()?)
    }

    /// The metrics of the process that runs the model.
    pub(super) async fn metrics(&self) -> Result<String> {
        let program = match self {
            Self::InOneProcess(program) => program,
            Self::OverRedis(fleet) | Self::OverProxy { fleet, .. } => &fleet.workers[0],
        };
        let (status, text) = get(&program.address("admin").await?, "/metrics").await?;
        ensure!(status == 200, "/metrics answered {status}");
        Ok(text)
    }
}
