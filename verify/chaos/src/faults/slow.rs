//! Clients with large bodies, and clients that read or send slowly.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::{
    crawl::{self, Crowd, Probe},
    findings::{Findings, percent, time},
    journal::quantile,
    memory::MemoryWatch,
    trial::{Scale, Trial},
};

const SECOND: Duration = Duration::from_secs(1);
/// Memory limit of a gateway's container in the chart, in bytes.
const MEMORY_LIMIT: u64 = 1 << 30;

/// F13: many clients send 4 MiB at the same time.
pub(crate) async fn heavy_bodies(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let clients = 5 * scale.clients;
    let memory = MemoryWatch::watch(&trial.fleet).await?;
    let gateway = &trial.fleet.gateways[0];
    let lives = Probe::start(&gateway.admin, "/livez");
    let serves = Probe::start(&gateway.address, "/v2/health/live");
    let request: Arc<[u8]> = crawl::request(4 << 20).into();
    let mut statuses = BTreeMap::<u16, u64>::new();
    for status in crawl::at_once(&trial.fleet, clients, &request).await? {
        *statuses.entry(status).or_default() += 1;
    }
    let (lives, serves) = (lives.stop()?, serves.stop()?);
    trial.findings.note(format!("{clients} x 4 MiB: {statuses:?}"));
    let odd = statuses.iter().filter(|(status, _)| !matches!(status, 200 | 413 | 503));
    trial.findings.none("neither 200, 413 nor 503:", odd.map(|(_, count)| count).sum());
    memory.judge(&mut trial.findings, MEMORY_LIMIT).await?;
    for (path, waits) in [("/livez", lives), ("/v2/health/live", serves)] {
        let slowest = waits.iter().max().copied().unwrap_or_default();
        let p99 = quantile(waits.iter().copied(), 0.99);
        trial.findings.note(format!("{path} {} times, p99 {}", waits.len(), time(p99)));
        trial.findings.within(&format!("slowest {path}"), slowest, Duration::from_millis(100));
    }
    for metric in ["interruptions_total", "resubmissions_total"] {
        let count = trial.gateways(&format!("batchfleet_gateway_{metric}"), "").await?;
        trial.findings.note(format!("{metric} {count}"));
    }
    trial.finish().await
}

/// F23: many clients read their answer at 1 KiB/s.
pub(crate) async fn slow_readers(scale: Scale) -> Result<Findings> {
    const BYTES: usize = 128 << 10;
    let mut trial = Trial::usual(scale).await?;
    let memory = MemoryWatch::watch(&trial.fleet).await?;
    let load = trial.load(scale.open()).await?;
    let crowd = Crowd { clients: scale.clients, spread: scale.lasts / 2 };
    let until = Instant::now() + scale.lasts;
    let statuses = crawl::slow_readers(&trial.fleet, crowd, BYTES, until).await?;
    let journal = trial.stop(load).await?;
    let served = statuses.iter().filter(|status| **status == 200).count();
    trial.findings.note(format!("{served} of {} slow readers served", statuses.len()));
    trial.all_right(&journal);
    let (baseline, p99) = (trial.baseline(&journal), trial.p99(&journal));
    trial.findings.within("other requests' p99", p99, baseline.mul_f64(1.2));
    memory.judge(&mut trial.findings, MEMORY_LIMIT).await?;
    trial.finish().await
}

/// F24: many clients send their head or body at one byte per second.
pub(crate) async fn slow_senders(scale: Scale) -> Result<Findings> {
    let mut trial = Trial::usual(scale).await?;
    let memory = MemoryWatch::watch(&trial.fleet).await?;
    let load = trial.load(scale.open()).await?;
    let clients = 5 * scale.clients / 2;
    let request: Arc<[u8]> = crawl::request(4096).into();
    let head = request.windows(4).position(|end| end == b"\r\n\r\n").unwrap_or_default() + 4;
    let (heads, bodies) = tokio::join!(
        crawl::slow_senders(&trial.fleet, clients, &request, 1),
        crawl::slow_senders(&trial.fleet, clients, &request, head),
    );
    let (heads, bodies) = (heads?, bodies?);
    let journal = trial.stop(load).await?;
    let longest = |open: &[Duration]| open.iter().max().copied().unwrap_or_default();
    trial.findings.within("slow heads closed after", longest(&heads), 15 * SECOND);
    trial.findings.within("slow bodies closed after", longest(&bodies), 15 * SECOND);
    let good = percent(journal.report.right, journal.report.sent);
    trial.findings.at_least("other requests right, %", good, 99.9);
    memory.judge(&mut trial.findings, MEMORY_LIMIT).await?;
    sleep(SECOND).await;
    trial.finish().await
}
