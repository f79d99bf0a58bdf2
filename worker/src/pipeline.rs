//! The serving loop of one model: claim jobs, run a batch, settle the replies.
//!
//! An idle worker runs jobs as soon as it claims them and does not wait to fill a batch, unless
//! `linger` is set, or requests are known to follow answers at once. During most of a run nothing is claimed, because another worker may be free
//! sooner. If more jobs wait, the next batch is claimed just before the expected end of the run and
//! handed to the engine, which begins it as soon as the run ends. Until then, more jobs are added. So
//! the engine waits neither for the broker nor for the replies of the previous batch.
//!
//! A job with more rows than N runs in parts, which share batches with other jobs. Between two
//! parts the source holds the job, so that jobs that were claimed in the meantime run too.
//!
//! Jobs of dead workers are quarantined: reclaimed one by one and run alone, alternating with
//! batches.

mod attempt;
mod bisect;
mod claim;
mod held;
mod joins;
mod pace;
mod quarantine;
mod screen;
mod sentinel;
mod source;
mod upcoming;

use std::{mem, sync::Arc};

use tokio::time::{Instant, sleep_until};
use tracing::warn;

pub(crate) use self::source::Jobs;
use self::{
    attempt::{Attempted, Runner},
    bisect::{BatchPart, Bisection},
    claim::{ClaimAhead, Forming},
    pace::BatchPace,
    source::{BatchSource, Next},
    upcoming::Upcoming,
};
use crate::{
    batch::Batch,
    drain::Drain,
    engine::{EngineHandle, FinishedRun},
    error::WorkerError,
    fault::RunFault,
    intake::ClaimedJobs,
    job::HeldJob,
    kept_buffers::KeptBuffers,
    metrics::ModelMetrics,
    plan::ServingPlan,
    settle::Settler,
    tuner::SharedTuner,
};

/// The loop of one model.
pub(crate) struct Pipeline {
    source: BatchSource,
    runner: Runner,
    settler: Settler,
    metrics: ModelMetrics,
    drain: Drain,
    tuner: SharedTuner,
    /// The batch that the engine runs next.
    upcoming: Option<Upcoming>,
    /// The parts of failed batches.
    parts: Bisection,
}

/// A batch that the engine runs.
struct Running {
    upcoming: Upcoming,
    /// Whether the batch is a part of a failed batch.
    is_part: bool,
    /// Whether it is the first half of a failed batch.
    is_first_half: bool,
}

/// The drain timeout is over.
struct DrainOver;

impl Pipeline {
    /// Sets up the loop. Claims begin with [`Pipeline::run`].
    pub(crate) fn new(
        plan: ServingPlan,
        engine: EngineHandle,
        jobs: Jobs,
        metrics: ModelMetrics,
        drain: Drain,
    ) -> Self {
        let plan = Arc::new(plan);
        let tuner = SharedTuner::new(plan.policy, plan.cost.clone(), plan.lengths.clone());
        tuner.lock().set_size_change(plan.size_change);
        let settler = Settler::new(Arc::clone(&jobs.consumer), metrics.clone());
        let buffers = KeptBuffers::default();
        let runner =
            Runner::new(plan.clone(), engine, metrics.clone(), tuner.clone(), buffers.clone());
        let pace = BatchPace::new(tuner.clone(), settler.round_trip(), runner.joins());
        let source =
            BatchSource::new(plan, jobs, metrics.clone(), drain.clone(), pace).releasing(buffers);
        let (upcoming, parts) = (None, Bisection::default());
        Self { source, runner, settler, metrics, drain, tuner, upcoming, parts }
    }

    /// The tuner, which chooses N.
    pub(crate) fn tuner(&self) -> SharedTuner {
        self.tuner.clone()
    }

    /// Serves until the drain begins; then answers the jobs that have run and hands back the
    /// others. After [`WorkerError::Device`] the pipeline does neither, because the device's
    /// outputs cannot be trusted.
    pub(crate) async fn run(mut self) -> Result<(), WorkerError> {
        let ended = self.serve().await;
        if ended.as_ref().is_err_and(WorkerError::is_device) {
            return ended;
        }
        self.cancel_upcoming();
        self.source.take_back(self.parts.into_jobs());
        let stopped = self.source.stop().await;
        self.settler.finish().await;
        ended.and(stopped)
    }

    async fn serve(&mut self) -> Result<(), WorkerError> {
        while let Some(running) = self.next().await? {
            self.finish(running).await?;
        }
        Ok(())
    }

    /// Hands the next batch, or the next part of a failed batch, to the engine. `None` once the drain
    /// begins and every failed batch has been tried in parts.
    async fn next(&mut self) -> Result<Option<Running>, WorkerError> {
        loop {
            if let Some(upcoming) = self.upcoming.take() {
                return Ok(Some(Running { upcoming, is_part: false, is_first_half: false }));
            }
            if let Some(part) = self.parts.next() {
                let Some(running) = self.next_part(part).await else { continue };
                return Ok(Some(running));
            }
            match self.source.next(&mut self.settler, self.runner.has_sample()).await {
                None => return Ok(None),
                Some(Next::Idle) => self.runner.check_sample().await?,
                Some(Next::Batch(batch)) => {
                    let upcoming = self.runner.offer(batch).await;
                    return Ok(Some(Running { upcoming, is_part: false, is_first_half: false }));
                }
            }
        }
    }

    /// Hands a part of a failed batch to the engine. `None` if nothing is left of the part, or if it
    /// is divided further without a run.
    async fn next_part(
        &mut self,
        BatchPart { batch, is_first_half, is_guilty }: BatchPart,
    ) -> Option<Running> {
        // Jobs may have expired during the previous part; expired jobs do not run.
        let jobs = self.source.drop_expired(batch.jobs, &mut self.settler).await;
        if jobs.is_empty() {
            return None;
        }
        let batch = Batch::new(jobs, batch.release);
        // Batching may have ended with the failure of another part.
        let runs_together = !is_guilty && !self.tuner.lock().has_ended_batching();
        match if runs_together { Err(batch) } else { batch.halves() } {
            Ok(halves) => {
                self.divide(halves, RunFault::Model);
                None
            }
            Err(batch) => {
                let upcoming = self.runner.offer(batch).await;
                Some(Running { upcoming, is_part: true, is_first_half })
            }
        }
    }

    /// Waits for the end of a run, and answers its jobs or keeps them for another run.
    async fn finish(&mut self, running: Running) -> Result<(), WorkerError> {
        let Running { upcoming, is_part, is_first_half } = running;
        match self.attempt(upcoming, is_part).await? {
            Attempted::Failed(halves, fault) => self.divide(halves, fault),
            Attempted::Ran { replies, unfinished } => {
                self.source.take_back(unfinished);
                self.settler.settle(replies).await;
                if is_first_half {
                    self.parts.first_half_ran();
                }
            }
            Attempted::Again(job) => self.source.take_back(vec![*job]),
            Attempted::GaveUp(reply) => self.settler.settle(reply.into_iter().collect()).await,
        }
        Ok(())
    }

    fn divide(&mut self, halves: [Batch; 2], fault: RunFault) {
        self.metrics.bisections.inc();
        self.parts.failed(halves, fault);
    }

    /// Waits for the end of a run, and concludes it.
    async fn attempt(
        &mut self,
        mut running: Upcoming,
        is_part: bool,
    ) -> Result<Attempted, WorkerError> {
        let Ok(run) = self.until_end(&mut running).await else { return Ok(self.give_up(running)) };
        let Some(mut begun) = running.into_begun() else { return Err(self.runner.gone()) };
        let expired = mem::take(&mut begun.expired);
        let spared = self.source.drop_expired(expired, &mut self.settler).await;
        self.source.take_back(spared);
        if !is_part {
            self.metrics.released(begun.batch.release).inc();
        }
        match run {
            Some(mut run) => {
                // The engine goes on once this is dropped.
                let pause = run.pause.take();
                if run.outputs.is_ok() {
                    self.prepare_full(&begun.batch).await;
                }
                let attempted = self.runner.conclude(begun, run);
                if pause.is_some() {
                    self.cancel_upcoming();
                }
                attempted
            }
            None if begun.batch.jobs.is_empty() => Ok(Attempted::GaveUp(None)),
            None => Err(self.runner.gone()),
        }
    }

    /// Waits for the end of a run. Meanwhile, prepares the next batch, unless a part of a failed
    /// batch is next. Returns `None` if the engine did not run the batch.
    async fn until_end(
        &mut self,
        running: &mut Upcoming,
    ) -> Result<Option<FinishedRun>, DrainOver> {
        let handed_over = Instant::now();
        self.source.look_for_dead_workers();
        let plan = |batch: &Batch, began: Option<Instant>| {
            self.source.claim_ahead_at(batch, began.unwrap_or(handed_over))
        };
        let mut claim = if self.parts.is_done() { running.look(plan).flatten() } else { None };
        let units = running.look(|batch, _| batch.units).unwrap_or_default();
        let (mut prepares, mut claiming) = (true, None);
        loop {
            let claim_at = claim.map_or(handed_over, |claim| claim.at);
            tokio::select! {
                biased;
                () = self.drain.over() => return Err(DrainOver),
                run = running.done() => return Ok(run),
                () = self.drain.begun(), if prepares => {
                    (prepares, claim, claiming) = (false, None, None);
                    self.cancel_upcoming();
                }
                () = sleep_until(claim_at), if claim.is_some() => {
                    // Otherwise the claimed jobs are taken after the run.
                    let forming = claim.take().and_then(|claim| claim.forming);
                    let is_claiming = match forming.zip(self.upcoming.as_ref()) {
                        Some((forming, upcoming)) => self.source.claim_more(upcoming, forming),
                        None => self.claim_ahead(units, forming).await,
                    };
                    claiming = forming.filter(|_| is_claiming);
                }
                claimed = self.source.claimed(), if claiming.is_some() => {
                    (claim, claiming) = self.claimed(units, claiming, claimed).await;
                }
            }
        }
    }

    /// Starts to claim jobs for the next batch during a run of `running` units. If the next batch is
    /// formed meanwhile, and no new claim is needed for it or jobs can be added later, prepares it.
    /// Returns whether a claim is in flight.
    async fn claim_ahead(&mut self, running: u32, forming: Option<Forming>) -> bool {
        // It would have found waiting jobs.
        let was_claiming = self.source.is_claiming();
        let is_claiming = self.source.claim_ahead();
        let is_early = |forming: Forming| Instant::now() < forming.tops_up_at;
        if forming.is_some_and(|forming| was_claiming || !is_claiming || is_early(forming)) {
            self.prepare(running).await;
        }
        is_claiming
    }

    /// Holds the jobs of a claim that was made during a run of `running` units, and prepares the next
    /// batch. Returns the plan of another claim to fill it up, or how it is formed if that claim is in
    /// flight.
    async fn claimed(
        &mut self,
        running: u32,
        forming: Option<Forming>,
        claimed: Option<ClaimedJobs>,
    ) -> (Option<ClaimAhead>, Option<Forming>) {
        let (Some(forming), Some(claimed)) = (forming, claimed) else { return (None, None) };
        let found_none = claimed.deliveries.is_empty();
        self.source.hold(claimed, &mut self.settler).await;
        self.prepare(running).await;
        let Some(upcoming) = &self.upcoming else {
            // The claim was to fill up an earlier batch and has timed out.
            let again = ClaimAhead { at: Instant::now(), forming: Some(forming) };
            return (found_none.then_some(again), None);
        };
        if Instant::now() < forming.tops_up_at {
            return (Some(ClaimAhead { at: forming.tops_up_at, forming: Some(forming) }), None);
        }
        let claims_more = self.source.claim_more(upcoming, forming);
        (None, claims_more.then_some(forming))
    }

    /// Adds held jobs to the batch that the engine runs next, or forms it, during a run of `running`
    /// units.
    async fn prepare(&mut self, running: u32) {
        let Self { source, upcoming, settler, .. } = self;
        let formed = source.prepare(running, upcoming.as_ref(), settler).await;
        if let Some(batch) = formed {
            self.upcoming = Some(self.runner.offer(batch).await);
        }
        if let Some(upcoming) = &mut self.upcoming {
            upcoming.join_ahead();
        }
    }

    /// Hands the next batch to the engine after a run, before the replies to `batch` are made, if none
    /// is prepared and the held jobs fill one. A smaller batch gets more jobs if it waits.
    async fn prepare_full(&mut self, batch: &Batch) {
        let has_rest = batch.jobs.iter().any(HeldJob::is_cut);
        if self.upcoming.is_none()
            && self.parts.is_done()
            && !has_rest
            && self.source.fills_batch(&mut self.settler).await
        {
            self.prepare(batch.units).await;
        }
    }

    /// Keeps the jobs of batches that have not ended at the drain timeout, to be handed back.
    fn give_up(&mut self, running: Upcoming) -> Attempted {
        let batches = [Some(running), self.upcoming.take()];
        let jobs: Vec<HeldJob> =
            batches.into_iter().flatten().flat_map(Upcoming::take_back).collect();
        warn!(jobs = jobs.len(), "drain timeout reached: handing back the running batch");
        self.source.take_back(jobs);
        Attempted::GaveUp(None)
    }

    /// Takes back the batch that the engine runs next, unless the engine has begun it.
    fn cancel_upcoming(&mut self) {
        if let Some(upcoming) = self.upcoming.take() {
            match upcoming.cancel() {
                Ok(jobs) => self.source.take_back(jobs),
                Err(begun) => self.upcoming = Some(begun),
            }
        }
    }
}

#[cfg(test)]
mod tests;
