//! The serving loop of one model: claim jobs, run a batch, settle the replies.
//!
//! Jobs are claimed when the engine is free and run immediately: an idle worker does not wait to
//! fill a batch, unless `linger` is set. During a run nothing is claimed, because another worker
//! may be free sooner. The exception is a claim just before the end of the run if more jobs seem to
//! wait, so that the engine does not idle for a round trip to the broker.
//!
//! A job with more rows than N runs in parts, which share batches with other jobs. Between two
//! parts the source holds the job, so that jobs that were claimed in the meantime run too.
//!
//! Jobs of dead workers are quarantined: reclaimed one by one and run alone, alternating with
//! batches.

mod attempt;
mod bisect;
mod held;
mod pace;
mod screen;
mod sentinel;
mod source;

use std::{pin::pin, sync::Arc};

use tokio::time::{Instant, sleep_until};
use tracing::warn;

pub(crate) use self::source::Jobs;
use self::{
    attempt::{Attempted, Runner},
    bisect::{BatchPart, Bisection},
    pace::BatchPace,
    source::{BatchSource, Next},
};
use crate::{
    batch::Batch, drain::Drain, engine::EngineHandle, error::WorkerError, fault::RunFault,
    metrics::ModelMetrics, plan::ServingPlan, settle::Settler, tuner::SharedTuner,
};

/// The loop of one model.
pub(crate) struct Pipeline {
    source: BatchSource,
    runner: Runner,
    settler: Settler,
    metrics: ModelMetrics,
    drain: Drain,
    tuner: SharedTuner,
}

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
        let settler = Settler::new(Arc::clone(&jobs.consumer), metrics.clone());
        let pace = BatchPace::new(tuner.clone(), settler.round_trip());
        let source = BatchSource::new(plan.clone(), jobs, metrics.clone(), drain.clone(), pace);
        let runner = Runner::new(plan, engine, metrics.clone(), tuner.clone());
        Self { source, runner, settler, metrics, drain, tuner }
    }

    /// The tuner, which chooses N.
    pub(crate) fn tuner(&self) -> SharedTuner {
        self.tuner.clone()
    }

    /// Serves until the drain begins; then answers the jobs that have run and hands back the
    /// others. After [`WorkerError::Device`] the pipeline does neither, because the device's
    /// outputs cannot be trusted.
    pub(crate) async fn run(mut self) -> Result<(), WorkerError> {
        let mut ended = Ok(());
        while let Some(next) = self.source.next(&mut self.settler, self.runner.has_sample()).await {
            ended = match next {
                Next::Batch(batch) => self.run_batch(batch).await,
                Next::Idle => self.runner.check_sample().await,
            };
            if ended.is_err() {
                break;
            }
        }
        if ended.as_ref().is_err_and(WorkerError::is_device) {
            return ended;
        }
        let stopped = self.source.stop().await;
        self.settler.finish().await;
        ended.and(stopped)
    }

    /// Runs a batch, in parts if it fails, until every job has a reply or goes back to the source
    /// with rows left.
    async fn run_batch(&mut self, batch: Batch) -> Result<(), WorkerError> {
        self.metrics.released(batch.release).inc();
        let mut bisection = Bisection::new(batch);
        while let Some(BatchPart { batch, is_first_half, is_guilty }) = bisection.next() {
            // Jobs may have expired during the previous part; expired jobs do not run.
            let jobs = self.source.drop_expired(batch.jobs, &mut self.settler).await;
            if jobs.is_empty() {
                continue;
            }
            let batch = Batch::new(jobs, batch.release);
            let attempted = match if is_guilty { batch.halves() } else { Err(batch) } {
                Ok(halves) => Ok(Attempted::Failed(halves, RunFault::Model)),
                Err(batch) => self.attempt(batch, bisection.is_done()).await,
            };
            match attempted {
                Ok(Attempted::Failed(halves, fault)) => {
                    self.metrics.bisections.inc();
                    bisection.failed(halves, fault);
                }
                Ok(Attempted::Ran { replies, unfinished }) => {
                    self.source.take_back(unfinished);
                    self.settler.settle(replies).await;
                    if is_first_half {
                        bisection.first_half_ran();
                    }
                }
                Ok(Attempted::TooLarge(job)) => self.source.take_back(vec![*job]),
                Ok(Attempted::GaveUp(reply)) => {
                    self.settler.settle(reply.into_iter().collect()).await;
                }
                Err(error) => {
                    self.source.take_back(bisection.into_jobs());
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Runs a batch once. Claims ahead during the run if the batch is the `last` part of the jobs
    /// that were claimed together.
    async fn attempt(&mut self, batch: Batch, last: bool) -> Result<Attempted, WorkerError> {
        let started = Instant::now();
        let mut claim_at = if last { self.source.claim_ahead_at(&batch, started) } else { None };
        let ran = {
            let mut running = pin!(self.runner.run(&batch));
            loop {
                tokio::select! {
                    biased;
                    () = self.drain.over() => break None,
                    ran = &mut running => break Some(ran?),
                    () = sleep_until(claim_at.unwrap_or(started)), if claim_at.is_some() => {
                        claim_at = None;
                        self.source.claim_ahead();
                    }
                }
            }
        };
        let Some(ran) = ran else {
            let jobs = batch.jobs.len();
            warn!(jobs, "drain timeout reached: handing back the running batch");
            self.source.take_back(batch.jobs);
            return Ok(Attempted::GaveUp(None));
        };
        self.runner.conclude(batch, ran)
    }
}

#[cfg(test)]
mod tests;
