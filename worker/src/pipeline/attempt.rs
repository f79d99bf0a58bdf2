//! Runs a batch; what fails runs again in halves, until only what fails by itself is left.

use std::{collections::VecDeque, pin::pin, sync::Arc, time::Duration};

use batchfleet_broker::{Delivery, Failure, Job, Release, Timing};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::Pipeline;
use crate::{
    batch::Batch,
    engine::{EngineError, Ran},
    error::WorkerError,
    fault::Fault,
    settle::Answer,
    trace,
};

/// A run shorter than so many round trips to the broker is the time to claim the next batch.
const CLAIM_AHEAD_BELOW: u32 = 5;
/// How exact timers are.
const TICK: Duration = Duration::from_millis(1);

/// A batch, or what is left of one that failed.
struct Part {
    batch: Batch,
    /// The first of two halves; the second is next in the row.
    first: bool,
    /// It holds what made a larger one fail.
    guilty: bool,
}

/// What became of a run.
enum Tried {
    /// It went well and is answered.
    Ran,
    /// It failed, and may go well in halves.
    Failed([Batch; 2], Fault),
    /// There are no outputs: its one job was told so, or it is to be handed back.
    GaveUp,
}

impl Pipeline {
    /// Runs a batch until every job in it has its answer, or its deadline has passed.
    ///
    /// Halves wait in a row, so that with one bad job the larger good parts are answered first. Where
    /// the first half goes well, the second must hold what fails, and is split without another run:
    /// one bad job among N takes 1.5 log2 N more runs on average, 2 log2 N at most.
    pub(super) async fn run_batch(&mut self, batch: Batch) -> Result<(), WorkerError> {
        self.metrics.released(batch.release).inc();
        let mut parts = VecDeque::from([Part { batch, first: false, guilty: false }]);
        while let Some(Part { batch, first, guilty }) = parts.pop_front() {
            // The run before took its time, and nothing starts after its deadline.
            let jobs = self.weed(batch.deliveries.into()).await;
            if jobs.is_empty() {
                continue;
            }
            let batch = Batch::new(jobs.into(), batch.release);
            let tried = match batch.halves_if(guilty) {
                Ok(halves) => Ok(Tried::Failed(halves, Fault::Model)),
                Err(batch) => self.attempt(batch, parts.is_empty()).await,
            };
            match tried {
                Ok(Tried::Failed(halves, fault)) => {
                    self.metrics.bisections.inc();
                    // Of memory, each half may take what it needs.
                    let mut first = fault == Fault::Model;
                    for batch in halves {
                        parts.push_back(Part { batch, first, guilty: false });
                        first = false;
                    }
                }
                Ok(Tried::Ran) if first => {
                    if let Some(second) = parts.front_mut() {
                        second.guilty = true;
                    }
                }
                Ok(Tried::Ran | Tried::GaveUp) => {}
                Err(error) => {
                    self.held.extend(parts.into_iter().flat_map(|part| part.batch.deliveries));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// When to claim the next batch while this one runs: so that it is here when the run ends, but
    /// hardly earlier, because another worker may be free before. Not beside a suspect: it may take
    /// along whatever this worker holds.
    fn claim_ahead(&self, batch: &Batch, started: Instant) -> Option<Instant> {
        if !self.held.is_empty() || batch.release == Release::Suspect {
            return None;
        }
        let run_takes = self.tuner.lock().expected(batch.rows);
        let round_trip = self.settler.round_trip();
        if run_takes < round_trip * CLAIM_AHEAD_BELOW {
            return Some(started);
        }
        let early = round_trip * 2 + TICK;
        self.more_waits.then(|| started + run_takes.saturating_sub(early))
    }

    /// Runs a batch once; the `last` part of what was claimed together, or one before it.
    async fn attempt(&mut self, batch: Batch, last: bool) -> Result<Tried, WorkerError> {
        let started = Instant::now();
        for delivery in &batch.deliveries {
            self.metrics.batch_wait.observe((started - delivery.claimed_at).as_secs_f64());
        }
        let padding = self.padding(&batch);
        let mut rows = batch.rows_of_each();
        // To the engine, one more request.
        rows.extend((padding > 0).then_some(padding));
        let columns = batch.columns(self.plan.spec.batches(), padding);
        let engine = Arc::clone(&self.engine);
        let mut running = pin!(async move { engine.run(columns, rows).await });
        let mut claim_at = if last { self.claim_ahead(&batch, started) } else { None };
        let ran = loop {
            tokio::select! {
                biased;
                () = self.drain.over() => {
                    warn!(jobs = batch.deliveries.len(), "no time to finish a batch: handing it back");
                    self.held.extend(batch.deliveries);
                    return Ok(Tried::GaveUp);
                }
                ran = &mut running => break ran,
                () = sleep_until(claim_at.unwrap_or(started)), if claim_at.is_some() => {
                    claim_at = None;
                    // A suspect may be next.
                    if !self.rescue.is_due() {
                        let limit = self.limit();
                        self.intake.ask(limit.max(1));
                    }
                }
            }
        };
        let Some(ran) = ran else {
            // They may be the cause: they wait to be reclaimed, and tried alone.
            return Err(WorkerError::EngineGone(self.plan.spec.queue.clone()));
        };
        self.metrics.batch_size.observe(f64::from(batch.rows));
        self.metrics.batch_seconds.observe(ran.infer.as_secs_f64());
        self.metrics.padded_rows.inc_by(u64::from(padding));
        let (batch, tried) = match &ran.outputs {
            Ok(_) => {
                self.tuner.lock().ran(batch.rows, padding, ran.infer, batch.release);
                (batch, Tried::Ran)
            }
            Err(error) => {
                let fault = self.note(error, batch.rows + padding)?;
                match batch.halves_if(true) {
                    Ok(halves) => return Ok(Tried::Failed(halves, fault)),
                    Err(single) => {
                        let Job { id, trace, .. } = &single.deliveries[0].job;
                        let trace = trace.map(tracing::field::display);
                        debug!(request = %id, trace, %error, "a request failed");
                        (single, Tried::GaveUp)
                    }
                }
            }
        };
        trace::ran(&self.tracer, &self.plan, (&batch, padding), &ran);
        self.settler.settle(answers(batch, padding, started, ran)).await;
        Ok(tried)
    }

    /// How many rows a batch lacks to be of a size that the engine runs.
    fn padding(&self, batch: &Batch) -> u32 {
        if !self.plan.spec.batches() {
            return 0;
        }
        self.tuner.lock().padded(batch.rows) - batch.rows
    }

    /// Counts a failed run, and learns from it. An error if the device is lost.
    fn note(&mut self, error: &EngineError, rows: u32) -> Result<Fault, WorkerError> {
        let model = &self.plan.spec.queue;
        let fault = Fault::of(error);
        self.metrics.engine_errors(fault).inc();
        match fault {
            Fault::Model => debug!(%model, rows, %error, "a batch failed"),
            Fault::OutOfMemory => {
                let ceiling = self.tuner.lock().out_of_memory(rows);
                warn!(%model, rows, ceiling, %error, "a batch found no memory: smaller ones from now on");
            }
            Fault::Device => {
                let (model, error) = (model.clone(), error.clone());
                return Err(WorkerError::Device { model, error });
            }
        }
        Ok(fault)
    }
}

/// The answers to a batch's jobs.
fn answers(batch: Batch, padding: u32, started: Instant, ran: Ran) -> Vec<Answer> {
    let (rows, release) = (batch.rows, Some(batch.release));
    let timing = |delivery: &Delivery| Timing {
        queue: delivery.waited,
        batch_wait: started - delivery.claimed_at,
        compute_input: ran.input,
        compute_infer: ran.infer,
        compute_output: ran.output,
        batch_rows: rows,
        padded_rows: padding,
        release,
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
