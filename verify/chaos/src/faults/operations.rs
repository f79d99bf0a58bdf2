//! What operators and platforms do to a fleet: a new password, a log that nothing reads, a signal
//! that comes twice; and what is left behind in Redis.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use batchfleet_testkit::{LogReading, get};
use tokio::time::{Instant, sleep};

use crate::{
    control::Control,
    findings::{Findings, time},
    fleet::{ChaosPlan, Member, resident},
    trial::{POLL, Scale, Trial},
};

const SECOND: Duration = Duration::from_secs(1);
/// How long a condition may take to become true.
const LIMIT: Duration = Duration::from_secs(15);
/// The models that no program serves.
const GHOSTS: usize = 3000;
/// The memory that a gateway may keep after ghosts are gone, in bytes.
const KEPT: u64 = 32 << 20;
/// The hash of all announcements.
const ANNOUNCEMENTS: &str = "bf:{fleet}:workers";

/// F40: a new password of Redis, then the end of the old one. All connections are closed after each
/// step, so that every program has to authenticate.
pub(crate) async fn password_rotated(scale: Scale) -> Result<Findings> {
    let plan = ChaosPlan { url_file: true, ..scale.plan() };
    let mut trial = Trial::start(scale, &plan).await?;
    let control = trial.fleet.control();
    let set = async |rule: &str| {
        control.ask::<()>(&["ACL", "SETUSER", "fleet", "on", rule, "~*", "&*", "+@all"]).await
    };
    set(">old").await?;
    trial.fleet.write_url("fleet:old@")?;
    let load = trial.load(scale.closed()).await?;
    control.ask::<u64>(&["CLIENT", "KILL", "USER", "default"]).await?;
    sleep(SECOND).await;
    set(">new").await?;
    trial.fleet.write_url("fleet:new@")?;
    control.ask::<u64>(&["CLIENT", "KILL", "USER", "fleet"]).await?;
    sleep(SECOND).await;
    set("<old").await?;
    control.ask::<u64>(&["CLIENT", "KILL", "USER", "fleet"]).await?;
    sleep(2 * SECOND).await;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    let denied = trial.gateways("batchfleet_redis_denied_total", "").await?;
    trial.findings.at_most("denied", denied, 0.0);
    trial.findings.note(format!("max {}", time(journal.longest())));
    trial.finish().await
}

/// F41: Redis out of reach, first of one gateway, then of all.
pub(crate) async fn readiness(scale: Scale) -> Result<Findings> {
    let mut plan = ChaosPlan { links: true, ..scale.plan() };
    plan.gateway_flags.extend(["--unready-after".to_owned(), "2s".to_owned()]);
    let mut trial = Trial::start(scale, &plan).await?;
    // The gateways have to learn each other's addresses.
    sleep(3 * SECOND).await;
    trial.fleet.gateways[0].link.as_ref().context("no link")?.stall();
    let cut_off = becomes(&trial.fleet.gateways[0], 503, "but not of others").await?;
    trial.findings.within("cut off: unready after", cut_off, Duration::from_secs(12));
    let (others, _) = get(&trial.fleet.gateways[1].admin, "/readyz").await?;
    trial.findings.check(others == 200, format!("the other gateway {others}"));
    trial.fleet.gateways[0].link.as_ref().context("no link")?.resume();
    becomes(&trial.fleet.gateways[0], 200, "\"ready\":true}").await?;
    trial.fleet.redises.first.kill();
    for gateway in &trial.fleet.gateways {
        becomes(gateway, 200, "out of reach of every").await?;
    }
    sleep(2 * SECOND).await;
    for gateway in &trial.fleet.gateways {
        let (status, body) = get(&gateway.admin, "/readyz").await?;
        trial.findings.check(status == 200, format!("Redis lost: {status} {body}"));
    }
    trial.fleet.redises.first.restart().await;
    for gateway in &trial.fleet.gateways {
        becomes(gateway, 200, "\"ready\":true}").await?;
    }
    trial.finish().await
}

/// Waits until `/readyz` of a gateway answers with this status and text. Returns how long it took.
async fn becomes(gateway: &Member, status: u16, text: &str) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let (answered, body) = get(&gateway.admin, "/readyz").await?;
        if answered == status && body.contains(text) {
            return Ok(began.elapsed());
        }
        ensure!(began.elapsed() < LIMIT, "{answered} {body}, not {status} with {text:?}");
        sleep(POLL).await;
    }
}

/// F42: the log of one gateway and one worker is closed by its reader; that of the others is full.
pub(crate) async fn logs_unread(scale: Scale) -> Result<Findings> {
    let mut plan = scale.plan();
    for flags in [&mut plan.gateway_flags, &mut plan.worker_flags] {
        flags.extend(["--log".to_owned(), "trace".to_owned()]);
    }
    let mut trial = Trial::start(scale, &plan).await?;
    for members in [&trial.fleet.gateways, &trial.fleet.workers] {
        for (index, member) in members.iter().enumerate() {
            let reading = if index == 0 { LogReading::Closed } else { LogReading::Paused };
            member.program()?.read_log(reading);
        }
    }
    let load = trial.load(scale.closed()).await?;
    sleep(5 * SECOND).await;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    let lost = trial.gateways("batchfleet_log_lines_lost_total", "").await?;
    trial.findings.at_least("lines lost and counted", lost, 1.0);
    for member in trial.fleet.gateways.iter().chain(&trial.fleet.workers) {
        trial.findings.check(!member.is_gone(), "still running");
    }
    trial.finish().await
}

/// F43: announcements of models that no worker serves, under load, and their end.
pub(crate) async fn ghosts(scale: Scale) -> Result<Findings> {
    let mut plan = scale.plan();
    plan.gateway_flags.extend(["--forget-after".to_owned(), "2s".to_owned()]);
    let mut trial = Trial::start(scale, &plan).await?;
    let load = trial.load(scale.closed()).await?;
    let before = Cost::of(&trial.fleet.gateways[0]).await?;
    trial.findings.note(format!("before {before}"));
    let first = wave_of_ghosts(&mut trial, before).await?;
    let second = wave_of_ghosts(&mut trial, before).await?;
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    let kept = second.memory.saturating_sub(before.memory) >> 20;
    trial.findings.check(kept <= KEPT >> 20, format!("{kept} MiB kept (≤ {})", KEPT >> 20));
    let grown = second.memory.saturating_sub(first.memory) >> 20;
    trial.findings.check(grown <= 16, format!("{grown} MiB more after the second wave (≤ 16)"));
    trial.finish().await
}

/// Announces models that nothing serves, removes the announcements, and waits until their metrics
/// and memory are gone. Returns the cost after that.
async fn wave_of_ghosts(trial: &mut Trial, before: Cost) -> Result<Cost> {
    let control = trial.fleet.control();
    let names = announce_ghosts(&control).await?;
    sleep(3 * SECOND).await;
    let with = Cost::of(&trial.fleet.gateways[0]).await?;
    let mut forget = redis::cmd("HDEL");
    forget.arg(ANNOUNCEMENTS).arg(&names);
    forget.exec_async(&mut control.connection().await?).await?;
    let (began, limit) = (Instant::now(), before.page + before.page / 10);
    let mut after = with;
    let is_back = |cost: Cost| cost.page <= limit && cost.memory <= before.memory + KEPT;
    while !is_back(after) && began.elapsed() < LIMIT {
        sleep(5 * POLL).await;
        after = Cost::of(&trial.fleet.gateways[0]).await?;
    }
    trial.findings.check(is_back(after), format!("with ghosts {with}, after {after}"));
    Ok(after)
}

/// What a gateway's knowledge costs.
#[derive(Clone, Copy)]
struct Cost {
    /// Bytes of `/metrics`.
    page: usize,
    /// Resident bytes.
    memory: u64,
}

impl Display for Cost {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB of metrics and {} MiB", self.page >> 10, self.memory >> 20)
    }
}

impl Cost {
    async fn of(gateway: &Member) -> Result<Self> {
        let (_, page) = get(&gateway.admin, "/metrics").await?;
        let memory = gateway.id().and_then(resident).context("no memory")?;
        Ok(Self { page: page.len(), memory })
    }
}

/// Copies the announcement of a real worker under the names of other models. Returns the names of
/// their workers.
async fn announce_ghosts(control: &Control) -> Result<Vec<String>> {
    let announced: Vec<String> = control.ask(&["HVALS", ANNOUNCEMENTS]).await?;
    let real = announced.first().context("no worker is announced")?;
    let mut set = redis::cmd("HSET");
    set.arg(ANNOUNCEMENTS);
    let mut names = Vec::with_capacity(GHOSTS);
    for number in 0..GHOSTS {
        let mut ghost: serde_json::Value = serde_json::from_str(real)?;
        let name = format!("{number:032x}");
        ghost["worker"] = name.as_str().into();
        ghost["model"]["queue"]["model"] = format!("ghost-{number}").into();
        set.arg(&name).arg(ghost.to_string());
        names.push(name);
    }
    set.exec_async(&mut control.connection().await?).await?;
    Ok(names)
}

/// F44: SIGTERM twice, as coreutils' `timeout` sends it, to each program in turn.
pub(crate) async fn terminated_twice(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let load = trial.load(scale.open()).await?;
    for (index, apart) in [0, 5, 50, 300].into_iter().enumerate() {
        let index = index % trial.fleet.workers.len();
        let worker = trial.fleet.workers[index].program()?;
        worker.signal("TERM").await?;
        sleep(Duration::from_millis(apart)).await;
        // The worker may have drained by then.
        worker.signal("TERM").await.ok();
        let status = trial.fleet.worker_ended(index).await?;
        trial.findings.check(status.success(), format!("{apart} ms apart: {status}"));
        trial.fleet.start_worker(index).await?;
    }
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    trial.findings.none("ran twice:", trial.runs(&journal)?.repeated() as u64);
    trial.finish().await
}
