//! Sends answers, beside whatever the worker does next.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use batchfleet_broker::{
    Consumer, Delivery, Failure, Reply, ReplyError, Settlement, Tensor, Timing,
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    metrics::{ModelMetrics, Outcome},
    retry::Outage,
};

/// Settlements that may be under way at once. More means that the broker is slow or away, and the
/// worker stops rather than claim what it cannot answer.
const UNDER_WAY: usize = 4;

/// An answer, and until when it is worth sending.
#[derive(Debug)]
pub(crate) struct Answer {
    settlement: Settlement,
    deadline: Instant,
    outcome: Outcome,
}

impl Answer {
    /// The outputs a job asked for.
    pub(crate) fn outputs(delivery: Delivery, timing: Timing, outputs: Vec<Tensor>) -> Self {
        let wanted = &delivery.job.outputs;
        let outputs = if wanted.is_empty() {
            outputs
        } else {
            outputs.into_iter().filter(|tensor| wanted.contains(&tensor.name)).collect()
        };
        Self::new(delivery, timing, Ok(outputs), Outcome::Ok)
    }

    /// Why there are no outputs.
    pub(crate) fn failure(
        delivery: Delivery,
        timing: Timing,
        failure: Failure,
        message: String,
    ) -> Self {
        let outcome = match failure {
            Failure::BadInput => Outcome::BadInput,
            Failure::Expired => Outcome::Expired,
            Failure::Model => Outcome::Model,
            Failure::Poison => Outcome::Poison,
            Failure::Unawaited => Outcome::Orphaned,
        };
        Self::new(delivery, timing, Err(ReplyError { failure, message }), outcome)
    }

    /// What takes a job out of the queue that nobody waits for.
    pub(crate) fn orphaned(delivery: Delivery) -> Self {
        let message = "its gateway is gone".to_owned();
        let nobody = ReplyError { failure: Failure::Unawaited, message };
        Self::new(delivery, Timing::default(), Err(nobody), Outcome::Orphaned)
    }

    fn new(
        Delivery { entry, job, deadline, .. }: Delivery,
        timing: Timing,
        outputs: Result<Vec<Tensor>, ReplyError>,
        outcome: Outcome,
    ) -> Self {
        let reply = Reply {
            id: job.id,
            attempt: job.attempt,
            digest: job.digest,
            timing,
            outcome: outputs,
        };
        let settlement = Settlement { entry, gateway: job.gateway, reply };
        Self { settlement, deadline, outcome }
    }

    /// The settlement once more: a try that fails keeps it.
    fn settlement(&self) -> Settlement {
        let Settlement { entry, gateway, ref reply } = self.settlement;
        Settlement { entry, gateway, reply: reply.clone() }
    }
}

/// Settles answers in the background.
pub(crate) struct Settler {
    consumer: Arc<dyn Consumer>,
    metrics: ModelMetrics,
    under_way: JoinSet<()>,
    round_trip: Arc<RoundTrip>,
}

impl Settler {
    /// For one queue.
    pub(crate) fn new(consumer: Arc<dyn Consumer>, metrics: ModelMetrics) -> Self {
        let (under_way, round_trip) = (JoinSet::new(), Arc::default());
        Self { consumer, metrics, under_way, round_trip }
    }

    /// Begins to send `answers`; waits only while too much is under way.
    pub(crate) async fn settle(&mut self, answers: Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        while self.under_way.try_join_next().is_some() {}
        while self.under_way.len() >= UNDER_WAY {
            self.under_way.join_next().await;
        }
        let (consumer, metrics) = (Arc::clone(&self.consumer), self.metrics.clone());
        let round_trip = Arc::clone(&self.round_trip);
        self.under_way.spawn(settle(consumer, metrics, round_trip, answers));
    }

    /// How long the broker takes to answer, on average.
    pub(crate) fn round_trip(&self) -> Duration {
        self.round_trip.get()
    }

    /// Waits until every answer was sent or given up.
    pub(crate) async fn finish(mut self) {
        while self.under_way.join_next().await.is_some() {}
    }
}

/// Tries until it goes well or nobody waits any more.
async fn settle(
    consumer: Arc<dyn Consumer>,
    metrics: ModelMetrics,
    round_trip: Arc<RoundTrip>,
    answers: Vec<Answer>,
) {
    let mut outage = Outage::new("send answers");
    loop {
        let began = Instant::now();
        match consumer.settle(answers.iter().map(Answer::settlement).collect()).await {
            Ok(undeliverable) => {
                outage.over();
                let took = began.elapsed();
                round_trip.observe(took);
                metrics.broker_seconds.observe(took.as_secs_f64());
                metrics.undeliverable_replies.inc_by(undeliverable as u64);
                for answer in &answers {
                    metrics.jobs(answer.outcome).inc();
                }
                return;
            }
            Err(error) => {
                metrics.broker_failed(&error);
                outage.failed(&error);
            }
        }
        outage.pause().await;
        if answers.iter().all(|answer| answer.deadline <= Instant::now()) {
            metrics.jobs(Outcome::Unanswered).inc_by(answers.len() as u64);
            return;
        }
    }
}

/// A smoothed duration; 0 before the first.
#[derive(Debug, Default)]
struct RoundTrip(AtomicU64);

impl RoundTrip {
    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Two settlements may end at once and one be lost here; it is an average.
    fn observe(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.0.load(Ordering::Relaxed);
        let after = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.0.store(after, Ordering::Relaxed);
    }
}
