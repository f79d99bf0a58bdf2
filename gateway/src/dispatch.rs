//! From an admitted request to its own answer: a seat, an id, the queue, the wait.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use batchfleet_broker::{
    BrokerError, EntryId, Failure, GatewayId, Job, Priority, Producer, QueueName, Reply, RequestId,
    Tensor, TraceContext,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, SemaphorePermit, mpsc},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, error};

use crate::{
    error::InferError,
    ledger::{Ledger, Resolution},
    mailbox::{Address, Mailbox},
    metrics::{GatewayMetrics, Outcome},
    model::Model,
};

/// How many withdrawals may wait; beyond that a job nobody waits for runs for nobody.
const WITHDRAWALS: usize = 4096;
/// Jobs of so many bytes together are sent at once. One that is larger is sent alone, and nobody
/// waits behind it.
const TOGETHER: usize = 256 << 10;
/// How long an answer proves that the queue is, or will soon be, in reach.
const JUST_NOW: Duration = Duration::from_secs(1);
/// Refused clients are told different times, or all would come back at once.
const JITTER: Range<f64> = 0.8..1.2;

/// What a request brings to the queue.
#[derive(Debug)]
pub(crate) struct Question {
    /// Inputs, checked against the model.
    pub(crate) inputs: Vec<Tensor>,
    /// Their [`digest`](batchfleet_broker::wire::digest).
    pub(crate) digest: u64,
    /// Rows it takes in a batch.
    pub(crate) rows: u32,
    /// Wanted outputs; empty for all.
    pub(crate) outputs: Vec<String>,
    /// Which class it waits in.
    pub(crate) priority: Priority,
    /// Its span, if it is traced.
    pub(crate) trace: Option<TraceContext>,
    /// When the request arrived.
    pub(crate) arrived: Instant,
    /// When its answer is worth nothing any more.
    pub(crate) deadline: Instant,
}

/// Owns every accepted request until it is answered.
pub(crate) struct Dispatcher {
    gateway: GatewayId,
    pub(crate) producer: Arc<dyn Producer>,
    seats: Semaphore,
    draining: CancellationToken,
    ledger: Mutex<Ledger<Caller>>,
    /// Told that somebody stands in the ledger's line.
    lined_up: Notify,
    withdrawals: mpsc::Sender<(QueueName, EntryId)>,
    queue_full: AtomicBool,
    /// Whose tasks keep the way to the queue: not that of the threads that serve HTTP.
    runtime: Handle,
    started: Instant,
    /// When an answer last came, in milliseconds from the start.
    heard: AtomicU64,
    pub(crate) metrics: GatewayMetrics,
}

/// Who asked, and for what.
pub(crate) struct Caller {
    pub(crate) model: Arc<Model>,
    rows: u32,
    address: Address,
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
            ledger: Mutex::new(Ledger::new(max_in_flight, Instant::now())),
            lined_up: Notify::new(),
            withdrawals,
            queue_full: AtomicBool::new(false),
            runtime: Handle::current(),
            started: Instant::now(),
            heard: AtomicU64::new(0),
            metrics,
        }
    }

    /// One question in, its own answer out, by way of the `mailbox` of this thread. Dropping the
    /// future gives the request up.
    ///
    /// # Errors
    ///
    /// A refusal before the request is accepted; after that, how it ended instead.
    pub(crate) async fn infer(
        self: &Arc<Self>,
        model: &Arc<Model>,
        question: Question,
        mailbox: &Mailbox,
    ) -> Result<Reply, InferError> {
        let _seat = self
            .admit(model, &question)
            .inspect_err(|error| model.metrics.refused(error.code()))?;
        let mut accepted = Accepted::new(self, model, &question);
        let outcome = self.ask(&accepted, question, mailbox).await;
        accepted.outcome = match &outcome {
            Ok(Reply { outcome: Ok(_), .. }) => Outcome::Ok,
            Ok(Reply { outcome: Err(error), .. }) => match error.failure {
                Failure::BadInput | Failure::Model => Outcome::ModelError,
                Failure::Poison => Outcome::Poison,
                Failure::Expired | Failure::Unawaited => Outcome::Expired,
            },
            Err(InferError::Deadline) => Outcome::Expired,
            Err(InferError::Misrouted) => Outcome::ModelError,
            Err(_) => Outcome::Unavailable,
        };
        outcome
    }

    /// Refuses what cannot be served now, or not in time.
    fn admit(&self, model: &Model, question: &Question) -> Result<SemaphorePermit<'_>, InferError> {
        if self.draining.is_cancelled() {
            return Err(InferError::Draining);
        }
        if !model.is_wakeful() {
            return Err(InferError::NoWorkers(model.spec.queue.model.clone()));
        }
        if !self.is_reachable() {
            return Err(InferError::QueueUnreachable);
        }
        if self.queue_full.load(Ordering::Relaxed) {
            return Err(InferError::QueueFull);
        }
        let remaining = question.deadline.saturating_duration_since(Instant::now());
        let share = share(question.priority);
        batchfleet_policy::admit(&model.ahead(question.priority), remaining, share)
            .map_err(|away| InferError::QueueWait(away.mul_f64(rand::random_range(JITTER))))?;
        self.seats.try_acquire().map_err(|_| InferError::InFlight)
    }

    /// Whether the queue can be reached, or will be in a moment: answers may be back before the way
    /// to the queue is, and their callers ask again at once.
    pub(crate) fn is_reachable(&self) -> bool {
        let heard = || Duration::from_millis(self.heard.load(Ordering::Relaxed)) + JUST_NOW;
        self.producer.is_ready() || self.started.elapsed() < heard()
    }

    /// Whether the queue's memory is so full that it should take no more.
    pub(crate) fn set_queue_full(&self, full: bool) {
        self.queue_full.store(full, Ordering::Relaxed);
    }

    async fn ask(
        self: &Arc<Self>,
        accepted: &Accepted<'_>,
        question: Question,
        mailbox: &Mailbox,
    ) -> Result<Reply, InferError> {
        let job = Arc::new(Job {
            id: accepted.id,
            gateway: self.gateway,
            attempt: 0,
            priority: question.priority,
            ttl: question.deadline.saturating_duration_since(Instant::now()),
            rows: question.rows,
            digest: question.digest,
            inputs: question.inputs,
            outputs: question.outputs,
            trace: question.trace.filter(|_| accepted.model.is_traced()),
        });
        let (address, answer) = mailbox.address();
        let caller = Caller { model: accepted.model.clone(), rows: job.rows, address };
        let _sending = self.leave(job, question.deadline, caller);
        match timeout_at(question.deadline, answer).await {
            Ok(answer) => answer.unwrap_or(Err(InferError::Misrouted)),
            // A request that never reached the queue was not slow: the queue was away.
            Err(_) if self.give_up(accepted.model, accepted.id) => Err(InferError::Deadline),
            Err(_) => Err(InferError::QueueUnreachable),
        }
    }

    /// Takes on a request and has its job sent by the tasks beside the connection to the queue, whose
    /// confirmation then wakes no thread that serves HTTP. To be held until it is answered.
    fn leave(
        self: &Arc<Self>,
        job: Arc<Job>,
        deadline: Instant,
        caller: Caller,
    ) -> Option<AbortOnDropHandle<()>> {
        let mut ledger = self.ledger();
        if job.size() > TOGETHER {
            let (dispatcher, model) = (self.clone(), caller.model.clone());
            ledger.accept(job.clone(), deadline, caller);
            let sending = async move {
                let sent = dispatcher.send(&model, &job).await;
                dispatcher.refuse(&job, sent);
            };
            return Some(AbortOnDropHandle::new(self.runtime.spawn(sending)));
        }
        ledger.line_up(job.id);
        ledger.accept(job, deadline, caller);
        drop(ledger);
        self.lined_up.notify_one();
        None
    }

    /// Sends a job to its queue. One that may not have arrived is kept, to be sent again when the
    /// queue is back: the caller need not know.
    pub(crate) async fn send(&self, model: &Model, job: &Job) -> Result<(), InferError> {
        self.note(model, job, self.producer.submit(&model.spec.queue, job).await)
    }

    /// The next jobs to be sent together; waits for the first.
    async fn next_in_line(&self) -> Vec<(Arc<Model>, Arc<Job>)> {
        loop {
            let with_model = |(job, caller): (_, &Caller)| (caller.model.clone(), job);
            let next: Vec<_> =
                self.ledger().next_in_line(TOGETHER).into_iter().map(with_model).collect();
            if !next.is_empty() {
                return next;
            }
            self.lined_up.notified().await;
        }
    }

    /// Tells the caller of a new job if its queue refused it.
    fn refuse(&self, job: &Job, sent: Result<(), InferError>) {
        if let Err(error) = sent
            && let Some(caller) = self.ledger().release(job.id)
        {
            caller.address.send(Err(error));
        }
    }

    /// Takes note of what became of a job that was submitted.
    fn note(
        &self,
        model: &Model,
        job: &Job,
        submitted: Result<EntryId, BrokerError>,
    ) -> Result<(), InferError> {
        let queue = &model.spec.queue;
        if let Err(error) = &submitted {
            self.metrics.broker_failed(error);
        }
        match submitted {
            Ok(entry) => {
                if !self.ledger().sent(job.id, entry, Instant::now()) {
                    self.withdraw(queue, entry);
                }
                Ok(())
            }
            Err(BrokerError::Unreachable(_)) => {
                self.ledger().unsent(job.id);
                Ok(())
            }
            Err(BrokerError::Full) => Err(InferError::QueueFull),
            Err(error) => {
                error!(%queue, %error, "a job was refused");
                Err(InferError::QueueUnreachable)
            }
        }
    }

    /// Gives a reply to the caller it belongs to.
    pub(crate) fn resolve(&self, reply: Reply) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
        if reply.outcome.as_ref().is_err_and(|error| error.failure == Failure::Unawaited) {
            // The sweep sends it again.
            self.ledger().unawaited(reply.id, reply.attempt, Instant::now());
            return;
        }
        let resolution = self.ledger().resolve(&reply);
        let delivered = match resolution {
            Resolution::Deliver(caller) => {
                caller.model.watch.ran(caller.rows, &reply.timing);
                caller.address.send(Ok(reply))
            }
            Resolution::Unclaimed => false,
            // Dropping the caller's channel tells the caller.
            Resolution::Misrouted(_) => {
                error!(request = %reply.id, "computed from another input; not delivered");
                self.metrics.misrouted.inc();
                true
            }
        };
        if !delivered {
            self.metrics.unclaimed_replies.inc();
        }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger<Caller>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a request without an answer. Returns whether it was in its queue.
    fn give_up(&self, model: &Model, id: RequestId) -> bool {
        let entry = self.ledger().forget(id);
        if let Some(entry) = entry {
            self.withdraw(&model.spec.queue, entry);
        }
        entry.is_some()
    }

    fn withdraw(&self, queue: &QueueName, entry: EntryId) {
        if self.withdrawals.try_send((queue.clone(), entry)).is_err() {
            debug!(%queue, %entry, "not withdrawn: too many withdrawals are waiting");
        }
    }
}

/// An accepted request. However it ends, its books are closed by the drop; one that is dropped
/// before it ended was given up by its caller.
struct Accepted<'a> {
    dispatcher: &'a Dispatcher,
    model: &'a Arc<Model>,
    id: RequestId,
    trace: Option<TraceContext>,
    arrived: Instant,
    outcome: Outcome,
}

impl<'a> Accepted<'a> {
    fn new(dispatcher: &'a Dispatcher, model: &'a Arc<Model>, question: &Question) -> Self {
        model.accepted();
        let (id, &Question { trace, arrived, .. }) = (RequestId::random(), question);
        Self { dispatcher, model, id, trace, arrived, outcome: Outcome::Cancelled }
    }
}

impl Drop for Accepted<'_> {
    fn drop(&mut self) {
        let took = self.arrived.elapsed();
        let (model, outcome) = (&self.model.spec.queue, self.outcome.label());
        let trace = self.trace.map(tracing::field::display);
        debug!(%model, request = %self.id, trace, outcome, ?took, "answered");
        self.model.answered(self.outcome, took);
        self.dispatcher.give_up(self.model, self.id);
    }
}

/// How much of its deadline a request may spend waiting: under overload the sheddable go first.
const fn share(priority: Priority) -> f64 {
    match priority {
        Priority::Critical => 1.0,
        Priority::Default => 0.75,
        Priority::Sheddable => 0.25,
    }
}

/// Task: sends small jobs to their queues, together with all that came while the last were sent.
pub(crate) async fn hand_over(dispatcher: Arc<Dispatcher>) {
    loop {
        let leaving = dispatcher.next_in_line().await;
        let jobs: Vec<_> = leaving.iter().map(|(model, job)| (&model.spec.queue, &**job)).collect();
        let submitted = dispatcher.producer.submit_all(&jobs).await;
        for ((model, job), submitted) in leaving.iter().zip(submitted) {
            dispatcher.refuse(job, dispatcher.note(model, job, submitted));
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
mod simulation;
#[cfg(test)]
mod tests;
