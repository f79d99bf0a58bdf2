//! Programs of two versions in one fleet.

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
    stage::{Scale, Stage},
};

const SECOND: Duration = Duration::from_secs(1);
/// How long a cluster takes to stop sending connections to what leaves.
const ENDPOINT_LAG: Duration = Duration::from_secs(5);
/// An answer of so many bytes is too large for a message.
const LARGE: usize = 512 << 10;

/// F35: the workers become new, then the gateways, then the workers are rolled back and become new
/// again, so that every kind of gateway meets every kind of worker, and mixtures of them.
pub(crate) async fn two_versions(scale: Scale, previous: Option<PathBuf>) -> Result<Findings> {
    let older = &*previous.context("it needs --previous, as `make chaos` gives it")?;
    ensure_different(older)
        .context("the programs of an older version, from scripts/previous.sh")?;
    let mut plan = scale.plan();
    plan.programs = Some(older.to_owned());
    // A second more than the endpoints lag: who is still listed must still be there.
    plan.gateway_flags = ["--lame-duck".to_owned(), "6s".to_owned()].into();
    let mut stage = Stage::start(scale, &plan).await?;
    let addresses = stage.fleet.gateways.iter().map(|gateway| gateway.address.clone());
    let balancer = Balancer::start(addresses.collect()).await?;
    let load = stage.load(scale.open().to([balancer.target()].into())).await?;
    ask_for_much(&mut stage, "old workers, old gateways").await?;
    roll_workers(&mut stage, None).await?;
    ask_for_much(&mut stage, "new workers, old gateways").await?;
    roll_gateways(&mut stage, &balancer, plan.gateway_flags).await?;
    ask_for_much(&mut stage, "new workers, new gateways").await?;
    roll_workers(&mut stage, Some(older)).await?;
    ask_for_much(&mut stage, "old workers, new gateways").await?;
    roll_workers(&mut stage, None).await?;
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    stage.findings.none("refused connections", balancer.refused());
    stage.findings.note(format!("max {}", time(seen.longest())));
    stage.finish().await
}

/// Whether there are programs, and none of them is ours.
fn ensure_different(older: &Path) -> Result<()> {
    for name in ["batchfleet-gateway", "batchfleet-worker"] {
        let theirs = older.join(name);
        let read = fs::read(&theirs).with_context(|| format!("{} is missing", theirs.display()))?;
        ensure!(read != fs::read(Program::path(name)?)?, "{} is no older", theirs.display());
    }
    Ok(())
}

async fn roll_workers(stage: &mut Stage, programs: Option<&Path>) -> Result<()> {
    for index in 0..stage.scale.workers {
        stage.fleet.workers[index].program()?.signal("TERM").await?;
        let status = stage.fleet.worker_ended(index).await?;
        if !status.success() {
            stage.findings.check(false, format!("a worker ended with {status}"));
        }
        stage.fleet.workers[index].programs = programs.map(Path::to_owned);
        stage.fleet.start_worker(index).await?;
        sleep(SECOND).await;
    }
    Ok(())
}

async fn roll_gateways(stage: &mut Stage, balancer: &Balancer, flags: Vec<String>) -> Result<()> {
    for old in 0..stage.scale.gateways {
        let new = stage.fleet.add_gateway(flags.clone()).await?;
        balancer.list(&stage.fleet.gateways[new].address);
        stage.fleet.gateways[old].program()?.signal("TERM").await?;
        sleep(ENDPOINT_LAG).await;
        balancer.unlist(&stage.fleet.gateways[old].address);
        let status = stage.fleet.gateway_ended(old).await?;
        if !status.success() {
            stage.findings.check(false, format!("a gateway ended with {status}"));
        }
    }
    Ok(())
}

/// Some answers that travel another way than small ones, all of which must come.
async fn ask_for_much(stage: &mut Stage, who: &str) -> Result<()> {
    const ASKED: usize = 10;
    let request = crawl::request(LARGE).into();
    let told = crawl::at_once(&stage.fleet, ASKED, &request).await?;
    let served = told.iter().filter(|status| **status == 200).count();
    stage.findings.check(served == ASKED, format!("{who}: {served} of {ASKED} large answers"));
    Ok(())
}
