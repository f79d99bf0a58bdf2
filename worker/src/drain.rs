//! How a worker ends: it stops claiming, finishes what runs, and gives back what it cannot finish
//! in the time it has.

use std::time::Duration;

use batchfleet_broker::{Consumer, Delivery};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    metrics::{JobOutcome, ModelMetrics},
    retry::Outage,
};

/// Time kept for giving back what is not finished.
const LAST: Duration = Duration::from_secs(1);

/// When a worker shall end, and when it must.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    begun: CancellationToken,
    over: CancellationToken,
}

impl Drain {
    /// Begins when `shutdown` is cancelled and may take `timeout` in all. Lives on a task of the
    /// current runtime.
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

    /// Whether nothing more shall be begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Waits until nothing more shall be begun.
    pub(crate) async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Waits until there is no time left but to give back what is not finished.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Gives jobs back for another worker; tries again while there is time.
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
        let mut outage = Outage::new("hand jobs back");
        loop {
            match consumer.hand_back(copies(&held)).await {
                Ok(()) => {
                    metrics.jobs(JobOutcome::HandedBack).inc_by(jobs as u64);
                    return;
                }
                Err(error) => outage.failed(&error),
            }
            if self.over.is_cancelled() {
                warn!(jobs, "jobs could not be handed back: they wait to be reclaimed");
                return;
            }
            tokio::select! {
                () = outage.pause() => {}
                () = self.over() => {}
            }
        }
    }
}

/// The deliveries once more: a try that fails keeps them.
fn copies(held: &[Delivery]) -> Vec<Delivery> {
    let copy =
        |&Delivery { entry, ref job, deliveries, waited, claimed_at, deadline, awaited }: &Delivery| {
            let job = job.clone();
            Delivery { entry, job, deliveries, waited, claimed_at, deadline, awaited }
        };
    held.iter().map(copy).collect()
}
