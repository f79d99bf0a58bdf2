//! Sends replies in the background, while the worker runs the next batch.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use batchfleet_broker::{
    Consumer, Delivery, Failure, Offer, Pushed, Reply, ReplyError, RequestId, Settlement, Tensor,
    Timing,
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    fetch::Pusher,
    metrics::{JobOutcome, ModelMetrics},
    retry::Outage,
};

/// Maximum number of concurrent settlements. If the maximum is reached, the broker is slow or
/// unreachable, and the worker waits instead of claiming jobs that it cannot answer.
const UNDER_WAY: usize = 4;

/// The reply to a job, and the deadline for sending it.
#[derive(Debug)]
pub(crate) struct JobReply {
    settlement: Settlement,
    deadline: Instant,
    outcome: JobOutcome,
    /// Where the gateway takes large outputs.
    offer: Option<Box<Offer>>,
}

impl JobReply {
    /// A reply with the outputs that the job requested.
    pub(crate) fn outputs(delivery: Delivery, timing: Timing, outputs: Vec<Tensor>) -> Self {
        let wanted = &delivery.job.outputs;
        let outputs = if wanted.is_empty() {
            outputs
        } else {
            outputs.into_iter().filter(|tensor| wanted.contains(&tensor.name)).collect()
        };
        Self::new(delivery, timing, Ok(outputs), JobOutcome::Ok)
    }

    /// A reply with the reason why there are no outputs.
    pub(crate) fn failure(
        delivery: Delivery,
        timing: Timing,
        failure: Failure,
        message: String,
    ) -> Self {
        let outcome = match failure {
            Failure::BadInput => JobOutcome::BadInput,
            Failure::Expired => JobOutcome::Expired,
            Failure::Model => JobOutcome::Model,
            Failure::Poison => JobOutcome::Poison,
            Failure::Unawaited => JobOutcome::Orphaned,
            Failure::Unfetched => JobOutcome::Unfetched,
        };
        Self::new(delivery, timing, Err(ReplyError { failure, message }), outcome)
    }

    /// A reply that only removes the job from the queue, because the job's gateway is gone.
    pub(crate) fn orphaned(delivery: Delivery) -> Self {
        let message = "its gateway is gone".to_owned();
        let orphaned = ReplyError { failure: Failure::Unawaited, message };
        Self::new(delivery, Timing::default(), Err(orphaned), JobOutcome::Orphaned)
    }

    /// A reply to a job whose inputs could not be fetched. Its gateway submits it again, if it still
    /// waits.
    pub(crate) fn unfetched(delivery: Delivery) -> Self {
        let message = "its inputs could not be fetched".to_owned();
        Self::failure(delivery, Timing::default(), Failure::Unfetched, message)
    }

    fn new(
        Delivery { entry, job, deadline, .. }: Delivery,
        timing: Timing,
        outputs: Result<Vec<Tensor>, ReplyError>,
        outcome: JobOutcome,
    ) -> Self {
        let reply = Reply {
            id: job.id,
            attempt: job.attempt,
            digest: job.digest,
            timing,
            outcome: outputs,
            pushed: None,
        };
        let settlement = Settlement { entry, gateway: job.gateway, reply };
        Self { settlement, deadline, outcome, offer: job.offer }
    }

    /// The request.
    pub(crate) fn id(&self) -> RequestId {
        self.settlement.reply.id
    }

    /// Where the gateway takes large outputs.
    pub(crate) fn offer(&self) -> Option<&Offer> {
        self.offer.as_deref()
    }

    /// The outputs; none of a job that failed.
    pub(crate) fn tensors(&self) -> &[Tensor] {
        self.settlement.reply.outcome.as_deref().unwrap_or_default()
    }

    /// Bytes of data of the outputs.
    pub(crate) fn output_bytes(&self) -> usize {
        self.tensors().iter().map(|output| output.data.len()).sum()
    }

    /// Records that the gateway has taken the outputs.
    pub(crate) fn set_pushed(&mut self, pushed: Pushed) {
        self.settlement.reply.pushed = Some(pushed);
    }

    /// The reply.
    #[cfg(test)]
    pub(crate) fn into_reply(self) -> Reply {
        self.settlement.reply
    }

    /// A copy for one attempt; the original stays for a retry.
    fn settlement(&self) -> Settlement {
        let Settlement { entry, gateway, ref reply } = self.settlement;
        Settlement { entry, gateway, reply: reply.clone() }
    }
}

/// Sends replies in the background.
pub(crate) struct Settler {
    consumer: Arc<dyn Consumer>,
    pusher: Pusher,
    metrics: ModelMetrics,
    under_way: JoinSet<()>,
    round_trip: RoundTrip,
}

impl Settler {
    /// A settler for one queue.
    pub(crate) fn new(consumer: Arc<dyn Consumer>, metrics: ModelMetrics) -> Self {
        let (under_way, round_trip) = (JoinSet::new(), RoundTrip::default());
        let pusher = Pusher::new(metrics.clone());
        Self { consumer, pusher, metrics, under_way, round_trip }
    }

    /// Starts to send `replies`; waits only while the maximum number of settlements is in flight.
    pub(crate) async fn settle(&mut self, mut replies: Vec<JobReply>) {
        if replies.is_empty() {
            return;
        }
        while self.under_way.try_join_next().is_some() {}
        while self.under_way.len() >= UNDER_WAY {
            self.under_way.join_next().await;
        }
        let (consumer, metrics) = (Arc::clone(&self.consumer), self.metrics.clone());
        let (pusher, round_trip) = (self.pusher.clone(), self.round_trip.clone());
        self.under_way.spawn(async move {
            pusher.push(&mut replies).await;
            settle(consumer, metrics, round_trip, replies).await;
        });
    }

    /// The average time of a settlement, shared with the caller.
    pub(crate) fn round_trip(&self) -> RoundTrip {
        self.round_trip.clone()
    }

    /// Waits until every reply is sent or given up.
    pub(crate) async fn finish(mut self) {
        while self.under_way.join_next().await.is_some() {}
    }
}

/// Retries until the broker accepts the replies or all deadlines have passed.
async fn settle(
    consumer: Arc<dyn Consumer>,
    metrics: ModelMetrics,
    round_trip: RoundTrip,
    replies: Vec<JobReply>,
) {
    let mut outage = Outage::new("settle replies");
    loop {
        let began = Instant::now();
        match consumer.settle(replies.iter().map(JobReply::settlement).collect()).await {
            Ok(undeliverable) => {
                outage.over();
                let took = began.elapsed();
                round_trip.observe(took);
                metrics.broker_seconds.observe(took.as_secs_f64());
                metrics.undeliverable_replies.inc_by(undeliverable as u64);
                for reply in &replies {
                    metrics.jobs(reply.outcome).inc();
                }
                return;
            }
            Err(error) => {
                metrics.broker_failed(&error);
                outage.failed(&error);
            }
        }
        outage.pause().await;
        if replies.iter().all(|reply| reply.deadline <= Instant::now()) {
            metrics.jobs(JobOutcome::Unanswered).inc_by(replies.len() as u64);
            return;
        }
    }
}

/// Moving average of the broker's round-trip time; 0 before the first measurement.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoundTrip(Arc<AtomicU64>);

impl RoundTrip {
    /// The average.
    pub(crate) fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Adds a measurement. If two settlements end simultaneously, one measurement may be lost,
    /// which hardly affects the average.
    fn observe(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.0.load(Ordering::Relaxed);
        let after = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.0.store(after, Ordering::Relaxed);
    }
}
