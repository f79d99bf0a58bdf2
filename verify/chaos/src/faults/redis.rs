//! Redis dies, forgets, hangs up.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::{
    findings::{Findings, time},
    fleet::Plan,
    seen::Seen,
    stage::{Scale, Stage, now},
};

const SECOND: Duration = Duration::from_secs(1);

/// F14
pub(crate) async fn killed_with_aof(scale: Scale) -> Result<Findings> {
    let mut plan = scale.plan();
    plan.redis_options = ["--appendonly", "yes"].into();
    killed(Stage::start(scale, &plan).await?).await
}

/// F15
pub(crate) async fn killed_and_empty(scale: Scale) -> Result<Findings> {
    killed(Stage::usual(scale).await?).await
}

async fn killed(mut stage: Stage) -> Result<Findings> {
    let load = stage.load(stage.scale.closed()).await?;
    let mut returns = Vec::new();
    let times = (stage.scale.lasts.as_secs() / 10).clamp(1, 6);
    for _ in 0..times {
        stage.fleet.redis.kill();
        sleep(2 * SECOND).await;
        stage.fleet.redis.restart().await;
        returns.push(now());
        sleep(6 * SECOND).await;
    }
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    stage.findings.note(format!("{times} times"));
    resumed(&mut stage, &seen, &returns);
    let runs = stage.runs(&seen)?;
    let most = stage.scale.clients * returns.len() + runs.count() / 100;
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 runs")]
    stage.findings.at_most("ran again", runs.repeated() as f64, most as f64);
    stage.findings.note(format!("max {}", time(seen.longest())));
    stage.finish().await
}

/// Promises that answers came again within 3 s of each return.
fn resumed(stage: &mut Stage, seen: &Seen, returns: &[SystemTime]) {
    let after = |moment: &SystemTime| seen.first_right_after(seen.at(*moment));
    let slowest = returns.iter().map(|moment| after(moment).unwrap_or(Duration::MAX)).max();
    stage.findings.within("answers again after", slowest.unwrap_or_default(), 3 * SECOND);
}

/// F16
pub(crate) async fn emptied(scale: Scale) -> Result<Findings> {
    let scale = Scale { lasts: scale.lasts / 2, ..scale };
    let findings = emptied_with(scale, scale.plan()).await?;
    // So fast that an answer may come before the gateway knows that the request was queued.
    let mut plan = scale.plan();
    plan.parameters = [("batch_ms", "0.05".to_owned())].into();
    Ok(findings.and(emptied_with(scale, plan).await?))
}

async fn emptied_with(scale: Scale, plan: Plan) -> Result<Findings> {
    let mut stage = Stage::start(scale, &plan).await?;
    let load = stage.load(scale.closed()).await?;
    let (until, mut times) = (stage.until(), 0);
    while Instant::now() < until {
        let control = stage.fleet.control();
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
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    stage.findings.note(format!("{times} times"));
    stage.findings.within("max", seen.longest(), 9 * SECOND);
    stage.finish().await
}

/// F22
pub(crate) async fn replies_cut(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    let load = stage.load(scale.open()).await?;
    let (until, mut cuts) = (stage.until(), 0_u64);
    while Instant::now() < until {
        let kill = ["CLIENT", "KILL", "TYPE", "pubsub"];
        cuts += stage.fleet.control().ask::<u64>(&kill).await?;
        sleep(SECOND / 2).await;
    }
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    stage.findings.check(cuts > 0, format!("{cuts} cuts"));
    let (baseline, p99) = (stage.baseline(&seen), stage.p99(&seen));
    stage.findings.within("p99", p99, baseline + SECOND);
    stage.findings.note(format!("max {}", time(seen.longest())));
    stage.finish().await
}
