//! One run of a batch: lays out the inputs, reports the result to the tuner, makes the replies.

use std::sync::Arc;

use batchfleet_broker::{Delivery, Failure, Job, Timing};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    batch::Batch,
    classes::classify,
    engine::{EngineError, EngineHandle, EngineRun},
    error::WorkerError,
    fault::{self, RunFault},
    layout::Layout,
    metrics::ModelMetrics,
    plan::ServingPlan,
    settle::JobReply,
    trace,
    tuner::SharedTuner,
};

/// Runs batches on the model's engine.
pub(super) struct Runner {
    plan: Arc<ServingPlan>,
    layout: Layout,
    engine: EngineHandle,
    metrics: ModelMetrics,
    tuner: SharedTuner,
}

/// A completed run.
pub(super) struct Attempt {
    started: Instant,
    /// Rows that were added to the batch.
    padding: u32,
    run: EngineRun,
}

/// The outcome of an attempt.
pub(super) enum Attempted {
    /// The batch succeeded. Holds the replies.
    Ran(Vec<JobReply>),
    /// The batch failed, but its halves may succeed.
    Failed([Batch; 2], RunFault),
    /// The batch does not run again. Holds the reply to its single, failed job, or nothing if the
    /// jobs are handed back.
    GaveUp(Vec<JobReply>),
}

impl Runner {
    /// A runner on `engine`.
    pub(super) fn new(
        plan: Arc<ServingPlan>,
        engine: EngineHandle,
        metrics: ModelMetrics,
        tuner: SharedTuner,
    ) -> Self {
        Self { layout: plan.layout(), plan, engine, metrics, tuner }
    }

    /// Runs a batch once.
    pub(super) async fn run(&self, batch: &Batch) -> Result<Attempt, WorkerError> {
        let started = Instant::now();
        for delivery in &batch.deliveries {
            self.metrics.batch_wait.observe((started - delivery.claimed_at).as_secs_f64());
        }
        let padding = self.tuner.lock().padded(batch.rows) - batch.rows;
        let inputs = batch.lay_out(&self.layout, padding);
        match self.engine.run(inputs).await {
            Some(run) => Ok(Attempt { started, padding, run }),
            // The jobs may be the cause, so leave them to be reclaimed and run alone.
            None => Err(WorkerError::EngineGone(self.plan.spec.queue.clone())),
        }
    }

    /// Records a run and makes the replies. Fails if the device is lost.
    pub(super) fn conclude(
        &self,
        batch: Batch,
        attempt: Attempt,
    ) -> Result<Attempted, WorkerError> {
        let Attempt { padding, ref run, .. } = attempt;
        self.metrics.batch_size.observe(f64::from(batch.rows));
        self.metrics.batch_seconds.observe(run.infer.as_secs_f64());
        self.metrics.padded_rows.inc_by(u64::from(padding));
        let batch = match &run.outputs {
            Ok(_) => {
                self.tuner.lock().ran(batch.rows, padding, run.infer, batch.release);
                batch
            }
            Err(error) => {
                let fault = self.failed(error, batch.rows + padding)?;
                match batch.halves() {
                    Ok(halves) => return Ok(Attempted::Failed(halves, fault)),
                    Err(single) => {
                        let Job { id, trace, .. } = &single.deliveries[0].job;
                        let trace = trace.map(tracing::field::display);
                        debug!(request = %id, trace, %error, "request failed");
                        single
                    }
                }
            }
        };
        trace::ran(&self.plan, (&batch, padding), run);
        let is_ok = run.outputs.is_ok();
        let replies = replies(&self.plan, batch, attempt);
        Ok(if is_ok { Attempted::Ran(replies) } else { Attempted::GaveUp(replies) })
    }

    /// Counts a failed run, and limits the batch size if memory ran out. Fails if the device is
    /// lost.
    fn failed(&self, error: &EngineError, rows: u32) -> Result<RunFault, WorkerError> {
        let model = &self.plan.spec.queue;
        let fault = RunFault::of(error);
        self.metrics.engine_errors(fault).inc();
        match fault {
            RunFault::Model => debug!(%model, rows, %error, "batch failed"),
            RunFault::OutOfMemory => {
                let ceiling = self.tuner.lock().out_of_memory(rows);
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

/// The replies to a batch's jobs.
fn replies(
    plan: &ServingPlan,
    batch: Batch,
    Attempt { started, padding, run }: Attempt,
) -> Vec<JobReply> {
    let (rows, release) = (batch.rows, Some(batch.release));
    let timing = |delivery: &Delivery| Timing {
        queue: delivery.waited,
        batch_wait: started - delivery.claimed_at,
        compute_input: run.input,
        compute_infer: run.infer,
        compute_output: run.output,
        batch_rows: rows,
        padded_rows: padding,
        release,
    };
    let jobs = batch.deliveries.into_iter().map(|delivery| (timing(&delivery), delivery));
    match run.outputs {
        Ok(outputs) => jobs
            .zip(outputs)
            .map(|((timing, delivery), outputs)| {
                match classify(&plan.spec, &plan.labels, &delivery.job.classes, outputs) {
                    Ok(outputs) => JobReply::outputs(delivery, timing, outputs),
                    Err(problem) => JobReply::failure(delivery, timing, Failure::BadInput, problem),
                }
            })
            .collect(),
        Err(error) => {
            let (failure, message) = fault::answer(&plan.spec, &error);
            let fail =
                |(timing, delivery)| JobReply::failure(delivery, timing, failure, message.clone());
            jobs.map(fail).collect()
        }
    }
}
