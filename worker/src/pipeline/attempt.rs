//! Runs a batch; what fails runs again in halves, until only what fails by itself is left.

use std::collections::VecDeque;

use batchfleet_broker::{Delivery, Failure, Timing};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Pipeline;
use crate::{
    batch::{Batch, Release},
    engine::{EngineError, Ran},
    error::WorkerError,
    fault::Fault,
    settle::Answer,
};

/// A batch is claimed while another runs if the run is shorter than so many round trips.
const CLAIM_AHEAD_BELOW: u32 = 5;

impl Pipeline {
    /// Runs a batch until every job in it has its answer, or its deadline has passed.
    ///
    /// Halves wait in a row: with one bad job among N, the good halves are answered first, and
    /// there are at most 2 log2 N more runs.
    pub(super) async fn run_batch(&mut self, batch: Batch) -> Result<(), WorkerError> {
        self.metrics.released(batch.release).inc();
        self.claim_ahead(&batch);
        let mut parts = VecDeque::from([batch]);
        while let Some(part) = parts.pop_front() {
            match self.attempt(part).await {
                Ok(None) => {}
                Ok(Some(halves)) => {
                    self.metrics.bisections.inc();
                    parts.extend(halves);
                }
                Err(error) => {
                    self.held.extend(parts.into_iter().flat_map(|part| part.deliveries));
                    return Err(error);
                }
            }
            // A run takes its time, and nothing starts after its deadline.
            for part in &mut parts {
                let jobs = std::mem::take(&mut part.deliveries);
                let jobs = self.weed(jobs.into()).await;
                *part = Batch::new(jobs.into(), part.release);
            }
            parts.retain(|part| !part.deliveries.is_empty());
        }
        Ok(())
    }

    /// A run so short that the way to the broker would dominate is the time to claim more. Not
    /// beside a suspect: it may take along whatever this worker holds.
    fn claim_ahead(&mut self, batch: &Batch) {
        let run_takes = self.plan.cost.latency(batch.rows);
        let is_short = run_takes < self.settler.round_trip() * CLAIM_AHEAD_BELOW;
        if is_short && self.held.is_empty() && batch.release != Release::Suspect {
            let limit = self.limit();
            self.intake.ask(limit.max(1));
        }
    }

    /// Runs a batch once: settles it, or returns its halves.
    async fn attempt(&mut self, batch: Batch) -> Result<Option<[Batch; 2]>, WorkerError> {
        let started = Instant::now();
        for delivery in &batch.deliveries {
            self.metrics.batch_wait.observe((started - delivery.claimed_at).as_secs_f64());
        }
        let columns = batch.columns(self.plan.spec.batches());
        let ran = tokio::select! {
            biased;
            () = self.drain.over() => {
                warn!(jobs = batch.deliveries.len(), "no time to finish a batch: handing it back");
                self.held.extend(batch.deliveries);
                return Ok(None);
            }
            ran = self.engine.run(columns, batch.rows_of_each()) => ran,
        };
        let Some(ran) = ran else {
            // They may be the cause: they wait to be reclaimed, and tried alone.
            return Err(WorkerError::EngineGone(self.plan.spec.queue.clone()));
        };
        self.metrics.batch_size.observe(f64::from(batch.rows));
        self.metrics.batch_seconds.observe(ran.infer.as_secs_f64());
        let batch = match &ran.outputs {
            Ok(_) => {
                self.plan.cost.observe(batch.rows, ran.infer);
                self.ceiling.ran(batch.rows);
                batch
            }
            Err(error) => {
                self.note(error, batch.rows)?;
                match batch.halves() {
                    Ok(halves) => return Ok(Some(halves)),
                    Err(single) => single,
                }
            }
        };
        self.settler.settle(answers(batch, started, ran)).await;
        Ok(None)
    }

    /// Counts a failed run, and learns from it. An error if the device is lost.
    fn note(&mut self, error: &EngineError, rows: u32) -> Result<(), WorkerError> {
        let model = &self.plan.spec.queue;
        let fault = Fault::of(error);
        self.metrics.engine_errors(fault).inc();
        match fault {
            Fault::Model => debug!(%model, rows, %error, "a batch failed"),
            Fault::OutOfMemory => {
                self.ceiling.out_of_memory(rows);
                let ceiling = self.ceiling.rows();
                warn!(%model, rows, ceiling, %error, "a batch found no memory: smaller ones from now on");
            }
            Fault::Device => {
                let (model, error) = (model.clone(), error.clone());
                return Err(WorkerError::Device { model, error });
            }
        }
        Ok(())
    }
}

/// The answers to a batch's jobs.
fn answers(batch: Batch, started: Instant, ran: Ran) -> Vec<Answer> {
    let rows = batch.rows;
    let timing = |delivery: &Delivery| Timing {
        queue: delivery.waited,
        batch_wait: started - delivery.claimed_at,
        compute_input: ran.input,
        compute_infer: ran.infer,
        compute_output: ran.output,
        batch_rows: rows,
        padded_rows: 0,
    };
    let jobs = batch.deliveries.into_iter().map(|delivery| (timing(&delivery), delivery));
    match ran.outputs {
        Ok(outputs) => jobs
            .zip(outputs)
            .map(|((timing, delivery), outputs)| Answer::outputs(delivery, timing, outputs))
            .collect(),
        Err(error) => {
            let fail = |(timing, delivery)| {
                Answer::failure(delivery, timing, Failure::Model, error.to_string())
            };
            jobs.map(fail).collect()
        }
    }
}
