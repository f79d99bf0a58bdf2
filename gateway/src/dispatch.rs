//! From an admitted request to its own answer: a seat, an id, the queue, the wait.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use batchfleet_broker::{
    BrokerError, EntryId, Failure, GatewayId, Job, Producer, QueueName, Reply, RequestId, Tensor,
    wire,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::{
    catalog::Model,
    error::InferError,
    metrics::{GatewayMetrics, Outcome},
};

/// How many withdrawals may wait; beyond that a job nobody waits for runs for nobody.
const WITHDRAWALS: usize = 4096;

/// What a request brings to the queue.
#[derive(Debug)]
pub(crate) struct Question {
    /// Inputs, checked against the model.
    pub(crate) inputs: Vec<Tensor>,
    /// Rows it takes in a batch.
    pub(crate) rows: u32,
    /// Wanted outputs; empty for all.
    pub(crate) outputs: Vec<String>,
    /// When the request arrived.
    pub(crate) arrived: Instant,
    /// When its answer is worth nothing any more.
    pub(crate) deadline: Instant,
}

/// Owns every accepted request until it is answered.
pub(crate) struct Dispatcher {
    gateway: GatewayId,
    producer: Arc<dyn Producer>,
    seats: Semaphore,
    draining: CancellationToken,
    pending: Mutex<HashMap<RequestId, Pending>>,
    withdrawals: mpsc::Sender<(QueueName, EntryId)>,
    metrics: GatewayMetrics,
}

/// A request whose answer is out.
struct Pending {
    digest: u64,
    caller: oneshot::Sender<Reply>,
}

impl Dispatcher {
    /// A dispatcher for `max_in_flight` requests at a time; it admits none once `draining`.
    ///
    /// Spawns the task that takes given-up jobs out of their queues; it ends with the dispatcher.
    pub(crate) fn new(
        gateway: GatewayId,
        producer: Arc<dyn Producer>,
        max_in_flight: usize,
        draining: CancellationToken,
        metrics: GatewayMetrics,
    ) -> Self {
        let (withdrawals, given_up) = mpsc::channel(WITHDRAWALS);
        tokio::spawn(withdraw(producer.clone(), given_up));
        Self {
            gateway,
            producer,
            seats: Semaphore::new(max_in_flight.min(Semaphore::MAX_PERMITS)),
            draining,
            pending: Mutex::default(),
            withdrawals,
            metrics,
        }
    }

    /// One question in, its own answer out. Dropping the future gives the request up.
    ///
    /// # Errors
    ///
    /// A refusal before the request is accepted; after that, how it ended instead.
    pub(crate) async fn infer(
        &self,
        model: &Arc<Model>,
        question: Question,
    ) -> Result<Reply, InferError> {
        let _seat = self.admit(model)?;
        let mut accepted = Accepted::new(self, model, question.arrived);
        let outcome = self.ask(&mut accepted, question).await;
        accepted.outcome = match &outcome {
            Ok(Reply { outcome: Ok(_), .. }) => Outcome::Ok,
            Ok(Reply { outcome: Err(error), .. }) => match error.failure {
                Failure::BadInput | Failure::Model => Outcome::ModelError,
                Failure::Poison => Outcome::Poison,
                Failure::Expired => Outcome::Expired,
            },
            Err(InferError::Deadline) => Outcome::Expired,
            Err(InferError::Misrouted) => Outcome::ModelError,
            Err(_) => Outcome::Unavailable,
        };
        outcome
    }

    fn admit(&self, model: &Model) -> Result<tokio::sync::SemaphorePermit<'_>, InferError> {
        if self.draining.is_cancelled() {
            return Err(InferError::Draining);
        }
        if !model.is_ready() {
            return Err(InferError::NoWorkers(model.spec.queue.model.clone()));
        }
        self.seats.try_acquire().map_err(|_| InferError::InFlight)
    }

    async fn ask(
        &self,
        accepted: &mut Accepted<'_>,
        question: Question,
    ) -> Result<Reply, InferError> {
        let digest = wire::digest(&question.inputs);
        let job = Job {
            id: accepted.id,
            gateway: self.gateway,
            attempt: 0,
            ttl: question.deadline.saturating_duration_since(Instant::now()),
            rows: question.rows,
            digest,
            inputs: question.inputs,
            outputs: question.outputs,
        };
        let (caller, answer) = oneshot::channel();
        self.pending().insert(job.id, Pending { digest, caller });
        let queue = &accepted.model.spec.queue;
        timeout_at(question.deadline, async {
            accepted.entry = Some(self.producer.submit(queue, &job).await?);
            answer.await.map_err(|_| InferError::Misrouted)
        })
        .await
        .unwrap_or(Err(InferError::Deadline))
    }

    /// Gives a reply to the caller it belongs to.
    pub(crate) fn resolve(&self, reply: Reply) {
        let Some(Pending { digest, caller }) = self.pending().remove(&reply.id) else {
            self.metrics.unclaimed_replies.inc();
            return;
        };
        if digest != reply.digest {
            error!(request = %reply.id, "an answer was computed from another input; not delivered");
            self.metrics.misrouted.inc();
            return; // Dropping `caller` tells the request.
        }
        if caller.send(reply).is_err() {
            self.metrics.unclaimed_replies.inc();
        }
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<RequestId, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An accepted request. However it ends, its books are closed by the drop; one that is dropped
/// before it ended was given up by its caller.
struct Accepted<'a> {
    dispatcher: &'a Dispatcher,
    model: &'a Arc<Model>,
    id: RequestId,
    arrived: Instant,
    entry: Option<EntryId>,
    outcome: Outcome,
}

impl<'a> Accepted<'a> {
    fn new(dispatcher: &'a Dispatcher, model: &'a Arc<Model>, arrived: Instant) -> Self {
        model.metrics.accepted();
        let id = RequestId::random();
        Self { dispatcher, model, id, arrived, entry: None, outcome: Outcome::Cancelled }
    }
}

impl Drop for Accepted<'_> {
    fn drop(&mut self) {
        self.model.metrics.answered(self.outcome, self.arrived.elapsed().as_secs_f64());
        let still_pending = self.dispatcher.pending().remove(&self.id).is_some();
        if let (true, Some(entry)) = (still_pending, self.entry) {
            let given_up = (self.model.spec.queue.clone(), entry);
            if self.dispatcher.withdrawals.try_send(given_up).is_err() {
                debug!(request = %self.id, "not withdrawn: too many withdrawals are waiting");
            }
        }
    }
}

/// Takes jobs that nobody waits for out of their queues.
async fn withdraw(producer: Arc<dyn Producer>, mut given_up: mpsc::Receiver<(QueueName, EntryId)>) {
    while let Some((queue, entry)) = given_up.recv().await {
        if let Err(error) = producer.withdraw(&queue, entry).await {
            debug!(%queue, %entry, %error, "not withdrawn");
            if matches!(error, BrokerError::Unreachable(_)) {
                // The queue expires it by itself; the broker deserves a pause.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
