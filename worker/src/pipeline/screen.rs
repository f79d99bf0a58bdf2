//! Decides which jobs may run. A job must fit the model, be able to meet its deadline, and have a
//! live gateway; all other jobs are answered without a run.

use std::sync::Arc;

use batchfleet_broker::{Consumer, Delivery, Failure};
use tokio::time::Instant;

use crate::{
    check::check,
    gateways::Gateways,
    job::HeldJob,
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
    ) -> Vec<HeldJob> {
        let (mut admitted, mut refused) = (Vec::with_capacity(claimed.len()), Vec::new());
        for delivery in claimed {
            let waited = delivery.waited.as_secs_f64();
            self.metrics.queue_wait.observe(waited, trace::id(&delivery));
            if delivery.deliveries > MOST_DEATHS {
                let message = format!("{MOST_DEATHS} workers died while they ran this request");
                refused.push(self.refuse(self.held(delivery), Failure::Poison, message));
            } else if delivery.job.lacks_inputs() {
                refused.push(JobReply::unfetched(delivery));
            } else if let Err(problem) = check(&self.plan.spec, &delivery.job) {
                refused.push(self.refuse(self.held(delivery), Failure::BadInput, problem));
            } else {
                admitted.push(self.held(delivery));
            }
        }
        settler.settle(refused).await;
        admitted
    }

    /// Keeps the jobs that have not expired and whose gateway is alive, and answers the others.
    pub(super) async fn drop_expired(
        &mut self,
        mut jobs: Vec<HeldJob>,
        settler: &mut Settler,
    ) -> Vec<HeldJob> {
        self.gateways.look(jobs.iter().map(|job| &job.delivery)).await;
        // Settling may have to wait, and more jobs may expire meanwhile.
        while jobs.iter().any(|job| self.is_vain(&job.delivery)) {
            let (vain, rest) = jobs.into_iter().partition(|job| self.is_vain(&job.delivery));
            jobs = rest;
            let vain: Vec<HeldJob> = vain;
            let answer = |job: HeldJob| {
                if self.is_awaited(&job.delivery) {
                    let message = expired(&job);
                    self.refuse(job, Failure::Expired, message)
                } else {
                    JobReply::orphaned(job.delivery)
                }
            };
            settler.settle(vain.into_iter().map(answer).collect()).await;
        }
        jobs
    }

    /// Answers `doomed` jobs. Their batch would end after their deadlines, and they must not
    /// displace jobs that can meet their deadlines.
    pub(super) async fn refuse_doomed(&self, doomed: Vec<HeldJob>, settler: &mut Settler) {
        let message = || "its batch would have ended after the deadline".to_owned();
        let answer = |job| self.refuse(job, Failure::Expired, message());
        settler.settle(doomed.into_iter().map(answer).collect()).await;
    }

    fn held(&self, delivery: Delivery) -> HeldJob {
        HeldJob::new(delivery, &self.plan.lengths)
    }

    fn is_vain(&self, delivery: &Delivery) -> bool {
        delivery.deadline <= Instant::now() || !self.is_awaited(delivery)
    }

    fn is_awaited(&self, delivery: &Delivery) -> bool {
        delivery.awaited && !self.gateways.is_gone(delivery)
    }

    /// The reply to a job whose rows, or whose remaining rows, never run.
    fn refuse(&self, job: HeldJob, failure: Failure, message: String) -> JobReply {
        trace::not_run(&self.plan.tracer, &job, &message);
        job.refused(failure, message)
    }
}

/// The message for a job that has expired.
fn expired(job: &HeldJob) -> String {
    if job.has_begun() {
        let (left, rows) = (job.rows_left(), job.delivery.job.rows);
        format!("the deadline passed before the last {left} of its {rows} rows ran")
    } else {
        "the deadline passed before its batch began".to_owned()
    }
}
