//! Redis crashes, data loss, and closed connections.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::{
    findings::{Findings, time},
    fleet::ChaosPlan,
    journal::LoadJournal,
    trial::{Scale, Trial, now},
};

const SECOND: Duration = Duration::from_secs(1);

/// F14: Redis is killed repeatedly, and restarts from the append-only file.
pub(crate) async fn killed_with_aof(scale: Scale) -> Result<Findings> {
    let mut plan = scale.plan();
    plan.redis.options = ["--appendonly", "yes"].into();
    killed(Trial::start(scale, &plan).await?).await
}

/// F15: Redis is killed repeatedly, and restarts empty.
pub(crate) async fn killed_and_empty(scale: Scale) -> Result<Findings> {
    killed(Trial::usual(scale).await?).await
}

async fn killed(mut trial: Trial) -> Result<Findings> {
    let load = trial.load(trial.scale.closed()).await?;
    let mut returns = Vec::new();
    let times = (trial.scale.lasts.as_secs() / 10).clamp(1, 6);
    for _ in 0..times {
        trial.fleet.redises.first.kill();
        sleep(2 * SECOND).await;
        trial.fleet.redises.first.restart().await;
        returns.push(now());
        sleep(6 * SECOND).await;
    }
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    trial.findings.note(format!("{times} times"));
    resumed(&mut trial, &journal, &returns);
    let runs = trial.runs(&journal)?;
    // Each kill may repeat the requests in flight. The tolerance is 1 % of all runs.
    let most = trial.scale.clients * returns.len() + runs.count() / 100;
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 runs")]
    trial.findings.at_most("ran again", runs.repeated() as f64, most as f64);
    trial.findings.note(format!("max {}", time(journal.longest())));
    trial.finish().await
}

/// Records the promise that answers resumed within 3 s of each return of Redis.
fn resumed(trial: &mut Trial, journal: &LoadJournal, returns: &[SystemTime]) {
    let after = |moment: &SystemTime| journal.first_right_after(journal.at(*moment));
    let slowest = returns.iter().map(|moment| after(moment).unwrap_or(Duration::MAX)).max();
    trial.findings.within("answers again after", slowest.unwrap_or_default(), 3 * SECOND);
}

/// F16: FLUSHALL and the deletion of all request streams, alternately, every 5 s.
pub(crate) async fn emptied(scale: Scale) -> Result<Findings> {
    let scale = Scale { lasts: scale.lasts / 2, ..scale };
    let findings = emptied_with(scale, scale.plan()).await?;
    // Batches so short that a reply may arrive before Redis has confirmed the XADD to the gateway.
    let mut plan = scale.plan();
    plan.parameters = [("batch_ms", "0.05".to_owned())].into();
    Ok(findings.and(emptied_with(scale, plan).await?))
}

async fn emptied_with(scale: Scale, plan: ChaosPlan) -> Result<Findings> {
    let mut trial = Trial::start(scale, &plan).await?;
    let load = trial.load(scale.closed()).await?;
    let (until, mut times) = (trial.until(), 0);
    while Instant::now() < until {
        let control = trial.fleet.control();
        if times % 2 == 0 {
            control.ask::<()>(&["FLUSHALL"]).await?;
        } else {
            for stream in control.streams().await? {
                control.ask::<()>(&["DEL", &stream]).await?;
            }
        }
        times += 1;
        sleep(5 * SECOND).await;
    }
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    trial.findings.note(format!("{times} times"));
    trial.findings.within("max", journal.longest(), 9 * SECOND);
    trial.finish().await
}

/// F22: Redis closes the reply connections of all gateways every 500 ms.
pub(crate) async fn replies_cut(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let load = trial.load(scale.open()).await?;
    let (until, mut cuts) = (trial.until(), 0_u64);
    while Instant::now() < until {
        let kill = ["CLIENT", "KILL", "TYPE", "pubsub"];
        cuts += trial.fleet.control().ask::<u64>(&kill).await?;
        sleep(SECOND / 2).await;
    }
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    trial.findings.check(cuts > 0, format!("{cuts} cuts"));
    let (baseline, p99) = (trial.baseline(&journal), trial.p99(&journal));
    trial.findings.within("p99", p99, baseline + SECOND);
    trial.findings.note(format!("max {}", time(journal.longest())));
    trial.finish().await
}
