//! Fleets over several Redises.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    join,
    time::{sleep, timeout},
};

use super::upgrade::{ensure_different, roll_gateways, roll_workers};
use crate::{
    balancer::Balancer,
    findings::{Findings, time},
    fleet::ChaosPlan,
    journal::{is_right, latency, quantile},
    protocol::Protocol,
    redises::RedisPlan,
    trial::{POLL, Scale, Trial, now},
};

const SECOND: Duration = Duration::from_secs(1);
const REDISES: usize = 3;
/// A worker moves after another Redis has looked better for ten seconds.
const SPREAD_LIMIT: Duration = Duration::from_secs(30);
/// How long a killed Redis stays away.
const AWAY: Duration = Duration::from_secs(5);
/// How long it is back before the next one is killed.
const BACK: Duration = Duration::from_secs(5);
/// After this time, and the last pause between kills, all workers have returned to a Redis that was away.
const RETURNED: Duration = Duration::from_secs(10);
/// After this time a gateway knows that a Redis is gone, and sends new requests to the others.
const NOTICED: Duration = Duration::from_millis(100);
/// Two thirds of the workers may be missing for two seconds: those of the killed Redis, with those of one
/// that was killed before, who return ten seconds after it is back. The rest has capacity to spare.
pub(super) const LOAD: f64 = 0.15;

/// A fleet with enough workers that some live at each Redis.
pub(super) fn spread(scale: Scale, redis: RedisPlan) -> (Scale, ChaosPlan) {
    let scale = Scale { workers: 3 * REDISES, ..scale };
    let mut plan = ChaosPlan { redis, ..scale.plan() };
    plan.new_worker_flags = ["--workers-per-shard", "1"].map(str::to_owned).into();
    (scale, plan)
}

/// Waits until workers live at several Redises: those that start together begin at the first one, because
/// they do not know of each other.
pub(super) async fn until_spread(trial: &Trial) -> Result<()> {
    let spread = async {
        loop {
            let mut used = 0;
            for control in trial.fleet.redises.controls() {
                let live: Vec<String> = control.ask(&["KEYS", "bf:*{fleet}:live:*"]).await?;
                used += usize::from(!live.is_empty());
            }
            if used > 1 {
                return Ok(());
            }
            sleep(POLL).await;
        }
    };
    timeout(SPREAD_LIMIT, spread).await.context("all workers live at one Redis")?
}

/// F45: one of three Redises after the other is killed, and comes back empty.
pub(crate) async fn killed_in_turn(scale: Scale) -> Result<Findings> {
    kill_in_turn(scale, RedisPlan { independent: REDISES, ..RedisPlan::default() }).await
}

/// Kills one of three Redises after the other. Each comes back empty, or as the replica of the replica that
/// has taken over.
pub(super) async fn kill_in_turn(scale: Scale, redis: RedisPlan) -> Result<Findings> {
    let is_replicated = redis.cluster.is_some_and(|cluster| cluster.replicated);
    let (scale, plan) = spread(scale, redis);
    let mut trial = Trial::start(scale, &plan).await?;
    until_spread(&trial).await?;
    let load = trial.load(scale.open_at(LOAD)).await?;
    let (mut in_flight, mut outages) = (0, Vec::new());
    let times = (scale.lasts.as_secs() / (AWAY + BACK).as_secs()).clamp(1, 6);
    for victim in (0..REDISES).cycle().take(usize::try_from(times)?) {
        in_flight += trial.fleet.redises.controls()[victim].queues().await?.entries;
        trial.fleet.redises.kill(victim);
        let killed = now();
        sleep(AWAY).await;
        outages.push((killed, now()));
        let (restarted, ()) = join!(trial.fleet.redises.restart(victim), sleep(BACK));
        restarted?;
    }
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    trial.findings.note(format!("{times} times"));
    let runs = trial.runs(&journal)?;
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 runs")]
    let (repeated, most) = (runs.repeated() as f64, (in_flight + runs.count() as u64 / 100) as f64);
    trial.findings.at_most("ran again", repeated, most);
    let (baseline, p99) = (trial.baseline(&journal), trial.p99(&journal));
    trial.findings.within("p99", p99, baseline + SECOND);
    let windows = outages.iter().map(|(from, to)| journal.at(*from) + NOTICED..journal.at(*to));
    let others = windows.flat_map(|window| journal.due_in(window));
    let p99 = quantile(others.filter(|entry| is_right(entry)).map(latency), 0.99);
    trial.findings.as_fast_as("p99 at the others", p99, baseline.mul_f64(1.2));
    trial.findings.note(format!("max {}", time(journal.longest())));
    if is_replicated {
        // The workers of the last killed one left jobs, and remove them when they are back.
        sleep(RETURNED).await;
    }
    trial.finish().await
}

/// F46: all programs are restarted with three Redises instead of one, and then with one again. Where
/// there are programs of an older version, these have the single Redis, before and after.
pub(crate) async fn added_and_removed(scale: Scale, older: Option<PathBuf>) -> Result<Findings> {
    let older = older.filter(|_| scale.protocol == Protocol::Http);
    let older = older.as_deref();
    if let Some(older) = older {
        ensure_different(older)?;
    }
    let redis = RedisPlan { independent: REDISES, first_only: true, ..RedisPlan::default() };
    let (scale, mut plan) = spread(scale, redis);
    plan.programs = older.map(Path::to_owned);
    // One second longer than a balancer lists a gateway that shuts down.
    plan.gateway_flags = ["--lame-duck", "6s"].map(str::to_owned).into();
    let mut trial = Trial::start(scale, &plan).await?;
    let addresses = trial.fleet.gateways.iter().map(|gateway| gateway.load_address().to_owned());
    let balancer = Balancer::start(addresses.collect()).await?;
    let target = scale.protocol.url(balancer.address());
    let load = trial.load(scale.open_at(LOAD).to([target].into())).await?;
    trial.fleet.redises.in_use = REDISES;
    let flags = plan.gateway_flags;
    let first = roll_gateways(&mut trial, &balancer, (0, None), flags.clone()).await?;
    roll_workers(&mut trial, None).await?;
    sleep(2 * SECOND).await;
    let mut others = 0;
    for control in &trial.fleet.redises.controls()[1..] {
        others += control.streams().await?.len();
    }
    trial.findings.check(others > 0, format!("{others} queues at the other Redises"));
    trial.fleet.redises.in_use = 1;
    roll_workers(&mut trial, older).await?;
    roll_gateways(&mut trial, &balancer, (first, older), flags).await?;
    // They may hold jobs that workers handed back when they left: gateways sent these again.
    trial.fleet.redises.remove_others();
    sleep(2 * SECOND).await;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    trial.findings.none("refused connections", balancer.refused());
    let versions = if older.is_some() { "two versions" } else { "one version" };
    trial.findings.note(format!("{versions}; max {}", time(journal.longest())));
    trial.finish().await
}
