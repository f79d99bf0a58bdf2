//! Which jobs may run: those that fit the model, can be answered in time, and whose gateway still
//! listens. All others are answered without a run.

use std::sync::Arc;

use batchfleet_broker::{Consumer, Delivery, Failure, Timing};
use tokio::time::Instant;

use super::held::HeldJobs;
use crate::{
    check::check,
    gateways::Gateways,
    metrics::ModelMetrics,
    plan::ServingPlan,
    settle::{JobReply, Settler},
    trace,
};

/// A job that this many workers died with is poison, and runs no more.
const MOST_DEATHS: u32 = 3;

/// Sorts out the jobs that must not run.
pub(super) struct Screen {
    plan: Arc<ServingPlan>,
    gateways: Gateways,
    metrics: ModelMetrics,
}

impl Screen {
    /// For the jobs of one queue.
    pub(super) fn new(
        plan: Arc<ServingPlan>,
        consumer: Arc<dyn Consumer>,
        metrics: ModelMetrics,
    ) -> Self {
        Self { plan, gateways: Gateways::new(consumer), metrics }
    }

    /// Keeps the claimed jobs that may run, and answers the others.
    pub(super) async fn admit(
        &self,
        claimed: Vec<Delivery>,
        settler: &mut Settler,
    ) -> Vec<Delivery> {
        let (mut admitted, mut refused) = (Vec::with_capacity(claimed.len()), Vec::new());
        for delivery in claimed {
            self.metrics.queue_wait.observe(delivery.waited.as_secs_f64());
            if delivery.deliveries > MOST_DEATHS {
                let message = format!("{MOST_DEATHS} workers died while they ran this request");
                refused.push(self.refuse(delivery, Failure::Poison, message));
            } else if let Err(problem) = check(&self.plan.spec, self.plan.text_only, &delivery.job)
            {
                refused.push(self.refuse(delivery, Failure::BadInput, problem));
            } else {
                admitted.push(delivery);
            }
        }
        settler.settle(refused).await;
        admitted
    }

    /// Keeps the jobs before their deadline whose gateway still listens, and answers the others.
    pub(super) async fn drop_expired(
        &mut self,
        mut jobs: Vec<Delivery>,
        settler: &mut Settler,
    ) -> Vec<Delivery> {
        self.gateways.look(&jobs).await;
        // Settling may have to wait, and more jobs may expire meanwhile.
        while jobs.iter().any(|job| self.is_vain(job)) {
            let (vain, rest) = jobs.into_iter().partition(|job| self.is_vain(job));
            jobs = rest;
            let vain: Vec<Delivery> = vain;
            let message = || "the deadline passed before its batch began".to_owned();
            let answer = |job: Delivery| {
                if self.is_awaited(&job) {
                    self.refuse(job, Failure::Expired, message())
                } else {
                    JobReply::orphaned(job)
                }
            };
            settler.settle(vain.into_iter().map(answer).collect()).await;
        }
        jobs
    }

    /// Answers the oldest `doomed` jobs: their batch would end after their deadline, and they must
    /// not run in the place of jobs that can be in time.
    pub(super) async fn refuse_doomed(
        &self,
        held: &mut HeldJobs,
        doomed: usize,
        settler: &mut Settler,
    ) {
        let message = || "its batch would have ended after the deadline".to_owned();
        let answer = |job| self.refuse(job, Failure::Expired, message());
        settler.settle(held.take_oldest(doomed).into_iter().map(answer).collect()).await;
    }

    fn is_vain(&self, delivery: &Delivery) -> bool {
        delivery.deadline <= Instant::now() || !self.is_awaited(delivery)
    }

    fn is_awaited(&self, delivery: &Delivery) -> bool {
        delivery.awaited && !self.gateways.is_gone(delivery)
    }

    /// The reply to a job that never runs.
    fn refuse(&self, delivery: Delivery, failure: Failure, message: String) -> JobReply {
        trace::not_run(&self.plan.tracer, &delivery, &message);
        let timing = Timing {
            queue: delivery.waited,
            batch_wait: delivery.claimed_at.elapsed(),
            ..Timing::default()
        };
        JobReply::failure(delivery, timing, failure, message)
    }
}
