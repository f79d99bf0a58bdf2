//! Decides which jobs may run. A job must fit the model, be able to meet its deadline, and have a
//! live gateway; all other jobs are answered without a run.

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

/// A job is poison, and does not run again, after this many workers have died while holding it.
const MOST_DEATHS: u32 = 3;

/// Filters out the jobs that must not run.
pub(super) struct Screen {
    plan: Arc<ServingPlan>,
    gateways: Gateways,
    metrics: ModelMetrics,
}

impl Screen {
    /// A screen for the jobs of one queue.
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
            } else if let Err(problem) = check(&self.plan.spec, &delivery.job) {
                refused.push(self.refuse(delivery, Failure::BadInput, problem));
            } else {
                admitted.push(delivery);
            }
        }
        settler.settle(refused).await;
        admitted
    }

    /// Keeps the jobs that have not expired and whose gateway is alive, and answers the others.
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

    /// Answers the oldest `doomed` jobs. Their batch would end after their deadlines, and they must
    /// not displace jobs that can meet their deadlines.
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
