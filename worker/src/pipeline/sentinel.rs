//! Checks at run time that requests in one batch do not influence each other: every so often, one
//! request that was answered in a batch runs again alone, while the queue is empty.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{Job, Tensor};
use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::{
    batch::Batch,
    engine::{EngineError, EngineHandle},
    error::WorkerError,
    fault::RunFault,
    job::HeldJob,
    layout::JobRows,
    metrics::{ModelMetrics, SentinelFinding},
    plan::ServingPlan,
    proof::{Magnitudes, Mismatch, differs, differs_beyond_noise},
    tuner::SharedTuner,
};

/// Checks take at most this part of the time: 1 / 250 = 0.4 %.
const LEAST_REST: u32 = 250;
/// Batching ends after this many differences.
const MOST_DIFFERENCES: u32 = 3;
/// This many checks without a difference in a row make up for the differences before.
const FORGIVEN: u32 = 20;
/// Larger requests are not kept for a check.
const MOST_BYTES: usize = 16 << 20;

/// When to check, and when batching ends. Pure.
#[derive(Clone, Copy, Debug)]
struct Watch {
    /// The least time between two checks; zero for no checks.
    interval: Duration,
    due: Instant,
    differences: u32,
    /// Checks without a difference since the last difference.
    alike: u32,
}

impl Watch {
    fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, due: now, differences: 0, alike: 0 }
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.interval.is_zero() && now >= self.due && self.differences < MOST_DIFFERENCES
    }

    /// Records a check that took `took`. Returns whether batching must end.
    fn checked(&mut self, differed: bool, took: Duration, now: Instant) -> bool {
        self.due = now + self.interval.max(took * LEAST_REST);
        if differed {
            self.differences += 1;
            self.alike = 0;
        } else {
            self.alike += 1;
            if self.alike >= FORGIVEN {
                self.differences = 0;
            }
        }
        self.differences >= MOST_DIFFERENCES
    }
}

/// A request that was answered in a batch.
struct Sample {
    job: Job,
    outputs: Vec<Tensor>,
    /// Rows of the batch.
    rows: u32,
}

/// Keeps one answered request for a check.
pub(super) struct Sentinel {
    plan: Arc<ServingPlan>,
    metrics: ModelMetrics,
    tuner: SharedTuner,
    watch: Watch,
    sample: Option<Sample>,
    /// Number of samples taken.
    taken: usize,
}

impl Sentinel {
    /// Starts without a sample. The first check is due immediately.
    pub(super) fn new(plan: Arc<ServingPlan>, metrics: ModelMetrics, tuner: SharedTuner) -> Self {
        let interval = if plan.spec.batches() { plan.sentinel_interval } else { Duration::ZERO };
        let watch = Watch::new(interval, Instant::now());
        Self { plan, metrics, tuner, watch, sample: None, taken: 0 }
    }

    /// Whether a request is kept for a check.
    pub(super) fn has_sample(&self) -> bool {
        self.sample.is_some()
    }

    /// Keeps one request of a batch of several, if a check is due. `outputs` are the outputs of each
    /// request.
    pub(super) fn ran(&mut self, batch: &Batch, outputs: &[Vec<Tensor>]) {
        let requests = batch.jobs.len();
        if self.sample.is_some() || requests < 2 || !self.watch.is_due(Instant::now()) {
            return;
        }
        let index = self.taken % requests;
        self.taken += 1;
        let (Some(JobRows { job, rows }), Some(outputs)) =
            (batch.jobs.get(index).map(HeldJob::rows), outputs.get(index))
        else {
            return;
        };
        if rows != (0..job.rows) {
            return;
        }
        let tensors = job.inputs.iter().chain(outputs);
        let bytes: usize = tensors.map(|tensor| tensor.data.len()).sum();
        if bytes <= MOST_BYTES {
            // Copies, so that the rest of the batch is freed.
            let copy = |tensor: &Tensor| Tensor {
                data: Bytes::copy_from_slice(&tensor.data),
                ..tensor.clone()
            };
            let outputs = outputs.iter().map(copy).collect();
            self.sample = Some(Sample { job: job.clone(), outputs, rows: batch.rows });
        }
    }

    /// Runs the kept request alone and compares. Fails if the device is lost.
    pub(super) async fn check(&mut self, engine: &EngineHandle) -> Result<(), WorkerError> {
        let Some(sample) = self.sample.take() else { return Ok(()) };
        let began = Instant::now();
        let model = &self.plan.spec.queue;
        let found = match self.compare(engine, &sample).await? {
            Ok(found) => found,
            Err(fault) if RunFault::of(&fault) == RunFault::Device => {
                return Err(WorkerError::Device { model: model.clone(), error: fault });
            }
            Err(fault) => {
                debug!(%model, error = %fault, "check of an answered request failed");
                None
            }
        };
        let finding =
            if found.is_some() { SentinelFinding::Different } else { SentinelFinding::Same };
        self.metrics.sentinel(finding).inc();
        let ends = self.watch.checked(found.is_some(), began.elapsed(), Instant::now());
        let Some(mismatch) = found else { return Ok(()) };
        let way_out = "max_batch_size: 0 in the model's config.pbtxt";
        if ends {
            self.tuner.lock().end_batching();
            error!(
                %model, %mismatch, way_out,
                "answers depend on the other requests of a batch: this worker stops batching"
            );
        } else {
            warn!(
                %model, %mismatch, way_out,
                "an answer depended on the other requests of its batch"
            );
        }
        Ok(())
    }

    /// The difference between the answer in the batch and the answer alone. The inner error is one
    /// of a run; the outer error means that the engine's thread has ended.
    async fn compare(
        &self,
        engine: &EngineHandle,
        Sample { job, outputs, rows }: &Sample,
    ) -> Result<Result<Option<Mismatch>, EngineError>, WorkerError> {
        let alone = match self.run(engine, &[job]).await? {
            Ok(alone) => alone,
            Err(error) => return Ok(Err(error)),
        };
        let unknown = Magnitudes::default();
        if differs(&alone, outputs, *rows, &unknown).is_none() {
            return Ok(Ok(None));
        }
        // Kernels may compute with other noise in a batch, which copies of the request show.
        let copies = vec![job; usize::try_from(rows / job.rows.max(1)).unwrap_or(1).max(2)];
        let copies = match self.run(engine, &copies).await? {
            Ok(copies) => copies,
            Err(error) => return Ok(Err(error)),
        };
        let differing = differs_beyond_noise(&alone, outputs, &copies, *rows, &unknown);
        let Some(mismatch) = differing else { return Ok(Ok(None)) };
        // A model that draws random numbers differs from itself.
        let again = self.run(engine, &[job]).await?;
        Ok(again
            .map(|again| differs(&alone, &again, job.rows, &unknown).is_none().then_some(mismatch)))
    }

    /// Runs requests as one batch; returns the outputs of the first.
    async fn run(
        &self,
        engine: &EngineHandle,
        jobs: &[&Job],
    ) -> Result<Result<Vec<Tensor>, EngineError>, WorkerError> {
        let rows = jobs.iter().map(|job| job.rows).sum::<u32>();
        let padding = self.tuner.lock().padded(rows) - rows;
        let parts: Vec<JobRows<'_>> = jobs.iter().map(|job| JobRows::all(job)).collect();
        let inputs = self.plan.layout().lay_out(&parts, padding);
        let gone = || WorkerError::EngineGone(self.plan.spec.queue.clone());
        let run = engine.run(inputs).await.ok_or_else(gone)?;
        Ok(run.outputs.map(|outputs| outputs.into_iter().next().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn checks_are_a_minute_apart_and_take_less_than_a_two_hundredth_of_the_time() {
        let start = Instant::now();
        let mut watch = Watch::new(MINUTE, start);
        assert!(watch.is_due(start));
        watch.checked(false, Duration::from_millis(5), start);
        assert!(!watch.is_due(start + MINUTE / 2) && watch.is_due(start + MINUTE));
        watch.checked(false, Duration::from_secs(1), start);
        assert!(!watch.is_due(start + Duration::from_secs(200)));
        assert!(watch.is_due(start + Duration::from_secs(250)));
        assert!(!Watch::new(Duration::ZERO, start).is_due(start + MINUTE), "switched off");
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_differences_end_batching_and_rare_ones_do_not() {
        let now = Instant::now();
        let took = Duration::from_millis(1);
        let mut watch = Watch::new(MINUTE, now);
        assert!(!watch.checked(true, took, now) && !watch.checked(true, took, now));
        assert!(!watch.checked(false, took, now));
        assert!(watch.checked(true, took, now));
        assert!(!watch.is_due(now + MINUTE), "nothing is left to check");
        let mut watch = Watch::new(MINUTE, now);
        for _ in 0..10 {
            assert!(!watch.checked(true, took, now) && !watch.checked(true, took, now));
            (0..FORGIVEN).for_each(|_| assert!(!watch.checked(false, took, now)));
        }
    }
}
