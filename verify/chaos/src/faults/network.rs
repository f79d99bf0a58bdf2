//! Links that go dark, jitter, break or lead to the wrong Redis.

use std::time::Duration;

use anyhow::{Context, Result};
use batchfleet_testkit::{CuttingProxy, RedisServer, Weather};
use tokio::time::sleep;

use crate::{
    control::Control,
    findings::{Findings, time},
    fleet::Plan,
    seen::{Ending, Entry, Seen, latency, status, wait},
    stage::{BATCH, Scale, Stage, now},
};

const SECOND: Duration = Duration::from_secs(1);

fn linked(scale: Scale) -> Plan {
    Plan { links: true, ..scale.plan() }
}

/// F04
pub(crate) async fn worker_blackholed(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::start(scale, &linked(scale)).await?;
    let load = stage.load(scale.open()).await?;
    link(&stage.fleet.workers[0])?.stall();
    sleep(scale.lasts).await;
    link(&stage.fleet.workers[0])?.resume();
    sleep(3 * SECOND).await;
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    let baseline = stage.baseline(&seen);
    let stranded = seen.count(|entry| latency(entry) > baseline + 2 * SECOND);
    stage.findings.check(stranded <= u64::from(2 * BATCH), format!("stranded {stranded} (≤ 2N)"));
    stage.findings.within("max", seen.longest(), 8 * SECOND);
    stage.finish().await
}

/// F21: where a claim takes longer than a batch, N must be larger.
pub(crate) async fn bad_weather(scale: Scale) -> Result<Findings> {
    let mut plan = linked(scale);
    plan.worker_flags = ["--batch".to_owned(), "64".to_owned()].into();
    let mut stage = Stage::start(scale, &plan).await?;
    let load = stage.load(scale.open()).await?;
    let weather = Weather {
        delay: Duration::from_millis(100),
        stalled: 0.01,
        stall: Duration::from_millis(200),
        cuts_per_second: 0.01,
    };
    set_weather(&stage, Some(weather))?;
    sleep(scale.lasts).await;
    set_weather(&stage, None)?;
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    let offered = 0.7 * Scale::capacity(scale.workers);
    let throughput = 100.0 * seen.goodput(scale.warm_up..seen.lasted) / offered;
    stage.findings.at_least("throughput, % of offered", throughput, 70.0);
    stage.findings.note(format!("p99 {}, max {}", time(stage.p99(&seen)), time(seen.longest())));
    stage.finish().await
}

fn set_weather(stage: &Stage, weather: Option<Weather>) -> Result<()> {
    for member in stage.fleet.workers.iter().chain(&stage.fleet.gateways) {
        link(member)?.set_weather(weather);
    }
    Ok(())
}

fn link(member: &crate::fleet::Member) -> Result<&CuttingProxy> {
    member.link.as_ref().context("the plan has no links")
}

/// A replica of the fleet's Redis, and the way its news take.
struct Replica {
    redis: RedisServer,
    news: CuttingProxy,
}

impl Replica {
    async fn of(stage: &Stage) -> Result<Self> {
        let news = CuttingProxy::start(stage.fleet.redis.address()).await?;
        let redis = RedisServer::start().await;
        let port = news.address().port().to_string();
        Control::new(&redis.url()).ask::<()>(&["REPLICAOF", "127.0.0.1", &port]).await?;
        while Control::new(&redis.url()).info("master_link_status").await? != "up" {
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { redis, news })
    }

    /// Makes it the one Redis of the fleet; returns what was before.
    async fn promote(self, stage: &mut Stage) -> Result<RedisServer> {
        Control::new(&self.redis.url()).ask::<()>(&["REPLICAOF", "NO", "ONE"]).await?;
        Ok(std::mem::replace(&mut stage.fleet.redis, self.redis))
    }
}

/// F17
pub(crate) async fn failover(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::start(scale, &linked(scale)).await?;
    let replica = Replica::of(&stage).await?;
    let load = stage.load(scale.closed()).await?;
    replica.news.stall();
    sleep(SECOND).await;
    stage.fleet.redis.kill();
    let dead = now();
    sleep(2 * SECOND).await;
    drop(replica.promote(&mut stage).await?);
    for member in stage.fleet.workers.iter().chain(&stage.fleet.gateways) {
        link(member)?.redirect(stage.fleet.redis.address());
    }
    let took = now().duration_since(dead)?;
    sleep(8 * SECOND).await;
    let seen = stage.stop(load).await?;
    stage.all_right(&seen);
    stage.findings.note(format!("failover {}", time(took)));
    stage.findings.within("max", seen.longest(), took + 5 * SECOND);
    stage.finish().await
}

/// F18: the first gateway stays with the old primary, all others follow the new one.
pub(crate) async fn partition(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::start(scale, &linked(scale)).await?;
    let replica = Replica::of(&stage).await?;
    let old = stage.fleet.control();
    old.ask::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await?;
    old.ask::<()>(&["CONFIG", "SET", "min-replicas-max-lag", "5"]).await?;
    let targets = stage.fleet.targets();
    let isolated = scale.open_at(0.35).to(targets[..1].to_vec()).start(Vec::new())?;
    let others = stage.load(scale.open_at(0.35).to(targets[1..].to_vec())).await?;
    replica.news.refuse();
    let old_primary = replica.promote(&mut stage).await?;
    let new = stage.fleet.redis.address();
    for member in stage.fleet.workers.iter().chain(&stage.fleet.gateways[1..]) {
        link(member)?.redirect(new);
    }
    let cut = now();
    sleep(20 * SECOND).await;
    link(&stage.fleet.gateways[0])?.redirect(new);
    drop(old_primary);
    let healed = now();
    sleep(10 * SECOND).await;
    let isolated = stage.stop(isolated).await?;
    let others = stage.stop(others).await?;
    stage.all_right(&others);
    stage.findings.note(format!("the others' max {}", time(others.longest())));
    judge_isolated(&mut stage, &isolated, isolated.at(cut)..isolated.at(healed));
    stage.finish().await
}

fn judge_isolated(stage: &mut Stage, seen: &Seen, apart: std::ops::Range<Duration>) {
    let odd = |entry: &Entry| !matches!(status(entry), None | Some(503 | 504));
    stage.findings.none("isolated, neither 200, 503 nor 504:", seen.count(odd));
    let late = seen.count(|entry| wait(entry) > Duration::from_millis(30_250));
    stage.findings.none("isolated, after the deadline:", late);
    let during = seen.due_in(apart.clone()).filter(|e| e.ending != Ending::Right).count();
    stage.findings.note(format!("isolated, refused or expired {during}"));
    let normal = apart.end + 5 * SECOND;
    let after = seen.journal().iter().filter(|e| e.sent >= normal);
    let bad = after.filter(|e| e.ending != Ending::Right || wait(e) > SECOND).count();
    stage.findings.none("not normal 5 s after healing:", bad as u64);
}
