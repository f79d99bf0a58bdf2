//! Claims jobs when the pipeline asks for them.
//!
//! A claim is not cancel-safe, and may wait for the first job. A separate task therefore makes the
//! claims, so that the pipeline can stop waiting: jobs that arrive later belong to the next batch.

use std::time::Duration;

use batchfleet_broker::{Claims, Delivery};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinHandle},
    time::Instant,
};

use crate::{drain::Drain, fetch::Fetcher, lengths::RowLengths, retry::Outage};

/// How long a claim waits for the first job if nothing else limits the wait.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Weight of the latest job in the moving average of units per job.
const SMOOTHING: f64 = 0.2;

/// The result of a claim.
#[derive(Debug)]
pub(crate) struct ClaimedJobs {
    /// The jobs; none if no job arrived.
    pub(crate) deliveries: Vec<Delivery>,
    /// Whether the claim returned as many jobs as requested; if so, more jobs may wait.
    pub(crate) full: bool,
    /// Whether the queue was empty for a second.
    pub(crate) idle: bool,
    /// How long the claim took, and the fetches of inputs after it.
    pub(crate) took: Duration,
    /// How long the fetches took.
    pub(crate) fetching: Duration,
}

/// The pipeline's handle to the claiming task.
#[derive(Debug)]
pub(crate) struct Intake {
    asks: mpsc::Sender<Ask>,
    claims: mpsc::Receiver<Answer>,
    task: JoinHandle<()>,
    /// The claim in flight.
    under_way: Option<Ask>,
    lengths: RowLengths,
    /// Moving average; a job that is larger than a batch counts as a full batch.
    units_per_job: f64,
}

/// The jobs of a claim, and how long it took.
#[derive(Default)]
struct Answer {
    deliveries: Vec<Delivery>,
    took: Duration,
    fetching: Duration,
}

/// A request for jobs.
#[derive(Clone, Copy, Debug)]
struct Ask {
    /// Number of jobs.
    jobs: usize,
    /// Units of a full batch.
    limit: f64,
    /// How long to wait for the first job.
    wait: Duration,
}

impl Intake {
    /// Starts the claiming task, which retries failed claims until the drain begins.
    pub(crate) fn start(
        source: Box<dyn Claims>,
        fetcher: Fetcher,
        lengths: RowLengths,
        drain: Drain,
    ) -> Self {
        let (asks, asked) = mpsc::channel(1);
        let (sender, claims) = mpsc::channel(1);
        let task = tokio::spawn(claim_when_asked(source, fetcher, asked, sender, drain));
        Self { asks, claims, task, under_way: None, lengths, units_per_job: 1.0 }
    }

    /// Whether a claim is in flight.
    pub(crate) fn is_claiming(&self) -> bool {
        self.under_way.is_some()
    }

    /// Starts to claim jobs of about `units` units for batches of `limit` units, unless a claim is
    /// already in flight.
    pub(crate) fn ask(&mut self, units: f64, limit: f64) {
        self.ask_within(units, limit, LONGEST_WAIT);
    }

    /// [`ask`](Self::ask) with a claim that waits for the first job for up to `wait`.
    pub(crate) fn ask_within(&mut self, units: f64, limit: f64, wait: Duration) {
        if self.under_way.is_none() {
            let ask = Ask { jobs: jobs_for(units, self.units_per_job), limit, wait };
            // The channel has room, because a request is sent only after the previous request was
            // answered.
            self.under_way = self.asks.try_send(ask).is_ok().then_some(ask);
        }
    }

    /// Waits for the claim in flight; cancel-safe. `None` if the claiming task has ended.
    pub(crate) async fn claimed(&mut self) -> Option<ClaimedJobs> {
        let answer = self.claims.recv().await?;
        Some(self.count(answer))
    }

    /// The jobs of the claim in flight, if it has ended.
    pub(crate) fn claimed_already(&mut self) -> Option<ClaimedJobs> {
        let answer = self.claims.try_recv().ok()?;
        Some(self.count(answer))
    }

    fn count(&mut self, Answer { deliveries, took, fetching }: Answer) -> ClaimedJobs {
        let unasked = Ask { jobs: usize::MAX, limit: 1.0, wait: LONGEST_WAIT };
        let Ask { jobs, limit, wait } = self.under_way.take().unwrap_or(unasked);
        for delivery in &deliveries {
            let units = self.lengths.units(&delivery.job).clamp(1.0, limit.max(1.0));
            self.units_per_job += (units - self.units_per_job) * SMOOTHING;
        }
        let idle = deliveries.is_empty() && wait >= LONGEST_WAIT;
        ClaimedJobs { full: deliveries.len() >= jobs, idle, took, fetching, deliveries }
    }

    /// Ends the claiming task. Returns its last jobs, or an error if the task has crashed.
    pub(crate) async fn stop(self) -> Result<Vec<Delivery>, JoinError> {
        let Self { asks, mut claims, task, .. } = self;
        drop(asks);
        let last = claims.recv().await.unwrap_or_default();
        task.await?;
        Ok(last.deliveries)
    }
}

async fn claim_when_asked(
    mut source: Box<dyn Claims>,
    fetcher: Fetcher,
    mut asked: mpsc::Receiver<Ask>,
    claims: mpsc::Sender<Answer>,
    drain: Drain,
) {
    let mut outage = Outage::new("claim jobs");
    while let Some(Ask { jobs, wait, .. }) = asked.recv().await {
        let answer = loop {
            let began = Instant::now();
            match source.claim_within(jobs, wait).await {
                Ok(mut deliveries) => {
                    outage.over();
                    let fetching = fetcher.fetch(&mut deliveries).await;
                    break Answer { deliveries, took: began.elapsed(), fetching };
                }
                Err(error) => outage.failed(&error),
            }
            tokio::select! {
                () = outage.pause() => {}
                () = drain.begun() => break Answer::default(),
            }
        };
        if claims.send(answer).await.is_err() {
            return;
        }
    }
}

/// Number of jobs to claim for about `units` units; at least 1.
fn jobs_for(units: f64, units_per_job: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to u32::MAX")]
    let jobs = (units / units_per_job.max(1.0)).ceil().max(1.0) as usize;
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_fewer_jobs_where_jobs_have_many_rows() {
        for (units, units_per_job, jobs) in
            [(16.0, 1.0, 16), (16.0, 4.0, 4), (16.0, 3.0, 6), (16.0, 64.0, 1), (0.0, 1.0, 1)]
        {
            assert_eq!(jobs_for(units, units_per_job), jobs, "{units} units of {units_per_job}");
        }
    }
}
