//! A fleet with programs of two versions.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use batchfleet_testkit::Program;
use tokio::time::sleep;

use crate::{
    balancer::Balancer,
    crawl,
    findings::{Findings, time},
    protocol::Protocol,
    trial::{Scale, Trial},
};

const SECOND: Duration = Duration::from_secs(1);
/// How long a Kubernetes cluster still routes new connections to a gateway that shuts down.
const ENDPOINT_LAG: Duration = Duration::from_secs(5);
/// Bytes of an answer that is stored under a key, because it is too large for a pub/sub message.
const LARGE: usize = 512 << 10;

/// F35: the workers are upgraded, then the gateways; then the workers are rolled back and upgraded
/// again. Each version of the gateway thus works with both versions of the worker, also at the same
/// time.
pub(crate) async fn two_versions(scale: Scale, previous: Option<PathBuf>) -> Result<Findings> {
    ensure!(scale.protocol == Protocol::Http, "the older programs of F35 speak HTTP only");
    let older = &*previous.context("F35 needs --previous, which `make chaos` passes")?;
    ensure_different(older)
        .context("--previous needs programs of an older version, from scripts/previous.sh")?;
    let mut plan = scale.plan();
    plan.programs = Some(older.to_owned());
    // One second longer than `ENDPOINT_LAG`: until then the balancer lists the gateway.
    plan.gateway_flags = ["--lame-duck".to_owned(), "6s".to_owned()].into();
    let mut trial = Trial::start(scale, &plan).await?;
    let addresses = trial.fleet.gateways.iter().map(|gateway| gateway.load_address().to_owned());
    let balancer = Balancer::start(addresses.collect()).await?;
    let target = scale.protocol.url(balancer.address());
    let load = trial.load(scale.open().to([target].into())).await?;
    request_large_answers(&mut trial, "old workers, old gateways").await?;
    roll_workers(&mut trial, None).await?;
    request_large_answers(&mut trial, "new workers, old gateways").await?;
    roll_gateways(&mut trial, &balancer, (0, None), plan.gateway_flags).await?;
    request_large_answers(&mut trial, "new workers, new gateways").await?;
    roll_workers(&mut trial, Some(older)).await?;
    request_large_answers(&mut trial, "old workers, new gateways").await?;
    roll_workers(&mut trial, None).await?;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    trial.findings.none("refused connections", balancer.refused());
    trial.findings.note(format!("max {}", time(journal.longest())));
    trial.finish().await
}

/// Ensures that the older programs exist, and differ from those of this build.
pub(super) fn ensure_different(older: &Path) -> Result<()> {
    for name in ["batchfleet-gateway", "batchfleet-worker"] {
        let theirs = older.join(name);
        let read = fs::read(&theirs).with_context(|| format!("{} is missing", theirs.display()))?;
        let same = read == fs::read(Program::path(name)?)?;
        ensure!(!same, "{} is the program of this build", theirs.display());
    }
    Ok(())
}

/// Restarts all workers one after the other, with the programs in this folder.
pub(super) async fn roll_workers(trial: &mut Trial, programs: Option<&Path>) -> Result<()> {
    for index in 0..trial.scale.workers {
        trial.fleet.workers[index].program()?.signal("TERM").await?;
        let status = trial.fleet.worker_ended(index).await?;
        if !status.success() {
            trial.findings.check(false, format!("a worker ended with {status}"));
        }
        trial.fleet.workers[index].programs = programs.map(Path::to_owned);
        trial.fleet.start_worker(index).await?;
        sleep(SECOND).await;
    }
    Ok(())
}

/// Replaces the gateways one after the other, from the one at `first`, by those in a folder. Returns the
/// index of the first new one.
pub(super) async fn roll_gateways(
    trial: &mut Trial,
    balancer: &Balancer,
    (first, programs): (usize, Option<&Path>),
    flags: Vec<String>,
) -> Result<usize> {
    for old in first..first + trial.scale.gateways {
        let new = trial.fleet.add_gateway(programs, flags.clone()).await?;
        balancer.list(trial.fleet.gateways[new].load_address());
        trial.fleet.gateways[old].program()?.signal("TERM").await?;
        sleep(ENDPOINT_LAG).await;
        balancer.unlist(trial.fleet.gateways[old].load_address());
        let status = trial.fleet.gateway_ended(old).await?;
        if !status.success() {
            trial.findings.check(false, format!("a gateway ended with {status}"));
        }
    }
    Ok(first + trial.scale.gateways)
}

/// Requests some large answers, which workers store under keys. All must arrive.
async fn request_large_answers(trial: &mut Trial, versions: &str) -> Result<()> {
    const REQUESTS: usize = 10;
    let request = crawl::request(LARGE).into();
    let statuses = crawl::at_once(&trial.fleet, REQUESTS, &request).await?;
    let served = statuses.iter().filter(|status| **status == 200).count();
    let text = format!("{versions}: {served} of {REQUESTS} large answers");
    trial.findings.check(served == REQUESTS, text);
    Ok(())
}
