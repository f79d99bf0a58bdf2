//! Clients without a key that try to use up the memory, the connections or the open files of the
//! gateways.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use batchfleet_testkit::Program;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    crawl::{self, Crowd, Probe},
    findings::{Findings, percent},
    fleet::resident,
    journal::quantile,
    memory::MemoryWatch,
    trial::{POLL, Scale, Trial},
};

const SECOND: Duration = Duration::from_secs(1);
/// Memory limit of a gateway's container in the chart, in bytes.
const MEMORY_LIMIT: u64 = 1 << 30;
/// How much larger a gateway may be after an attack, in bytes.
const LASTING: u64 = 48 << 20;
/// How long an attack holds its connections.
const ATTACK: Duration = Duration::from_secs(4);
/// How soon after the end of the attacks their memory must be free again.
const BACK: Duration = Duration::from_secs(10);
/// A request that needs no key.
const GET: &[u8] = b"GET /v2/health/live HTTP/1.1\r\nhost: echo\r\n\r\n";
/// Open files of a gateway in F39.
const OPEN_FILES: usize = 300;

/// F37: clients send pipelined requests without reading the answers, large heads without an end
/// after a first request, and heads of many small headers.
pub(crate) async fn memory(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let clients = 6 * scale.clients;
    let unread = b"GET /openapi.json HTTP/1.1\r\nhost: echo\r\n\r\n".repeat(1500);
    let large = [GET, &GET[..GET.len() - 2], b"a: ", &vec![b'a'; 125_000]].concat();
    let small = [&GET[..GET.len() - 2], &b"a:\r\n".repeat(94)].concat();
    let load = trial.load(scale.open()).await?;
    let before: Vec<_> = sizes(&trial).collect();
    let memory = MemoryWatch::watch(&trial.fleet).await?;
    for attack in [unread, large, small] {
        let until = Instant::now() + ATTACK;
        crawl::hold(&trial.fleet, Crowd::at_once(clients), &attack.into(), until).await?;
    }
    let ended = Instant::now();
    let journal = trial.stop(load).await?;
    let grown = || sizes(&trial).zip(&before).map(|(now, before)| now.saturating_sub(*before));
    while grown().max().unwrap_or_default() > LASTING && ended.elapsed() < BACK {
        sleep(POLL).await;
    }
    let (largest, took) = (grown().max().unwrap_or_default() >> 20, ended.elapsed());
    trial
        .findings
        .check(largest <= LASTING >> 20, format!("{largest} MiB larger {took:.1?} after"));
    memory.judge(&mut trial.findings, MEMORY_LIMIT).await?;
    let good = percent(journal.report.right, journal.report.sent);
    trial.findings.at_least("other requests right, %", good, 99.9);
    trial.finish().await
}

/// The resident memory of each gateway, in bytes.
fn sizes(trial: &Trial) -> impl Iterator<Item = u64> {
    trial.fleet.gateways.iter().filter_map(|gateway| resident(gateway.id()?))
}

/// F38: clients finish a request, then send the head of a second one at one byte per second.
pub(crate) async fn slow_later_heads(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let load = trial.load(scale.open()).await?;
    let requests: Arc<[u8]> = [GET, GET].concat().into();
    let clients = 5 * scale.clients;
    let open = crawl::slow_senders(&trial.fleet, clients, &requests, GET.len() + 1).await?;
    let journal = trial.stop(load).await?;
    let longest = open.iter().max().copied().unwrap_or_default();
    trial.findings.within("connections closed after", longest, 15 * SECOND);
    let timeouts =
        trial.gateways("batchfleet_gateway_connections_closed_total", "\"head_timeout\"").await?;
    trial.findings.check(timeouts > 0.0, format!("{timeouts} heads timed out"));
    let good = percent(journal.report.right, journal.report.sent);
    trial.findings.at_least("other requests right, %", good, 99.9);
    trial.finish().await
}

/// F39: clients hold more connections than a gateway may open files, some without a request, some
/// with a slow head.
pub(crate) async fn open_files(scale: Scale) -> Result<Findings> {
    let folder = TempDir::new()?;
    limit_open_files(folder.path())?;
    let mut plan = scale.plan();
    plan.programs = Some(folder.path().to_owned());
    // All clients of this machine have the same address.
    plan.gateway_flags = ["--max-connections-per-address".to_owned(), "0".to_owned()].into();
    let mut trial = Trial::start(scale, &plan).await?;
    let gateway = &trial.fleet.gateways[0];
    let probes = [
        ("/livez", Probe::start(&gateway.admin, "/livez")),
        ("/v2/health/live", Probe::start(&gateway.address, "/v2/health/live")),
    ];
    let until = Instant::now() + 2 * ATTACK;
    let crowd = Crowd { clients: 2 * OPEN_FILES * trial.fleet.gateways.len(), spread: SECOND };
    let (unused, begun) = (Arc::from(GET), Arc::from(&GET[..GET.len() / 2]));
    let (held, held_too) = tokio::join!(
        crawl::hold(&trial.fleet, crowd, &unused, until),
        crawl::hold(&trial.fleet, crowd, &begun, until),
    );
    held.and(held_too)?;
    for (path, probe) in probes {
        let waits = probe.stop()?;
        let slowest = waits.iter().max().copied().unwrap_or_default();
        let p99 = quantile(waits.iter().copied(), 0.99);
        trial.findings.note(format!("{path} {} times, p99 {p99:.1?}", waits.len()));
        trial.findings.within(&format!("slowest {path}"), slowest, 3 * SECOND);
    }
    let crowded =
        trial.gateways("batchfleet_gateway_connections_closed_total", "\"crowded\"").await?;
    trial.findings.check(crowded > 0.0, format!("{crowded} connections made room"));
    let log = trial.fleet.gateways[0].program()?.log();
    let accepting = log.iter().filter(|line| line.to_string().contains("accepting connection"));
    let lines = accepting.count() as u64;
    trial.findings.none("lines about accepting connections:", lines);
    trial.finish().await
}

/// Fills `folder` with the programs of this build, of which gateways may open few files.
fn limit_open_files(folder: &Path) -> Result<()> {
    let gateway = Program::path("batchfleet-gateway")?;
    let gateway = gateway.to_str().context("an odd path of the programs")?;
    let script = folder.join("batchfleet-gateway");
    let limited = format!("#!/bin/sh\nulimit -n {OPEN_FILES}\nexec '{gateway}' \"$@\"\n");
    fs::write(&script, limited)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    symlink(Program::path("batchfleet-worker")?, folder.join("batchfleet-worker"))?;
    Ok(())
}
