//! Where the next batch comes from: newly claimed jobs, alternating with quarantined jobs of dead
//! workers.

use std::{mem, sync::Arc, time::Duration};

use batchfleet_broker::{Claims, Consumer, Delivery, Release};
use tokio::time::{Instant, sleep};

use super::{held::HeldJobs, pace::BatchPace, screen::Screen};
use crate::{
    batch::Batch,
    drain::Drain,
    error::WorkerError,
    intake::{ClaimedJobs, Intake},
    metrics::ModelMetrics,
    plan::ServingPlan,
    rescue::Rescue,
    settle::Settler,
};

/// The broker's interfaces to the queue of a pipeline.
pub(crate) struct Jobs {
    /// Claims jobs.
    pub(crate) claims: Box<dyn Claims>,
    /// Settles jobs, hands jobs back, and reclaims the jobs of dead workers.
    pub(crate) consumer: Arc<dyn Consumer>,
}

/// Claims jobs and forms batches.
pub(super) struct BatchSource {
    plan: Arc<ServingPlan>,
    consumer: Arc<dyn Consumer>,
    metrics: ModelMetrics,
    drain: Drain,
    pace: BatchPace,
    intake: Intake,
    rescue: Rescue,
    screen: Screen,
    held: HeldJobs,
    /// Whether the last batch was quarantined; if so, other jobs are next.
    quarantined_ran: bool,
    /// Whether the last claim returned as many jobs as requested, so that more may wait.
    more_waits: bool,
}

impl BatchSource {
    /// Claims nothing before the first [`next_batch`](Self::next_batch).
    pub(super) fn new(
        plan: Arc<ServingPlan>,
        Jobs { claims, consumer }: Jobs,
        metrics: ModelMetrics,
        drain: Drain,
        pace: BatchPace,
    ) -> Self {
        Self {
            intake: Intake::start(claims, drain.clone()),
            rescue: Rescue::new(Arc::clone(&consumer)),
            screen: Screen::new(Arc::clone(&plan), Arc::clone(&consumer), metrics.clone()),
            held: HeldJobs::new(plan.layout()),
            quarantined_ran: false,
            more_waits: false,
            plan,
            consumer,
            metrics,
            drain,
            pace,
        }
    }

    /// Waits for jobs and takes a batch of them; `None` once the drain begins.
    pub(super) async fn next_batch(&mut self, settler: &mut Settler) -> Option<Batch> {
        loop {
            if self.drain.has_begun() {
                return None;
            }
            if !mem::take(&mut self.quarantined_ran)
                && let Some(batch) = self.next_quarantined(settler).await
            {
                self.quarantined_ran = true;
                return Some(batch);
            }
            let limit = self.limit();
            if self.held.is_empty() {
                self.intake.ask(limit);
                // Claim waiting jobs before looking for jobs of dead workers. If the claim ended
                // during a quarantined run that kills the worker, the claimed jobs would be
                // quarantined too.
                let patience = self.rescue.wait().max(self.pace.claim_patience());
                self.await_claim(patience, settler).await?;
            } else if self.held.rows() < limit
                && !(self.held.is_mixed() && self.held.oldest_is_next(self.pace.soon(limit)))
            {
                // Nothing is claimed if held jobs differ in shape and the oldest must run next:
                // claimed jobs would most likely wait for its batch, while another worker is free.
                self.top_up(limit, settler).await?;
            }
            let lingered = !self.plan.linger.is_zero() && self.linger(limit, settler).await?;
            let held = self.held.take_all();
            self.held.extend(self.screen.drop_expired(held, settler).await);
            let doomed = self.pace.doomed(&self.held);
            self.screen.refuse_doomed(&mut self.held, doomed, settler).await;
            let limit = self.pace.rows_now(&self.held);
            if let Some(mut batch) = self.held.take_batch(limit, self.pace.soon(limit)) {
                if lingered && batch.release == Release::Drained {
                    batch.release = Release::Linger;
                }
                return Some(batch);
            }
        }
    }

    /// Reclaims one job of a dead worker, if a search is due and the job may run.
    async fn next_quarantined(&mut self, settler: &mut Settler) -> Option<Batch> {
        while self.rescue.is_due() && !self.drain.has_begun() {
            let quarantined = self.rescue.next().await?;
            self.metrics.reclaimed.inc();
            let admitted = self.screen.admit(vec![quarantined], settler).await;
            let admitted = self.screen.drop_expired(admitted, settler).await;
            if !admitted.is_empty() {
                return Some(Batch::new(admitted, Release::Quarantined));
            }
        }
        None
    }

    /// Waits once for more jobs, if some are held but no full batch. Returns whether it waited.
    async fn linger(&mut self, limit: u32, settler: &mut Settler) -> Option<bool> {
        if self.held.is_empty() || self.held.rows() >= limit {
            return Some(false);
        }
        tokio::select! {
            () = sleep(self.plan.linger) => {}
            () = self.drain.begun() => return None,
        }
        self.top_up(limit, settler).await?;
        Some(true)
    }

    /// Claims the jobs that wait in the queue now, up to a full batch. Held jobs do not reduce the
    /// claim if some of them could not join the last batch.
    async fn top_up(&mut self, limit: u32, settler: &mut Settler) -> Option<()> {
        let held = if self.held.is_mixed() { 0 } else { self.held.rows() };
        self.intake.ask(limit.saturating_sub(held));
        self.await_claim(self.pace.claim_patience(), settler).await
    }

    /// Waits up to `patience` for the claim in flight. `None` once the drain begins.
    async fn await_claim(&mut self, patience: Duration, settler: &mut Settler) -> Option<()> {
        let claimed = tokio::select! {
            biased;
            claimed = self.intake.claimed() => claimed?,
            () = sleep(patience) => return Some(()),
            () = self.drain.begun() => return None,
        };
        let ClaimedJobs { deliveries, full } = claimed;
        self.more_waits = full;
        self.pace.claimed(&deliveries, full);
        self.held.extend(self.screen.admit(deliveries, settler).await);
        Some(())
    }

    /// Keeps the jobs of a part of a batch that may still run, and answers the others.
    pub(super) async fn drop_expired(
        &mut self,
        jobs: Vec<Delivery>,
        settler: &mut Settler,
    ) -> Vec<Delivery> {
        self.screen.drop_expired(jobs, settler).await
    }

    /// When to claim the next batch during a run of `batch`. `None` during a quarantined run, which
    /// may kill the worker while it holds the claimed jobs.
    pub(super) fn claim_ahead_at(&self, batch: &Batch, started: Instant) -> Option<Instant> {
        if !self.held.is_empty() || batch.release == Release::Quarantined {
            return None;
        }
        Some(started + self.pace.claim_ahead(batch.rows, self.more_waits)?)
    }

    /// Starts to claim the next batch, unless a quarantined job may be next.
    pub(super) fn claim_ahead(&mut self) {
        if !self.rescue.is_due() {
            let limit = self.limit();
            self.intake.ask(limit);
        }
    }

    /// Takes back jobs that did not run.
    pub(super) fn take_back(&mut self, jobs: impl IntoIterator<Item = Delivery>) {
        self.held.extend(jobs);
    }

    /// Hands back all jobs that have not run, and ends the claiming task.
    pub(super) async fn stop(self) -> Result<(), WorkerError> {
        let Self { consumer, metrics, drain, intake, mut held, .. } = self;
        // Held jobs first, without waiting for the claiming task: the drain timeout may be near.
        drain.hand_back(consumer.as_ref(), &metrics, held.take_all()).await;
        let last = intake.stop().await?;
        drain.hand_back(consumer.as_ref(), &metrics, last).await;
        Ok(())
    }

    /// Chooses N for the next batch; 1 for a model that does not batch.
    fn limit(&self) -> u32 {
        let limit = self.pace.limit();
        self.metrics.batch_limit.set(i64::from(limit));
        limit
    }
}
