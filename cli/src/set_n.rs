//! `batchfleet set-n`: publishes N for all workers of a model, and waits for each worker to adopt
//! it.

use std::{fmt::Write, process::ExitCode, time::Duration};

use anyhow::bail;
use batchfleet_broker::{
    Announcement, BatchWish, Observer, QueueName, Wish, sharded::WORKERS_PER_SHARD,
};
use batchfleet_service::{RedisSettings, settings::duration};
use clap::Args;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::tool::say;

/// How often announcements are read.
const POLL: Duration = Duration::from_millis(100);

/// Settings of `batchfleet set-n`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SetNSettings {
    /// The model
    model: String,

    /// N: a number of rows, `auto` (from measured batch times and the latency target), or `own`
    /// (the settings of each worker)
    #[arg(value_parser = batch_wish)]
    n: BatchWish,

    /// Version of the model [default: the newest with live workers]
    #[arg(long, value_name = "NUMBER")]
    version: Option<u64>,

    /// The latency target (p99) [default: each worker's own]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    slo_p99: Option<Duration>,

    /// The address of Redis.
    #[command(flatten)]
    redis: RedisSettings,

    /// How long to wait until all workers have adopted it
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    wait: Duration,
}

fn batch_wish(text: &str) -> Result<BatchWish, String> {
    match text {
        "own" => Ok(BatchWish::Own),
        "auto" => Ok(BatchWish::Auto),
        _ => match text.parse() {
            Ok(rows) if rows > 0 => Ok(BatchWish::Rows(rows)),
            _ => Err("expected auto, own or a number of rows from 1".to_owned()),
        },
    }
}

/// Publishes, waits and reports. Status 1 if a worker has not adopted the target in time.
pub(crate) async fn main(settings: &SetNSettings) -> anyhow::Result<ExitCode> {
    let connected = settings.redis.connect(&CancellationToken::new(), WORKERS_PER_SHARD).await?;
    let Some(broker) = connected else { return Ok(ExitCode::FAILURE) };
    let observer = broker.observer().await?;
    let known = observer.fleet().await?.workers;
    let live = known.iter().filter(|worker| worker.live);
    let queues = live.map(|worker| &worker.announcement.model.queue);
    let versions = queues.filter(|queue| queue.model == settings.model).map(|queue| queue.version);
    let version = settings.version.or_else(|| versions.max());
    let Some(version) = version else {
        bail!(
            "no live worker serves {:?}; use --version to publish for workers that start later",
            settings.model
        )
    };
    let queue = QueueName::new(&settings.model, version);
    let slo_ms = settings.slo_p99.map(|slo| slo.as_secs_f64() * 1e3);
    let wish = Wish { batch: settings.n, slo_ms };
    let epoch = broker.controller().await?.publish(&queue, wish).await?;
    let until = Instant::now() + settings.wait;
    loop {
        let workers = workers(observer.as_ref(), &queue).await?;
        let late = workers.iter().filter(|worker| adopted(worker) < epoch).count();
        if late == 0 || Instant::now() >= until {
            say(&report(&queue, &workers, epoch));
            return Ok(if late == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        sleep(POLL).await;
    }
}

/// The live workers of a queue.
async fn workers(observer: &dyn Observer, queue: &QueueName) -> anyhow::Result<Vec<Announcement>> {
    let workers = observer.fleet().await?.workers.into_iter();
    let serving = workers.filter(|worker| worker.serves(queue));
    Ok(serving.map(|worker| worker.announcement).collect())
}

/// The epoch of the batch target that a worker has adopted; 0 for none.
fn adopted(worker: &Announcement) -> u64 {
    worker.batching.as_ref().map_or(0, |batching| batching.epoch)
}

fn report(queue: &QueueName, workers: &[Announcement], epoch: u64) -> String {
    let mut text = format!("published for {queue}, epoch {epoch}\n");
    if workers.is_empty() {
        text.push_str("no live workers; workers that start later will adopt it\n");
    }
    for worker in workers {
        let Some(batching) = &worker.batching else { continue };
        let state = if batching.epoch >= epoch {
            format!("N = {} ({})", batching.n, batching.bound)
        } else {
            "not adopted yet".to_owned()
        };
        // Writing to a String cannot fail.
        writeln!(text, "{}  {state}", worker.worker).ok();
    }
    text
}
