//! Jobs of dead workers: reclaimed one by one, and run alone, alternating with other batches. A job
//! may have killed its worker, and must not take the jobs of others with it.

use std::mem;

use batchfleet_broker::Release;

use super::{pace::BatchPace, screen::Screen};
use crate::{
    batch::Batch, drain::Drain, fetch::Fetcher, job::HeldJob, metrics::ModelMetrics,
    rescue::Rescue, settle::Settler,
};

/// The jobs of dead workers.
pub(super) struct Quarantine {
    rescue: Rescue,
    fetcher: Fetcher,
    metrics: ModelMetrics,
    drain: Drain,
    /// The job that ran last, if rows of it are left; they are next.
    rest: Option<HeldJob>,
    /// Whether the last batch was quarantined; if so, other jobs are next.
    ran: bool,
}

impl Quarantine {
    /// Reclaims jobs through `rescue`.
    pub(super) fn new(
        rescue: Rescue,
        fetcher: Fetcher,
        metrics: ModelMetrics,
        drain: Drain,
    ) -> Self {
        Self { rescue, fetcher, metrics, drain, rest: None, ran: false }
    }

    /// Whether a job of a dead worker may be next. Starts a search for such jobs if one is due.
    pub(super) fn may_be_next(&mut self) -> bool {
        self.rescue.has_found()
    }

    /// Waits until a job of a dead worker may be next; cancel-safe.
    pub(super) async fn found(&mut self) {
        self.rescue.found().await;
    }

    /// The next part of the job that ran last. Otherwise, unless a quarantined job ran last, reclaims
    /// one job of a dead worker, if a search has found one and the job may run.
    pub(super) async fn next(
        &mut self,
        screen: &mut Screen,
        pace: &BatchPace,
        settler: &mut Settler,
    ) -> Option<Batch> {
        let rest: Vec<HeldJob> = self.rest.take().into_iter().collect();
        let rest = screen.drop_expired(rest, settler).await;
        if !rest.is_empty() {
            return Some(self.batch(rest, pace));
        }
        if mem::take(&mut self.ran) {
            return None;
        }
        while self.rescue.has_found() && !self.drain.has_begun() {
            let mut reclaimed = vec![self.rescue.next().await?];
            self.metrics.reclaimed.inc();
            self.fetcher.fetch(&mut reclaimed).await;
            let admitted = screen.admit(reclaimed, settler).await;
            let admitted = screen.drop_expired(admitted, settler).await;
            if !admitted.is_empty() {
                return Some(self.batch(admitted, pace));
            }
        }
        None
    }

    /// A batch of a single quarantined job, or of a part of the job. Its parts run one after the
    /// other, so that no other job is in a batch between them.
    fn batch(&mut self, mut job: Vec<HeldJob>, pace: &BatchPace) -> Batch {
        let (most, is_alone) = (pace.most(), pace.has_ended_batching());
        for job in &mut job {
            if is_alone {
                job.run_whole();
            }
            job.cut(most);
        }
        self.ran = true;
        Batch::new(job, Release::Quarantined)
    }

    /// Takes back the job if the last batch was quarantined, and returns other jobs.
    pub(super) fn take_back(&mut self, mut jobs: Vec<HeldJob>) -> Vec<HeldJob> {
        if self.ran
            && let Some(job) = jobs.pop()
        {
            self.rest = Some(job);
        }
        jobs
    }

    /// The job of which rows are left.
    pub(super) fn into_job(self) -> Option<HeldJob> {
        self.rest
    }
}
