//! The drain of a worker: claiming stops, the running batch finishes, and jobs that cannot finish
//! in time are handed back.

use std::time::Duration;

use batchfleet_broker::{Consumer, Delivery};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    metrics::{JobOutcome, ModelMetrics},
    retry::Outage,
};

/// Time reserved for handing back jobs.
const LAST: Duration = Duration::from_secs(1);

/// When a worker begins to drain, and when it must end.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    begun: CancellationToken,
    over: CancellationToken,
}

impl Drain {
    /// A drain that begins when `shutdown` is cancelled and takes at most `timeout`. Spawns a task
    /// on the current runtime.
    pub(crate) fn new(shutdown: CancellationToken, timeout: Duration) -> Self {
        let over = CancellationToken::new();
        let drain = Self { begun: shutdown.clone(), over: over.clone() };
        let patience = timeout.saturating_sub(LAST).max(timeout / 2);
        tokio::spawn(async move {
            shutdown.cancelled().await;
            tokio::time::sleep(patience).await;
            over.cancel();
        });
        drain
    }

    /// Whether the drain has begun. After that, no batch may begin.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Waits until the drain begins.
    pub(crate) async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Waits until the drain timeout is over, except for the time reserved for handing back jobs.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Hands jobs back to the queue for other workers; retries until the drain is over.
    pub(crate) async fn hand_back(
        &self,
        consumer: &dyn Consumer,
        metrics: &ModelMetrics,
        held: Vec<Delivery>,
    ) {
        let jobs = held.len();
        if jobs == 0 {
            return;
        }
        let mut outage = Outage::new("hand back jobs");
        loop {
            match consumer.hand_back(copies(&held)).await {
                Ok(()) => {
                    metrics.jobs(JobOutcome::HandedBack).inc_by(jobs as u64);
                    return;
                }
                Err(error) => outage.failed(&error),
            }
            if self.over.is_cancelled() {
                warn!(jobs, "failed to hand back jobs: they wait to be reclaimed");
                return;
            }
            tokio::select! {
                () = outage.pause() => {}
                () = self.over() => {}
            }
        }
    }
}

/// Copies of the jobs for one attempt; the originals stay for a retry.
fn copies(held: &[Delivery]) -> Vec<Delivery> {
    let copy =
        |&Delivery { entry, ref job, deliveries, waited, claimed_at, deadline, awaited }: &Delivery| {
            let job = job.clone();
            Delivery { entry, job, deliveries, waited, claimed_at, deadline, awaited }
        };
    held.iter().map(copy).collect()
}
