//! Clients whose bodies are heavy, or who crawl.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::{
    crawl::{self, Crowd, Probe},
    findings::{Findings, percent, time},
    memory::Memory,
    seen::quantile,
    stage::{Scale, Stage},
};

const SECOND: Duration = Duration::from_secs(1);
/// What a gateway's container may use, as our chart has it.
const MEMORY_LIMIT: u64 = 1 << 30;

/// F13
pub(crate) async fn heavy_bodies(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    let clients = 5 * scale.clients;
    let memory = Memory::watch(&stage.fleet).await?;
    let gateway = &stage.fleet.gateways[0];
    let lives = Probe::start(&gateway.admin, "/livez");
    let serves = Probe::start(&gateway.address, "/v2/health/live");
    let request: Arc<[u8]> = crawl::request(4 << 20).into();
    let mut told = BTreeMap::<u16, u64>::new();
    for status in crawl::at_once(&stage.fleet, clients, &request).await? {
        *told.entry(status).or_default() += 1;
    }
    let (lives, serves) = (lives.stop()?, serves.stop()?);
    stage.findings.note(format!("{clients} x 4 MiB: {told:?}"));
    let odd = told.iter().filter(|(status, _)| !matches!(status, 200 | 413 | 503));
    stage.findings.none("neither 200, 413 nor 503:", odd.map(|(_, count)| count).sum());
    memory.judge(&mut stage.findings, MEMORY_LIMIT).await?;
    for (path, waits) in [("/livez", lives), ("/v2/health/live", serves)] {
        let slowest = waits.iter().max().copied().unwrap_or_default();
        let p99 = quantile(waits.iter().copied(), 0.99);
        stage.findings.note(format!("{path} {} times, p99 {}", waits.len(), time(p99)));
        stage.findings.within(&format!("slowest {path}"), slowest, Duration::from_millis(100));
    }
    for metric in ["interruptions_total", "resubmissions_total"] {
        let count = stage.gateways(&format!("batchfleet_gateway_{metric}"), "").await?;
        stage.findings.note(format!("{metric} {count}"));
    }
    stage.finish().await
}

/// F23
pub(crate) async fn slow_readers(scale: Scale) -> Result<Findings> {
    const BYTES: usize = 128 << 10;
    let mut stage = Stage::usual(scale).await?;
    let memory = Memory::watch(&stage.fleet).await?;
    let load = stage.load(scale.open()).await?;
    let crowd = Crowd { clients: scale.clients, spread: scale.lasts / 2 };
    let until = Instant::now() + scale.lasts;
    let told = crawl::slow_readers(&stage.fleet, crowd, BYTES, until).await?;
    let seen = stage.stop(load).await?;
    let served = told.iter().filter(|status| **status == 200).count();
    stage.findings.note(format!("{served} of {} readers served", told.len()));
    stage.all_right(&seen);
    let (baseline, p99) = (stage.baseline(&seen), stage.p99(&seen));
    stage.findings.within("others' p99", p99, baseline.mul_f64(1.2));
    memory.judge(&mut stage.findings, MEMORY_LIMIT).await?;
    stage.finish().await
}

/// F24
pub(crate) async fn slow_senders(scale: Scale) -> Result<Findings> {
    let mut stage = Stage::usual(scale).await?;
    let memory = Memory::watch(&stage.fleet).await?;
    let load = stage.load(scale.open()).await?;
    let clients = 5 * scale.clients / 2;
    let request: Arc<[u8]> = crawl::request(4096).into();
    let head = request.windows(4).position(|end| end == b"\r\n\r\n").unwrap_or_default() + 4;
    let (heads, bodies) = tokio::join!(
        crawl::slow_senders(&stage.fleet, clients, &request, 1),
        crawl::slow_senders(&stage.fleet, clients, &request, head),
    );
    let (heads, bodies) = (heads?, bodies?);
    let seen = stage.stop(load).await?;
    let longest = |suffered: &[Duration]| suffered.iter().max().copied().unwrap_or_default();
    stage.findings.within("slow heads ended after", longest(&heads), 15 * SECOND);
    stage.findings.within("slow bodies ended after", longest(&bodies), 15 * SECOND);
    let good = percent(seen.report.right, seen.report.sent);
    stage.findings.at_least("others answered, %", good, 99.9);
    memory.judge(&mut stage.findings, MEMORY_LIMIT).await?;
    sleep(SECOND).await;
    stage.finish().await
}
