//! One model's way from the queue through the engine and back: claim, run, settle.
//!
//! A batch is claimed when the engine is free and leaves with whatever was waiting: an idle worker
//! never waits to fill one, unless `linger` says so. While it runs, nothing is claimed, because
//! another worker may be free sooner; only just before its end, if more seems to wait, so that the
//! engine does not stand idle for the way to the broker.
//!
//! Jobs whose worker died are taken over one by one and run alone, in turn with batches.

mod attempt;

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use batchfleet_broker::{Claims, Consumer, Delivery, Failure, ModelSpec, Release, Timing};
use batchfleet_policy::{BatchPolicy, CostModel};
use batchfleet_service::trace::Tracer;
use tokio::time::{Instant, sleep};

use crate::{
    batch::{self, Batch},
    check::check,
    drain::Drain,
    engine::EngineHandle,
    error::WorkerError,
    gateways::Gateways,
    intake::{Claim, Intake},
    metrics::ModelMetrics,
    rescue::Rescue,
    settle::{Answer, Settler},
    trace,
    tuner::SharedTuner,
};

/// How long a batch that could leave waits at least for a claim that is to fill it.
const TOP_UP: Duration = Duration::from_millis(2);
/// So many batches may overtake a job of a rarer shape, while more of its shape gather.
const MOST_OVERTAKEN: u32 = 3;
/// A job that was there when so many workers died is answered, and runs no more.
const MOST_DEATHS: u32 = 3;

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
    /// A run that takes longer hangs.
    pub(crate) max_batch_time: Duration,
}

/// The loop of one model.
pub(crate) struct Pipeline {
    plan: Plan,
    engine: Arc<EngineHandle>,
    consumer: Arc<dyn Consumer>,
    metrics: ModelMetrics,
    drain: Drain,
    intake: Intake,
    rescue: Rescue,
    gateways: Gateways,
    settler: Settler,
    tuner: SharedTuner,
    tracer: Tracer,
    /// Claimed and checked, not yet run; oldest first.
    held: VecDeque<Delivery>,
    /// How many batches in a row have overtaken the oldest job held.
    overtaken: u32,
    /// Of what is held, not all could have joined the last batch.
    mixed: bool,
    /// The last batch was a suspect: now it is the others' turn.
    suspect_ran: bool,
    /// The last claim brought all it asked for.
    more_waits: bool,
}

/// The queue of a pipeline.
pub(crate) struct Jobs {
    /// Claims from the queue.
    pub(crate) claims: Box<dyn Claims>,
    /// Settles, hands back and takes over.
    pub(crate) consumer: Arc<dyn Consumer>,
}

impl Pipeline {
    /// Sets up the loop; it claims nothing before [`Pipeline::run`].
    pub(crate) fn new(
        plan: Plan,
        engine: EngineHandle,
        jobs: Jobs,
        metrics: ModelMetrics,
        drain: Drain,
    ) -> Self {
        let Jobs { claims, consumer } = jobs;
        Self {
            intake: Intake::start(claims, drain.clone()),
            rescue: Rescue::new(Arc::clone(&consumer)),
            gateways: Gateways::new(Arc::clone(&consumer)),
            settler: Settler::new(Arc::clone(&consumer), metrics.clone()),
            tuner: SharedTuner::new(plan.policy, plan.cost.clone()),
            tracer: Tracer::default(),
            held: VecDeque::new(),
            overtaken: 0,
            mixed: false,
            suspect_ran: false,
            more_waits: false,
            plan,
            engine: Arc::new(engine),
            consumer,
            metrics,
            drain,
        }
    }

    /// With a way for traces of its batches.
    pub(crate) fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// What chooses its N.
    pub(crate) fn tuner(&self) -> SharedTuner {
        self.tuner.clone()
    }

    /// Serves until the drain; then answers what has run and gives back what has not. After
    /// [`WorkerError::Device`] it does neither: nothing it says can be trusted.
    pub(crate) async fn run(mut self) -> Result<(), WorkerError> {
        let mut outcome = Ok(());
        while let Some(batch) = self.next_batch().await {
            outcome = self.run_batch(batch).await;
            if outcome.is_err() {
                break;
            }
        }
        if outcome.as_ref().is_err_and(WorkerError::is_device) {
            return outcome;
        }
        let Self { intake, settler, consumer, metrics, held, drain, .. } = self;
        // These first: there may be little time.
        drain.hand_back(consumer.as_ref(), &metrics, held.into()).await;
        match intake.stop().await {
            Ok(last) => drain.hand_back(consumer.as_ref(), &metrics, last).await,
            Err(crash) => outcome = outcome.and(Err(crash.into())),
        }
        settler.finish().await;
        outcome
    }

    /// Waits for jobs and takes a batch of them; `None` once the drain begins.
    async fn next_batch(&mut self) -> Option<Batch> {
        loop {
            if self.drain.has_begun() {
                return None;
            }
            if !mem::take(&mut self.suspect_ran)
                && let Some(suspect) = self.next_suspect().await
            {
                self.suspect_ran = true;
                return Some(suspect);
            }
            let limit = self.limit();
            if self.held.is_empty() {
                self.intake.ask(limit.max(1));
                // When it is time to look for suspects, jobs that wait still go first: a claim that
                // ends beside a suspect's run would expose them to its fate.
                let patience = self.rescue.wait().max(self.round_trip());
                self.await_claim(patience).await?;
            } else if self.held_rows() < limit && !(self.mixed && self.is_next(limit)) {
                // Else whatever came would most likely wait for the batch of the oldest job held,
                // while another worker is free.
                self.top_up(limit).await?;
            }
            let lingered = !self.plan.linger.is_zero() && self.linger(limit).await?;
            let held = mem::take(&mut self.held);
            self.held = self.weed(held).await;
            self.refuse_doomed().await;
            let limit = self.cut(limit);
            if let Some(mut batch) = self.take(limit) {
                if lingered && batch.release == Release::Drained {
                    batch.release = Release::Linger;
                }
                return Some(batch);
            }
        }
    }

    /// Takes over a job of a dead worker, if it is time to look and there is one that may run.
    async fn next_suspect(&mut self) -> Option<Batch> {
        while self.rescue.is_due() && !self.drain.has_begun() {
            let suspect = self.rescue.next().await?;
            self.metrics.reclaimed.inc();
            let suspects = self.admit(vec![suspect]).await;
            let suspects = Vec::from(self.weed(suspects).await);
            if !suspects.is_empty() {
                return Some(Batch::new(suspects, Release::Suspect));
            }
        }
        None
    }

    /// Waits once for more jobs, if there are some but no full batch. Returns whether it did.
    async fn linger(&mut self, limit: u32) -> Option<bool> {
        if self.held.is_empty() || self.held_rows() >= limit {
            return Some(false);
        }
        tokio::select! {
            () = sleep(self.plan.linger) => {}
            () = self.drain.begun() => return None,
        }
        self.top_up(limit).await?;
        Some(true)
    }

    /// Fills up with what waits at the broker right now. What could not join the last batch shall
    /// not make the next one smaller.
    async fn top_up(&mut self, limit: u32) -> Option<()> {
        let held = if self.mixed { 0 } else { self.held_rows() };
        self.intake.ask(limit.saturating_sub(held));
        self.await_claim(self.round_trip()).await
    }

    /// Time for an answer from the broker to a claim, if it has anything.
    fn round_trip(&self) -> Duration {
        TOP_UP.max(self.settler.round_trip() * 2)
    }

    /// Waits for the claim under way, `patience` long. `None` once the drain begins.
    async fn await_claim(&mut self, patience: Duration) -> Option<()> {
        let claimed = tokio::select! {
            biased;
            claimed = self.intake.claimed() => claimed?,
            () = sleep(patience) => return Some(()),
            () = self.drain.begun() => return None,
        };
        let Claim { deliveries, full } = claimed;
        self.more_waits = full;
        self.tuner.lock().claimed(&deliveries, full);
        let admitted = self.admit(deliveries).await;
        self.held.extend(admitted);
        Some(())
    }

    /// Keeps the jobs that may run; the others are answered at once.
    async fn admit(&mut self, claimed: Vec<Delivery>) -> VecDeque<Delivery> {
        let (mut admitted, mut refused) = (VecDeque::new(), Vec::new());
        for delivery in claimed {
            self.metrics.queue_wait.observe(delivery.waited.as_secs_f64());
            if delivery.deliveries > MOST_DEATHS {
                let message = format!("{MOST_DEATHS} workers died while they ran this request");
                refused.push(unrun(&self.tracer, delivery, Failure::Poison, message));
            } else if let Err(problem) = check(&self.plan.spec, self.plan.text_only, &delivery.job)
            {
                refused.push(unrun(&self.tracer, delivery, Failure::BadInput, problem));
            } else {
                admitted.push_back(delivery);
            }
        }
        self.settler.settle(refused).await;
        admitted
    }

    /// Nothing starts after its deadline, nor for a gateway that is gone.
    async fn weed(&mut self, mut jobs: VecDeque<Delivery>) -> VecDeque<Delivery> {
        self.gateways.look(&jobs).await;
        // Sending may have to wait, and more may expire meanwhile.
        while jobs.iter().any(|job| self.is_vain(job)) {
            let (vain, rest): (Vec<_>, _) = jobs.into_iter().partition(|job| self.is_vain(job));
            jobs = rest.into();
            let message = || "the deadline passed before its batch began".to_owned();
            let answer = |job: Delivery| {
                if self.is_awaited(&job) {
                    unrun(&self.tracer, job, Failure::Expired, message())
                } else {
                    Answer::orphaned(job)
                }
            };
            let answers = vain.into_iter().map(answer).collect();
            self.settler.settle(answers).await;
        }
        jobs
    }

    /// What cannot be in time any more must not run in the place of what can.
    async fn refuse_doomed(&mut self) {
        let now = Instant::now();
        let left = self.held.iter().map(|job| job.deadline.saturating_duration_since(now));
        let doomed = self.tuner.lock().doomed(self.held_rows(), left);
        if doomed > 0 {
            let message = || "its batch would have ended after the deadline".to_owned();
            let tracer = &self.tracer;
            let answer = |job| unrun(tracer, job, Failure::Expired, message());
            let answers = self.held.drain(..doomed).map(answer).collect();
            self.settler.settle(answers).await;
        }
    }

    fn is_vain(&self, delivery: &Delivery) -> bool {
        delivery.deadline <= Instant::now() || !self.is_awaited(delivery)
    }

    fn is_awaited(&self, delivery: &Delivery) -> bool {
        delivery.awaited && !self.gateways.is_gone(delivery)
    }

    /// Takes the next batch out of what is held.
    fn take(&mut self, limit: u32) -> Option<Batch> {
        let oldest = self.held.front()?.entry;
        let in_order = self.is_next(limit);
        let batch = batch::take(&mut self.held, limit, in_order)?;
        let is_overtaken = self.held.front().is_some_and(|front| front.entry == oldest);
        self.overtaken = if is_overtaken { self.overtaken + 1 } else { 0 };
        self.mixed = self.held.iter().any(|left| !batch.fits(&left.job));
        Some(batch)
    }

    /// Whether the oldest job held is to be overtaken no more: it has been, or there is no time.
    fn is_next(&self, limit: u32) -> bool {
        let soon = Instant::now() + self.tuner.lock().expected(limit) * 2;
        let in_haste = self.held.front().is_some_and(|front| front.deadline <= soon);
        in_haste || self.overtaken >= MOST_OVERTAKEN
    }

    /// N just now; 0 for a model that does not batch.
    fn limit(&mut self) -> u32 {
        let limit = self.tuner.lock().limit(self.settler.round_trip());
        self.metrics.batch_limit.set(i64::from(limit));
        if self.plan.spec.batches() { limit } else { 0 }
    }

    /// How many rows of what is held run now, at most `limit`.
    fn cut(&self, limit: u32) -> u32 {
        if limit == 0 {
            return 0;
        }
        let waits =
            self.held.iter().map(|delivery| delivery.waited + delivery.claimed_at.elapsed());
        self.tuner.lock().take(self.held_rows(), waits.max().unwrap_or_default())
    }

    fn held_rows(&self) -> u32 {
        self.held.iter().map(|delivery| delivery.job.rows).sum()
    }
}

/// The answer to a job that never ran.
fn unrun(tracer: &Tracer, delivery: Delivery, failure: Failure, message: String) -> Answer {
    trace::unrun(tracer, &delivery, &message);
    let timing = Timing {
        queue: delivery.waited,
        batch_wait: delivery.claimed_at.elapsed(),
        ..Timing::default()
    };
    Answer::failure(delivery, timing, failure, message)
}

#[cfg(test)]
mod tests;
