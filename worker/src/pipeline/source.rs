//! Where the next batch comes from: claims of new jobs, in turn with quarantined jobs of dead workers.

use std::{mem, sync::Arc, time::Duration};

use batchfleet_broker::{Claims, Consumer, Delivery, Release};
use tokio::time::{Instant, sleep};

use super::{held::HeldJobs, screen::Screen};
use crate::{
    batch::Batch,
    drain::Drain,
    error::WorkerError,
    intake::{ClaimedJobs, Intake},
    metrics::ModelMetrics,
    plan::ServingPlan,
    rescue::Rescue,
    settle::{RoundTrip, Settler},
    tuner::SharedTuner,
};

/// How long a batch that could leave waits at least for a claim that is to fill it.
pub(super) const TOP_UP: Duration = Duration::from_millis(2);
/// While a batch runs for less than this many round trips to the broker, the next is claimed at once.
const CLAIM_AHEAD_BELOW: u32 = 5;
/// How exact timers are.
const TICK: Duration = Duration::from_millis(1);

/// The queue of a pipeline.
pub(crate) struct Jobs {
    /// Claims jobs.
    pub(crate) claims: Box<dyn Claims>,
    /// Settles jobs, hands them back, and takes over those of dead workers.
    pub(crate) consumer: Arc<dyn Consumer>,
}

/// Claims jobs and makes batches of them.
pub(super) struct BatchSource {
    plan: Arc<ServingPlan>,
    consumer: Arc<dyn Consumer>,
    metrics: ModelMetrics,
    drain: Drain,
    tuner: SharedTuner,
    round_trip: RoundTrip,
    intake: Intake,
    rescue: Rescue,
    screen: Screen,
    held: HeldJobs,
    /// The last batch was quarantined: other jobs are next.
    quarantined_ran: bool,
    /// The last claim got all jobs that it asked for, so more may wait.
    more_waits: bool,
}

impl BatchSource {
    /// Claims nothing before the first [`next_batch`](Self::next_batch).
    pub(super) fn new(
        plan: Arc<ServingPlan>,
        Jobs { claims, consumer }: Jobs,
        metrics: ModelMetrics,
        drain: Drain,
        (tuner, round_trip): (SharedTuner, RoundTrip),
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
            tuner,
            round_trip,
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
                // Jobs that wait go before a look for jobs of dead workers: a claim that ends while
                // a quarantined job runs would expose the claimed jobs to its fate.
                let patience = self.rescue.wait().max(self.claim_patience());
                self.await_claim(patience, settler).await?;
            } else if self.held.rows() < limit
                && !(self.held.is_mixed() && self.held.oldest_is_next(self.soon(limit)))
            {
                // Otherwise the claimed jobs would most likely wait for the batch of the oldest job
                // held, while another worker is free.
                self.top_up(limit, settler).await?;
            }
            let lingered = !self.plan.linger.is_zero() && self.linger(limit, settler).await?;
            let held = self.held.take_all();
            self.held.extend(self.screen.drop_expired(held, settler).await);
            let doomed = self.doomed();
            self.screen.refuse_doomed(&mut self.held, doomed, settler).await;
            let limit = self.rows_now();
            if let Some(mut batch) = self.held.take_batch(limit, self.soon(limit)) {
                if lingered && batch.release == Release::Drained {
                    batch.release = Release::Linger;
                }
                return Some(batch);
            }
        }
    }

    /// Takes over one job of a dead worker, if a look is due and the job may run.
    async fn next_quarantined(&mut self, settler: &mut Settler) -> Option<Batch> {
        while self.rescue.is_due() && !self.drain.has_begun() {
            let quarantined = self.rescue.next().await?;
            self.metrics.reclaimed.inc();
            let admitted = self.screen.admit(vec![quarantined], settler).await;
            let admitted = self.screen.drop_expired(admitted, settler).await;
            if !admitted.is_empty() {
                return Some(Batch::new(admitted, Release::Suspect));
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

    /// Claims what waits at the broker right now, up to a full batch. Jobs that could not join the
    /// last batch do not make the next one smaller.
    async fn top_up(&mut self, limit: u32, settler: &mut Settler) -> Option<()> {
        let held = if self.held.is_mixed() { 0 } else { self.held.rows() };
        self.intake.ask(limit.saturating_sub(held));
        self.await_claim(self.claim_patience(), settler).await
    }

    /// Time for the broker to answer a claim, if it has jobs.
    fn claim_patience(&self) -> Duration {
        TOP_UP.max(self.round_trip.get() * 2)
    }

    /// Waits up to `patience` for the claim under way. `None` once the drain begins.
    async fn await_claim(&mut self, patience: Duration, settler: &mut Settler) -> Option<()> {
        let claimed = tokio::select! {
            biased;
            claimed = self.intake.claimed() => claimed?,
            () = sleep(patience) => return Some(()),
            () = self.drain.begun() => return None,
        };
        let ClaimedJobs { deliveries, full } = claimed;
        self.more_waits = full;
        self.tuner.lock().claimed(&deliveries, full);
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

    /// When to claim the next batch while `batch` runs: so that the jobs are here when the run ends,
    /// but hardly earlier, because another worker may be free before. `None` beside a quarantined
    /// job, which may take along whatever this worker holds.
    pub(super) fn claim_ahead_at(&self, batch: &Batch, started: Instant) -> Option<Instant> {
        if !self.held.is_empty() || batch.release == Release::Suspect {
            return None;
        }
        let run_takes = self.tuner.lock().expected(batch.rows);
        let round_trip = self.round_trip.get();
        if run_takes < round_trip * CLAIM_AHEAD_BELOW {
            return Some(started);
        }
        let early = round_trip * 2 + TICK;
        self.more_waits.then(|| started + run_takes.saturating_sub(early))
    }

    /// Begins to claim the next batch, unless a quarantined job may be next.
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

    /// N just now: 1 for a model that does not batch.
    fn limit(&mut self) -> u32 {
        let limit = self.tuner.lock().limit(self.round_trip.get());
        self.metrics.batch_limit.set(i64::from(limit));
        limit
    }

    /// A deadline until then leaves no time for other batches of `limit` rows before.
    fn soon(&self, limit: u32) -> Instant {
        Instant::now() + self.tuner.lock().expected(limit) * 2
    }

    /// How many of the oldest jobs held can no longer be in time.
    fn doomed(&self) -> usize {
        let now = Instant::now();
        let left = self.held.iter().map(|job| job.deadline.saturating_duration_since(now));
        self.tuner.lock().doomed(self.held.rows(), left)
    }

    /// How many rows of the jobs held to run now, at most N.
    fn rows_now(&self) -> u32 {
        let waits = self.held.iter().map(|job| job.waited + job.claimed_at.elapsed());
        let oldest = waits.max().unwrap_or_default();
        self.tuner.lock().take(self.held.rows(), oldest)
    }
}
