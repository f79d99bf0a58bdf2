//! One model's way from the queue through the engine and back: claim, run, settle.
//!
//! A batch is claimed when the engine is free and leaves with whatever was waiting: an idle worker
//! never waits to fill one, unless `linger` says so. While it runs, nothing is claimed, because
//! another worker may be free sooner; except where a run is so short that the way to the broker
//! would dominate.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use batchfleet_broker::{Consumer, Delivery, Failure, ModelSpec, Timing};
use batchfleet_policy::{BatchPolicy, CostModel};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    batch::{self, Batch, Release},
    check::check,
    engine::{EngineHandle, Ran},
    error::WorkerError,
    intake::Intake,
    metrics::{ModelMetrics, Outcome},
    settle::{Answer, Settler},
};

/// A batch is claimed while another runs if the run is shorter than so many round trips.
const CLAIM_AHEAD_BELOW: u32 = 5;
/// How long a batch that could leave waits for a claim that is to fill it: time for an answer from
/// the broker, if it has anything.
const TOP_UP: Duration = Duration::from_millis(2);

/// What a pipeline is told about its model.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The model.
    pub(crate) spec: Arc<ModelSpec>,
    /// Where it runs: the name of an execution provider.
    pub(crate) provider: &'static str,
    /// Whether its strings must be text.
    pub(crate) text_only: bool,
    /// What its batches cost, as measured.
    pub(crate) cost: CostModel,
    /// What bounds N.
    pub(crate) policy: BatchPolicy,
    /// How long a batch that is not full waits for more jobs.
    pub(crate) linger: Duration,
}

/// The loop of one model.
pub(crate) struct Pipeline {
    plan: Plan,
    engine: EngineHandle,
    consumer: Arc<dyn Consumer>,
    metrics: ModelMetrics,
    shutdown: CancellationToken,
    intake: Intake,
    settler: Settler,
    /// Claimed and checked, not yet run; oldest first.
    held: VecDeque<Delivery>,
}

impl Pipeline {
    /// Sets up the loop; it claims nothing before [`Pipeline::run`].
    pub(crate) fn new(
        plan: Plan,
        engine: EngineHandle,
        consumer: Arc<dyn Consumer>,
        metrics: ModelMetrics,
        shutdown: CancellationToken,
    ) -> Self {
        let intake = Intake::start(Arc::clone(&consumer), shutdown.clone());
        let settler = Settler::new(Arc::clone(&consumer), metrics.clone());
        Self { plan, engine, consumer, metrics, shutdown, intake, settler, held: VecDeque::new() }
    }

    /// Serves until shutdown; then answers what has run and gives back what has not.
    pub(crate) async fn run(mut self) -> Result<(), WorkerError> {
        let mut outcome = Ok(());
        while let Some(batch) = self.next_batch().await {
            outcome = self.run_batch(batch).await;
            if outcome.is_err() {
                break;
            }
        }
        let Self { intake, settler, consumer, metrics, mut held, .. } = self;
        match intake.stop().await {
            Ok(last) => held.extend(last),
            Err(crash) => outcome = outcome.and(Err(crash.into())),
        }
        hand_back(consumer.as_ref(), &metrics, held.into()).await;
        settler.finish().await;
        outcome
    }

    /// Waits for jobs and takes a batch of them; `None` on shutdown.
    async fn next_batch(&mut self) -> Option<Batch> {
        let limit = self.limit();
        loop {
            if self.shutdown.is_cancelled() {
                return None;
            }
            if self.held.is_empty() {
                self.intake.ask(limit.max(1));
                self.await_claim(None).await?;
            } else if self.held_rows() < limit {
                self.top_up(limit).await?;
            }
            let lingered = !self.plan.linger.is_zero() && self.linger(limit).await?;
            self.answer_expired().await;
            if let Some(mut batch) = batch::take(&mut self.held, limit) {
                if lingered && batch.release == Release::Drained {
                    batch.release = Release::Linger;
                }
                return Some(batch);
            }
        }
    }

    /// Waits once for more jobs, if there are some but no full batch. Returns whether it did.
    async fn linger(&mut self, limit: u32) -> Option<bool> {
        if self.held.is_empty() || self.held_rows() >= limit {
            return Some(false);
        }
        tokio::select! {
            () = sleep(self.plan.linger) => {}
            () = self.shutdown.cancelled() => return None,
        }
        self.top_up(limit).await?;
        Some(true)
    }

    /// Fills up with what waits at the broker right now.
    async fn top_up(&mut self, limit: u32) -> Option<()> {
        self.intake.ask(limit.saturating_sub(self.held_rows()));
        self.await_claim(Some(TOP_UP.max(self.settler.round_trip() * 2))).await
    }

    /// Waits for the claim under way, `patience` long if that is bounded. `None` on shutdown.
    async fn await_claim(&mut self, patience: Option<Duration>) -> Option<()> {
        let claimed = tokio::select! {
            biased;
            claimed = self.intake.claimed() => claimed?,
            () = sleep(patience.unwrap_or_default()), if patience.is_some() => return Some(()),
            () = self.shutdown.cancelled() => return None,
        };
        self.admit(claimed).await;
        Some(())
    }

    /// Holds the jobs that fit the model; the others are answered at once.
    async fn admit(&mut self, claimed: Vec<Delivery>) {
        let mut refused = Vec::new();
        for delivery in claimed {
            self.metrics.queue_wait.observe(delivery.waited.as_secs_f64());
            match check(&self.plan.spec, self.plan.text_only, &delivery.job) {
                Ok(()) => self.held.push_back(delivery),
                Err(problem) => refused.push(unrun(delivery, Failure::BadInput, problem)),
            }
        }
        self.settler.settle(refused).await;
    }

    /// Nothing starts after its deadline.
    async fn answer_expired(&mut self) {
        let expired = |delivery: &Delivery| delivery.deadline <= Instant::now();
        // Sending may have to wait, and more may expire meanwhile.
        while self.held.iter().any(expired) {
            let (late, timely): (Vec<_>, Vec<_>) = self.held.drain(..).partition(expired);
            self.held.extend(timely);
            let message = || "the deadline passed before its batch began".to_owned();
            let answers = late.into_iter().map(|job| unrun(job, Failure::Expired, message()));
            self.settler.settle(answers.collect()).await;
        }
    }

    async fn run_batch(&mut self, batch: Batch) -> Result<(), WorkerError> {
        let limit = self.limit();
        self.metrics.released(batch.release).inc();
        let run_takes = self.plan.cost.latency(batch.rows);
        if run_takes < self.settler.round_trip() * CLAIM_AHEAD_BELOW && self.held.is_empty() {
            self.intake.ask(limit.max(1));
        }
        let started = Instant::now();
        for delivery in &batch.deliveries {
            self.metrics.batch_wait.observe((started - delivery.claimed_at).as_secs_f64());
        }
        let columns = batch.columns(self.plan.spec.batches());
        let Some(ran) = self.engine.run(columns, batch.rows_of_each()).await else {
            // Another worker may have more luck with them.
            self.held.extend(batch.deliveries);
            return Err(WorkerError::EngineGone(self.plan.spec.queue.clone()));
        };
        self.metrics.batch_size.observe(f64::from(batch.rows));
        self.metrics.batch_seconds.observe(ran.infer.as_secs_f64());
        if ran.outputs.is_ok() {
            self.plan.cost.observe(batch.rows, ran.infer);
        }
        self.settler.settle(answers(batch, started, ran)).await;
        Ok(())
    }

    /// N just now; 0 for a model that does not batch.
    fn limit(&self) -> u32 {
        let limit = self.plan.policy.limit(&self.plan.cost, 1);
        self.metrics.batch_limit.set(i64::from(limit));
        if self.plan.spec.batches() { limit } else { 0 }
    }

    fn held_rows(&self) -> u32 {
        self.held.iter().map(|delivery| delivery.job.rows).sum()
    }
}

/// The answer to a job that never ran.
fn unrun(delivery: Delivery, failure: Failure, message: String) -> Answer {
    let timing = Timing {
        queue: delivery.waited,
        batch_wait: delivery.claimed_at.elapsed(),
        ..Timing::default()
    };
    Answer::failure(delivery, timing, failure, message)
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

/// Gives jobs back for another worker.
async fn hand_back(consumer: &dyn Consumer, metrics: &ModelMetrics, held: Vec<Delivery>) {
    if held.is_empty() {
        return;
    }
    let jobs = held.len();
    match consumer.hand_back(held).await {
        Ok(()) => metrics.jobs(Outcome::HandedBack).inc_by(jobs as u64),
        Err(error) => warn!(%error, jobs, "cannot hand jobs back: they wait to be reclaimed"),
    }
}

#[cfg(test)]
mod tests;
