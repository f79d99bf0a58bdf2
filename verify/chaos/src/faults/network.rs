//! Links to Redis that stall, jitter, break or lead to the wrong server.

use std::time::Duration;

use anyhow::{Context, Result};
use batchfleet_testkit::{CuttingProxy, RedisServer, Weather};
use tokio::time::sleep;

use crate::{
    control::Control,
    findings::{Findings, time},
    fleet::ChaosPlan,
    journal::{Ending, Entry, LoadJournal, latency, status, wait},
    trial::{BATCH, Scale, Trial, now},
};

const SECOND: Duration = Duration::from_secs(1);

fn linked(scale: Scale) -> ChaosPlan {
    ChaosPlan { links: true, ..scale.plan() }
}

/// F04: a worker's link to Redis forwards nothing, but stays open.
pub(crate) async fn worker_blackholed(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::start(scale, &linked(scale)).await?;
    let load = trial.load(scale.open()).await?;
    link(&trial.fleet.workers[0])?.stall();
    sleep(scale.lasts).await;
    link(&trial.fleet.workers[0])?.resume();
    sleep(3 * SECOND).await;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    let baseline = trial.baseline(&journal);
    let stranded = journal.count(|entry| latency(entry) > baseline + 2 * SECOND);
    trial.findings.check(stranded <= u64::from(2 * BATCH), format!("stranded {stranded} (≤ 2N)"));
    trial.findings.within("max", journal.longest(), 8 * SECOND);
    trial.finish().await
}

/// F21: links to Redis with random delays, stalls and cuts. N is larger than in other faults,
/// because a claim takes longer than a batch.
pub(crate) async fn bad_weather(scale: Scale) -> Result<Findings> {
    let mut plan = linked(scale);
    plan.worker_flags = ["--batch".to_owned(), "64".to_owned()].into();
    let mut trial = Trial::start(scale, &plan).await?;
    let load = trial.load(scale.open()).await?;
    let weather = Weather {
        delay: Duration::from_millis(100),
        stalled: 0.01,
        stall: Duration::from_millis(200),
        cuts_per_second: 0.01,
    };
    set_weather(&trial, Some(weather))?;
    sleep(scale.lasts).await;
    set_weather(&trial, None)?;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    let offered = 0.7 * Scale::capacity(scale.workers);
    let throughput = 100.0 * journal.goodput(scale.warm_up..journal.lasted) / offered;
    trial.findings.at_least("throughput, % of offered", throughput, 70.0);
    trial.findings.note(format!(
        "p99 {}, max {}",
        time(trial.p99(&journal)),
        time(journal.longest())
    ));
    trial.finish().await
}

fn set_weather(trial: &Trial, weather: Option<Weather>) -> Result<()> {
    for member in trial.fleet.workers.iter().chain(&trial.fleet.gateways) {
        link(member)?.set_weather(weather);
    }
    Ok(())
}

fn link(member: &crate::fleet::Member) -> Result<&CuttingProxy> {
    member.link.as_ref().context("the plan has no links")
}

/// A replica of the fleet's Redis.
struct Replica {
    redis: RedisServer,
    /// The proxy between the replica and its primary.
    upstream: CuttingProxy,
}

impl Replica {
    /// Starts the replica, and waits until the replica follows the primary.
    async fn of(trial: &Trial) -> Result<Self> {
        let upstream = CuttingProxy::start(trial.fleet.redises.first.address()).await?;
        let redis = RedisServer::start().await;
        let port = upstream.address().port().to_string();
        Control::new(&redis.url()).ask::<()>(&["REPLICAOF", "127.0.0.1", &port]).await?;
        while Control::new(&redis.url()).info("master_link_status").await? != "up" {
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { redis, upstream })
    }

    /// Promotes the replica to the fleet's Redis. Returns the former primary.
    async fn promote(self, trial: &mut Trial) -> Result<RedisServer> {
        Control::new(&self.redis.url()).ask::<()>(&["REPLICAOF", "NO", "ONE"]).await?;
        Ok(std::mem::replace(&mut trial.fleet.redises.first, self.redis))
    }
}

/// F17: a failover that loses the last second of writes.
pub(crate) async fn failover(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::start(scale, &linked(scale)).await?;
    let replica = Replica::of(&trial).await?;
    let load = trial.load(scale.closed()).await?;
    replica.upstream.stall();
    sleep(SECOND).await;
    trial.fleet.redises.first.kill();
    let dead = now();
    sleep(2 * SECOND).await;
    drop(replica.promote(&mut trial).await?);
    for member in trial.fleet.workers.iter().chain(&trial.fleet.gateways) {
        link(member)?.redirect(trial.fleet.redises.first.address());
    }
    let took = now().duration_since(dead)?;
    sleep(8 * SECOND).await;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    trial.findings.note(format!("failover {}", time(took)));
    trial.findings.within("max", journal.longest(), took + 5 * SECOND);
    trial.finish().await
}

/// F18: the first gateway stays connected to the old primary for 20 s; all other programs move to
/// the new primary.
pub(crate) async fn partition(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::start(scale, &linked(scale)).await?;
    let replica = Replica::of(&trial).await?;
    let old = trial.fleet.control();
    old.ask::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await?;
    old.ask::<()>(&["CONFIG", "SET", "min-replicas-max-lag", "5"]).await?;
    let targets = trial.fleet.targets();
    let isolated = scale.open_at(0.35).to(targets[..1].to_vec()).start(Vec::new())?;
    let others = trial.load(scale.open_at(0.35).to(targets[1..].to_vec())).await?;
    replica.upstream.refuse();
    let old_primary = replica.promote(&mut trial).await?;
    let new = trial.fleet.redises.first.address();
    for member in trial.fleet.workers.iter().chain(&trial.fleet.gateways[1..]) {
        link(member)?.redirect(new);
    }
    let cut = now();
    sleep(20 * SECOND).await;
    link(&trial.fleet.gateways[0])?.redirect(new);
    drop(old_primary);
    let healed = now();
    sleep(10 * SECOND).await;
    let isolated = trial.stop(isolated).await?;
    let others = trial.stop(others).await?;
    trial.all_right(&others);
    trial.findings.note(format!("max of the others {}", time(others.longest())));
    judge_isolated(&mut trial, &isolated, isolated.at(cut)..isolated.at(healed));
    trial.finish().await
}

fn judge_isolated(trial: &mut Trial, journal: &LoadJournal, apart: std::ops::Range<Duration>) {
    let odd = |entry: &Entry| !matches!(status(entry), None | Some(503 | 504));
    trial.findings.none("isolated, neither 200, 503 nor 504:", journal.count(odd));
    // The default deadline of 30 s, and a tolerance of 250 ms.
    let late = journal.count(|entry| wait(entry) > Duration::from_millis(30_250));
    trial.findings.none("isolated, after the deadline:", late);
    let during = journal.due_in(apart.clone()).filter(|e| e.ending != Ending::Right).count();
    trial.findings.note(format!("isolated, refused or expired {during}"));
    let normal = apart.end + 5 * SECOND;
    let after = journal.entries().iter().filter(|e| e.sent >= normal);
    let bad = after.filter(|e| e.ending != Ending::Right || wait(e) > SECOND).count();
    trial.findings.none("not normal 5 s after healing:", bad as u64);
}
