//! Where the next batch comes from: newly claimed jobs, alternating with quarantined jobs of dead
//! workers.

mod gather;

use std::{mem, sync::Arc};

use batchfleet_broker::{Claims, Consumer, EntryId, Release};
use batchfleet_policy::WaitingRows;
use tokio::{task::spawn_blocking, time::Instant};

use super::{
    claim::{ClaimAhead, Forming, LastClaim, Waiting},
    held::HeldJobs,
    pace::BatchPace,
    quarantine::Quarantine,
    screen::Screen,
    upcoming::Upcoming,
};
use crate::{
    batch::Batch,
    drain::Drain,
    error::WorkerError,
    fetch::Fetcher,
    intake::{ClaimedJobs, Intake},
    job::HeldJob,
    kept_buffers::KeptBuffers,
    limit::BatchLimit,
    metrics::ModelMetrics,
    plan::ServingPlan,
    rescue::{LastRenewal, Rescue},
    retry::Outage,
    settle::Settler,
};

/// The broker's interfaces to the queue of a pipeline.
pub(crate) struct Jobs {
    /// Claims jobs.
    pub(crate) claims: Box<dyn Claims>,
    /// Settles jobs, hands jobs back, and reclaims the jobs of dead workers.
    pub(crate) consumer: Arc<dyn Consumer>,
    /// Times the searches for jobs of dead workers.
    pub(crate) renewal: LastRenewal,
}

/// What to do next.
pub(super) enum Next {
    /// Run a batch.
    Batch(Batch),
    /// The queue was empty for a second, and no claim is in flight.
    Idle,
}

/// Claims jobs and forms batches.
pub(super) struct BatchSource {
    plan: Arc<ServingPlan>,
    consumer: Arc<dyn Consumer>,
    metrics: ModelMetrics,
    drain: Drain,
    pace: BatchPace,
    intake: Intake,
    screen: Screen,
    held: HeldJobs,
    quarantine: Quarantine,
    leases: Outage,
    last_claim: LastClaim,
    /// Memory of batches, which is returned when the queue is empty.
    buffers: KeptBuffers,
    /// Whether jobs were claimed since memory was last returned.
    has_claimed: bool,
}

impl BatchSource {
    /// Claims nothing before the first [`next`](Self::next).
    pub(super) fn new(
        plan: Arc<ServingPlan>,
        Jobs { claims, consumer, renewal }: Jobs,
        metrics: ModelMetrics,
        drain: Drain,
        pace: BatchPace,
    ) -> Self {
        let rescue = Rescue::new(Arc::clone(&consumer), renewal);
        let fetcher = Fetcher::new(metrics.clone());
        Self {
            intake: Intake::start(claims, fetcher.clone(), plan.lengths.clone(), drain.clone()),
            screen: Screen::new(Arc::clone(&plan), Arc::clone(&consumer), metrics.clone()),
            held: HeldJobs::new(plan.layout()),
            quarantine: Quarantine::new(rescue, fetcher, metrics.clone(), drain.clone()),
            leases: Outage::new("renew leases"),
            last_claim: LastClaim::Some,
            buffers: KeptBuffers::default(),
            has_claimed: false,
            plan,
            consumer,
            metrics,
            drain,
            pace,
        }
    }

    /// Returns the memory of `buffers` when the queue is empty.
    pub(super) fn releasing(self, buffers: KeptBuffers) -> Self {
        Self { buffers, ..self }
    }

    /// Waits for jobs and takes a batch of them; `None` once the drain begins. If the caller
    /// `wants_idle` time, also returns when the queue is empty.
    pub(super) async fn next(&mut self, settler: &mut Settler, wants_idle: bool) -> Option<Next> {
        loop {
            if self.last_claim == LastClaim::Empty {
                self.last_claim = LastClaim::Some;
                if wants_idle && self.held.is_empty() {
                    return Some(Next::Idle);
                }
            }
            if self.drain.has_begun() {
                return None;
            }
            let Self { quarantine, screen, pace, .. } = self;
            if let Some(batch) = quarantine.next(screen, pace, settler).await {
                return Some(Next::Batch(batch));
            }
            self.renew_leases().await;
            let limit = self.limit();
            if self.held.is_empty() {
                let full = self.pace.full(limit);
                self.intake.ask(full, full);
                self.await_first_claim(settler).await?;
            } else if self.needs_more(limit) {
                self.top_up(limit, settler).await?;
            }
            let lingered = self.linger(limit, settler).await?;
            if let Some(mut batch) = self.form(settler).await {
                if lingered && batch.release == Release::Drained {
                    batch.release = Release::Linger;
                }
                return Some(Next::Batch(batch));
            }
        }
    }

    /// Forms a batch of held jobs that may run.
    async fn form(&mut self, settler: &mut Settler) -> Option<Batch> {
        if self.pace.has_ended_batching() {
            for job in self.held.iter_mut() {
                job.run_whole();
            }
        }
        let held = self.held.take_all();
        self.held.extend(self.screen.drop_expired(held, settler).await);
        let doomed = self.pace.doomed(&self.held, self.pace.most());
        self.screen.refuse_doomed(self.held.take_at(&doomed), settler).await;
        let limit = self.pace.size_now(&self.held);
        let companions = |waiting: &[WaitingRows]| self.pace.companions(limit, waiting);
        self.held.take_batch(limit, self.pace.urgency(limit), companions)
    }

    /// Renews the leases of held jobs. A large job may be held for longer than a lease.
    async fn renew_leases(&mut self) {
        let due = self.held.iter().filter(|job| job.is_lease_due());
        let due: Vec<EntryId> = due.map(|job| job.delivery.entry).collect();
        if due.is_empty() {
            return;
        }
        match self.consumer.renew_leases(&due).await {
            Ok(()) => {
                self.leases.over();
                for job in self.held.iter_mut().filter(|job| job.is_lease_due()) {
                    job.lease_renewed();
                }
            }
            Err(error) => self.leases.failed(&error),
        }
    }

    /// Holds the jobs of a claim that may run.
    pub(super) async fn hold(&mut self, claimed: ClaimedJobs, settler: &mut Settler) {
        let lengths = &self.plan.lengths;
        let units = claimed.deliveries.iter().map(|delivery| lengths.units(&delivery.job)).sum();
        self.pace.claimed(&claimed, units);
        let ClaimedJobs { deliveries, full, idle, .. } = claimed;
        self.last_claim = match (full, idle) {
            (true, _) => LastClaim::Full,
            (false, true) => LastClaim::Empty,
            (false, false) => LastClaim::Some,
        };
        self.has_claimed |= !deliveries.is_empty();
        if idle && mem::take(&mut self.has_claimed) {
            self.buffers.release();
            drop(spawn_blocking(batchfleet_heap::release));
        }
        self.held.extend(self.screen.admit(deliveries, settler).await);
    }

    /// Keeps the jobs of a part of a batch that may still run, and answers the others.
    pub(super) async fn drop_expired(
        &mut self,
        jobs: Vec<HeldJob>,
        settler: &mut Settler,
    ) -> Vec<HeldJob> {
        self.screen.drop_expired(jobs, settler).await
    }

    /// When to claim and form the next batch during a run of `batch`. `None` during a quarantined
    /// run, which may kill the worker while it holds the claimed jobs.
    ///
    /// If jobs are held that can run next, the batch is formed among them and all that have come
    /// until just before the end of the run. While a large job has rows left, the claim gives other
    /// jobs their turn. The next batch is then formed after the run, because rows of the large job
    /// may fill it up.
    pub(super) fn claim_ahead_at(&self, batch: &Batch, began: Instant) -> Option<ClaimAhead> {
        let n = self.pace.n();
        if batch.release == Release::Quarantined || self.holds_many_large(n) {
            return None;
        }
        let has_large = self.held.large(n) > 0 || batch.jobs.iter().any(HeldJob::is_cut);
        let has_enough = self.holds_enough(n);
        if has_large && has_enough {
            return None;
        }
        let waiting = match self.last_claim {
            _ if has_large || self.held.is_mixed() => Waiting::Mixed,
            _ if !self.held.is_empty() => Waiting::Held,
            LastClaim::Full => Waiting::InQueue,
            LastClaim::Some | LastClaim::Empty => Waiting::Nothing,
        };
        // Requests of about the same length are found among many.
        let may_choose = self.plan.padding.is_none() || has_enough || waiting == Waiting::InQueue;
        self.pace.claim_ahead((batch.units, began), waiting, may_choose && !has_large)
    }

    /// Whether the held jobs fill a batch, together with those of a claim that has ended.
    pub(super) async fn fills_batch(&mut self, settler: &mut Settler) -> bool {
        if let Some(claimed) = self.intake.claimed_already() {
            self.hold(claimed, settler).await;
        }
        let n = self.pace.n();
        self.held.large(n) == 0 && f64::from(self.held.whole_units(n)) >= self.pace.full(n)
    }

    /// Starts a search for jobs of dead workers if one is due, so that its result is known before the
    /// next claim.
    pub(super) fn look_for_dead_workers(&mut self) {
        self.quarantine.may_be_next();
    }

    /// Whether a claim is in flight.
    pub(super) fn is_claiming(&self) -> bool {
        self.intake.is_claiming()
    }

    /// Whether enough whole jobs are held to run next. Jobs that were left out for their length do
    /// not fill the next batch.
    fn holds_enough(&self, n: BatchLimit) -> bool {
        let enough = if self.plan.padding.is_some() { self.window(n) } else { 1.0 };
        f64::from(self.held.whole_units(n)) >= enough
    }

    /// Starts to claim jobs for the next batch, unless enough are held or a quarantined job may be
    /// next. Returns whether a claim is in flight.
    pub(super) fn claim_ahead(&mut self) -> bool {
        let limit = self.limit();
        if !self.quarantine.may_be_next() {
            if self.held.is_empty() {
                self.intake.ask(self.window(limit), self.pace.full(limit));
            } else if self.needs_more(limit) {
                self.ask_to_top_up(limit);
            }
        }
        self.intake.is_claiming()
    }

    /// Starts to claim jobs to add to the `upcoming` batch until the current run ends. Returns
    /// whether a claim is in flight.
    ///
    /// The claim does not reach into the next run, during which another worker may be free. Nothing
    /// is claimed while jobs are held that could not be added.
    pub(super) fn claim_more(&mut self, upcoming: &Upcoming, forming: Forming) -> bool {
        let left = forming.until.saturating_duration_since(Instant::now());
        let limit = self.pace.n();
        let room = upcoming.waiting(|batch| limit.units - f64::from(batch.units)).unwrap_or(0.0);
        let has_others = self.held.whole_units(limit) > 0 || self.plan.padding.is_some();
        if room > 0.0
            && !has_others
            && self.pace.can_claim_within(left)
            && !self.quarantine.may_be_next()
        {
            self.intake.ask_within(room, limit.units, left);
        }
        self.intake.is_claiming()
    }

    /// Waits for the claim in flight; cancel-safe. `None` if the claiming task has ended.
    pub(super) async fn claimed(&mut self) -> Option<ClaimedJobs> {
        self.intake.claimed().await
    }

    /// Adds held jobs to the `upcoming` batch, or forms it during a run of `running` units. `None` if
    /// it was formed before, if nothing is held, if a quarantined job may be next, and if the engine
    /// will wait for more jobs.
    pub(super) async fn prepare(
        &mut self,
        running: u32,
        upcoming: Option<&Upcoming>,
        settler: &mut Settler,
    ) -> Option<Batch> {
        if let Some(upcoming) = upcoming {
            let limit = self.pace.n();
            upcoming.waiting(|batch| self.held.add_to(batch, limit));
            return None;
        }
        let limit = self.pace.n();
        let lingers = self.held.has_room(limit)
            && (!self.plan.linger.is_zero() || self.pace.awaits_follow_ups(running, &self.held));
        let is_quarantined = self.quarantine.may_be_next();
        if self.held.is_empty() || lingers || is_quarantined || self.drain.has_begun() {
            return None;
        }
        self.renew_leases().await;
        self.form(settler).await
    }

    /// Takes back jobs of the last batch that have not run, or have more rows to run.
    pub(super) fn take_back(&mut self, jobs: Vec<HeldJob>) {
        self.held.put_back(self.quarantine.take_back(jobs));
    }

    /// Hands back all jobs that have not run completely, and ends the claiming task.
    pub(super) async fn stop(self) -> Result<(), WorkerError> {
        let Self { consumer, metrics, drain, intake, mut held, quarantine, .. } = self;
        // Held jobs first, without waiting for the claiming task: the drain timeout may be near.
        let jobs = quarantine.into_job().into_iter().chain(held.take_all());
        let jobs = jobs.map(|job| job.delivery).collect();
        drain.hand_back(consumer.as_ref(), &metrics, jobs).await;
        consumer.end_wait();
        let last = intake.stop().await?;
        drain.hand_back(consumer.as_ref(), &metrics, last).await;
        Ok(())
    }

    /// Chooses N for the next batch; 1 for a model that does not batch.
    fn limit(&self) -> BatchLimit {
        let limit = self.pace.limit();
        self.metrics.batch_limit.set(i64::from(self.pace.usual_rows()));
        limit
    }
}
