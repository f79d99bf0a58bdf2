//! One run of a batch: hands it to the engine, reports the result to the tuner, makes the replies.

use std::sync::Arc;

use batchfleet_broker::{Failure, Job, Release, Tensor, Timing};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    joins::JoinTimes,
    sentinel::Sentinel,
    upcoming::{Begun, Preparation, Upcoming},
};
use crate::{
    batch::Batch,
    classes::classify,
    engine::{EngineError, EngineHandle, EngineRun, FinishedRun},
    error::WorkerError,
    fault::{self, RunFault},
    job::{HeldJob, Progress},
    kept_buffers::KeptBuffers,
    metrics::ModelMetrics,
    plan::ServingPlan,
    settle::JobReply,
    trace,
    tuner::SharedTuner,
};

/// Runs batches on the model's engine.
pub(super) struct Runner {
    plan: Arc<ServingPlan>,
    preparation: Preparation,
    engine: EngineHandle,
    metrics: ModelMetrics,
    tuner: SharedTuner,
    sentinel: Sentinel,
    /// When the last run ended.
    ended: Option<Instant>,
}

/// The outcome of an attempt.
pub(super) enum Attempted {
    /// The batch succeeded.
    Ran {
        /// The replies to jobs whose last rows have run.
        replies: Vec<JobReply>,
        /// Jobs with more rows to run.
        unfinished: Vec<HeldJob>,
    },
    /// The batch failed, but its halves may succeed.
    Failed([Batch; 2], RunFault),
    /// A single job runs again: in smaller parts because memory ran out, or whole because its
    /// outputs do not hold its rows.
    Again(Box<HeldJob>),
    /// The batch does not run again. Holds the reply to its single, failed job, or nothing if the
    /// jobs are handed back.
    GaveUp(Option<JobReply>),
}

impl Runner {
    /// A runner on `engine`.
    pub(super) fn new(
        plan: Arc<ServingPlan>,
        engine: EngineHandle,
        metrics: ModelMetrics,
        tuner: SharedTuner,
        buffers: KeptBuffers,
    ) -> Self {
        let sentinel = Sentinel::new(Arc::clone(&plan), metrics.clone(), tuner.clone());
        let joins = JoinTimes::default();
        let preparation =
            Preparation { layout: plan.layout(), buffers, joins, tuner: tuner.clone() };
        Self { plan, preparation, engine, metrics, tuner, sentinel, ended: None }
    }

    /// Whether an answered request is kept for a check.
    pub(super) fn has_sample(&self) -> bool {
        self.sentinel.has_sample()
    }

    /// Runs the kept request alone and compares the outputs. Fails if the device is lost.
    pub(super) async fn check_sample(&mut self) -> Result<(), WorkerError> {
        self.sentinel.check(&self.engine).await
    }

    /// How long joins ahead take, shared with the caller.
    pub(super) fn joins(&self) -> JoinTimes {
        self.preparation.joins.clone()
    }

    /// Hands a batch to the engine.
    pub(super) async fn offer(&self, batch: Batch) -> Upcoming {
        Upcoming::offer(batch, &self.engine, self.preparation.clone()).await
    }

    /// The error if the engine has ended instead of running a batch. The jobs may be the cause, so
    /// they are left to be reclaimed and run alone.
    pub(super) fn gone(&self) -> WorkerError {
        WorkerError::EngineGone(self.plan.spec.queue.clone())
    }

    /// Records a run and makes the replies. Fails if the device is lost.
    pub(super) fn conclude(
        &mut self,
        begun: Begun,
        run: FinishedRun,
    ) -> Result<Attempted, WorkerError> {
        let Begun { batch, padding, .. } = begun;
        let run = run.split();
        // A wait for the turn on a shared device is a wait for the batch.
        let started = run.started - run.input;
        self.record(&batch, padding, started, &run);
        self.waited(&batch, &run);
        let mut batch = match &run.outputs {
            Ok(outputs) => {
                self.sentinel.ran(&batch, outputs);
                self.tuner.lock().ran(&batch, padding, run.infer);
                batch
            }
            Err(error) => {
                let fault = self.failed(error, &batch, padding)?;
                match self.smaller(batch, error, fault) {
                    Ok(smaller) => return Ok(smaller),
                    Err(single) => single,
                }
            }
        };
        trace::ran(&self.plan, (&batch, padding), &run);
        let timing = timing(&batch, padding, &run);
        for job in &mut batch.jobs {
            job.count(started, &timing);
        }
        Ok(match run.outputs {
            Ok(outputs) => self.finish(batch, outputs),
            Err(error) => {
                let (failure, message) = fault::answer(&self.plan.spec, &error);
                Attempted::GaveUp(batch.jobs.pop().map(|job| job.failed(failure, message)))
            }
        })
    }

    /// Counts a batch that began at `started`.
    fn record(&self, batch: &Batch, padding: u32, started: Instant, run: &EngineRun) {
        for job in batch.jobs.iter().filter(|job| !job.has_begun()) {
            let waited = started.saturating_duration_since(job.delivery.claimed_at);
            self.metrics.batch_wait.observe(waited.as_secs_f64(), trace::id(&job.delivery));
        }
        self.metrics.batch_size.observe(f64::from(batch.rows));
        let traced = batch.jobs.iter().find_map(|job| trace::id(&job.delivery));
        self.metrics.batch_seconds.observe(run.infer.as_secs_f64(), traced);
        self.metrics.join_seconds.observe(run.input.as_secs_f64());
        self.metrics.output_seconds.observe(run.output.as_secs_f64());
        self.metrics.padded_rows.inc_by(u64::from(padding));
        let (positions, needed) = batch.positions();
        self.metrics.positions.inc_by(positions);
        self.metrics.padded_positions.inc_by(positions.saturating_sub(needed));
        if let Some(gap) = run.gap {
            self.metrics.engine_gap.observe(gap.as_secs_f64());
        }
    }

    /// Tells the tuner for how long the engine waited before a batch, if one of its jobs had arrived by
    /// the end of the last run.
    fn waited(&mut self, batch: &Batch, run: &EngineRun) {
        let Some(ended) = self.ended.replace(run.started + run.infer) else { return };
        let since = ended.elapsed();
        if batch.jobs.iter().any(|job| job.delivery.age() >= since) {
            self.tuner.lock().waited(run.started.saturating_duration_since(ended));
        }
    }

    /// Gives each job its outputs.
    fn finish(&self, batch: Batch, outputs: Vec<Vec<Tensor>>) -> Attempted {
        let mut replies = Vec::with_capacity(batch.jobs.len());
        let (mut unfinished, mut answered) = (Vec::new(), 0.0);
        for (job, outputs) in batch.jobs.into_iter().zip(outputs) {
            match job.ran(outputs, &self.preparation.layout) {
                Progress::Complete(job, outputs) => {
                    answered += f64::from(job.delivery.job.rows) * job.row_units();
                    replies.push(self.reply(job, outputs));
                }
                Progress::Unfinished(job) => unfinished.push(job),
            }
        }
        self.tuner.lock().answered(answered);
        Attempted::Ran { replies, unfinished }
    }

    /// The reply to a job with the outputs of all its rows, or with their classes.
    fn reply(&self, job: HeldJob, outputs: Vec<Tensor>) -> JobReply {
        let ServingPlan { spec, labels, .. } = &*self.plan;
        match classify(spec, labels, &job.delivery.job.classes, outputs) {
            Ok(outputs) => job.answered(outputs),
            Err(problem) => job.failed(Failure::BadInput, problem),
        }
    }

    /// Divides a failed batch, which may succeed in smaller batches. Returns the batch if it cannot
    /// be divided: its single job has failed.
    fn smaller(
        &self,
        batch: Batch,
        error: &EngineError,
        fault: RunFault,
    ) -> Result<Attempted, Batch> {
        let mut single = match batch.halves() {
            Ok(halves) => return Ok(Attempted::Failed(halves, fault)),
            Err(single) => single,
        };
        // Memory has just limited the rows of a batch.
        let may_shrink = fault == RunFault::OutOfMemory
            && single.release != Release::Oversize
            && self.preparation.layout.splits()
            && self.tuner.lock().most().rows_of(single.jobs[0].row_units()) < single.rows;
        let is_uneven = matches!(error, EngineError::Uneven(_));
        let runs_whole = is_uneven && self.tuner.lock().padded(single.rows) == single.rows;
        if (may_shrink || runs_whole)
            && let Some(mut job) = single.jobs.pop()
        {
            if runs_whole {
                job.run_whole();
            }
            return Ok(Attempted::Again(Box::new(job)));
        }
        for job in &single.jobs {
            let Job { id, trace, .. } = &job.delivery.job;
            let trace = trace.map(tracing::field::display);
            debug!(request = %id, trace, %error, "request failed");
        }
        Err(single)
    }

    /// Counts a failed run, and limits the batch size if memory ran out. Fails if the device is
    /// lost.
    fn failed(
        &self,
        error: &EngineError,
        batch: &Batch,
        padding: u32,
    ) -> Result<RunFault, WorkerError> {
        let rows = batch.rows + padding;
        let model = &self.plan.spec.queue;
        let fault = RunFault::of(error);
        self.metrics.engine_errors(fault).inc();
        match fault {
            RunFault::Model if matches!(error, EngineError::Uneven(_)) => {
                self.tuner.lock().end_batching();
                let way_out = "max_batch_size: 0 in the model's config.pbtxt";
                warn!(
                    %model, rows, %error, way_out,
                    "outputs do not hold the rows of a batch: this worker stops batching"
                );
            }
            RunFault::Model => debug!(%model, rows, %error, "batch failed"),
            RunFault::OutOfMemory => {
                let ceiling = self.tuner.lock().out_of_memory(batch.units + padding);
                warn!(%model, rows, ceiling, %error, "batch ran out of memory: limiting batch size");
            }
            RunFault::Device => {
                let (model, error) = (model.clone(), error.clone());
                return Err(WorkerError::Device { model, error });
            }
        }
        Ok(fault)
    }
}

/// The times of a batch that each of its jobs took part in.
fn timing(batch: &Batch, padding: u32, run: &EngineRun) -> Timing {
    Timing {
        compute_input: run.input,
        compute_infer: run.infer,
        compute_output: run.output,
        batch_rows: batch.rows,
        padded_rows: padding,
        release: Some(batch.release),
        ..Timing::default()
    }
}
