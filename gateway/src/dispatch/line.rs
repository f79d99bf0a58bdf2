//! Submits jobs to their queues, in pipelines.
//!
//! Small jobs wait in a line, and one task submits the whole line as one pipeline of commands. The
//! task runs on the runtime of the connection to Redis, so that a confirmation does not wake an
//! HTTP thread.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{
    BrokerError, ClassCount, EntryId, GatewayId, Job, Offer, Priority, Producer, QueueName,
    RequestId, Tensor, TraceContext, throttle::Throttle,
};
use batchfleet_oip::Problem;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error};

use super::{
    caller::{Caller, SharedLedger},
    offers::Offers,
};
use crate::{
    error::InferError, ledger::Ledger, mailbox::Address, metrics::GatewayMetrics, model::Model,
};

/// Maximum number of pending withdrawals. Beyond the maximum, jobs of callers that left still run.
const WITHDRAWALS: usize = 4096;
/// Pause after a failed withdrawal. Workers drop the job once it has expired.
const WITHDRAWAL_PAUSE: Duration = Duration::from_millis(100);
/// Minimum time between two log lines about jobs that the queue refused.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Maximum size of a pipeline, in bytes of jobs. A larger job bypasses the line.
const PIPELINE_BYTES: usize = 256 << 10;

/// A request in the form that the queue needs.
#[derive(Debug)]
pub(crate) struct JobRequest {
    /// The request's own id, drawn at random.
    pub(crate) id: RequestId,
    /// Inputs, checked against the model.
    pub(crate) inputs: Vec<Tensor>,
    /// The [`digest`](batchfleet_broker::wire::digest) of the inputs.
    pub(crate) digest: u64,
    /// Rows the request takes in a batch.
    pub(crate) rows: u32,
    /// Wanted outputs; empty for all.
    pub(crate) outputs: Vec<String>,
    /// Outputs of which the caller wants classes.
    pub(crate) classes: Vec<ClassCount>,
    /// The priority class of the request.
    pub(crate) priority: Priority,
    /// The request's span, if the request is traced.
    pub(crate) trace: Option<TraceContext>,
    /// When the caller stops waiting.
    pub(crate) deadline: Instant,
}

/// Submits jobs to their queues, and withdraws the jobs of callers that left.
pub(super) struct JobLine {
    gateway: GatewayId,
    producer: Arc<dyn Producer>,
    ledger: SharedLedger,
    /// Notified when a job joins the line.
    joined: Notify,
    withdrawals: mpsc::Sender<(QueueName, EntryId)>,
    /// The runtime of the connection to Redis.
    runtime: Handle,
    metrics: GatewayMetrics,
    offers: Offers,
    /// Limits the log lines about jobs that the queue refuses, which callers can cause.
    submit_failures: Mutex<Throttle>,
}

/// A request in the line or in its queue. Dropping the value withdraws the job, if the request has
/// no answer yet.
pub(super) struct InLine<'a> {
    line: &'a JobLine,
    queue: &'a QueueName,
    id: RequestId,
    /// The task that submits a job too large for the line.
    sending: Option<AbortOnDropHandle<()>>,
}

impl JobLine {
    /// Creates an empty line, and the task that withdraws jobs. The task ends when the line is
    /// dropped.
    pub(super) fn open(
        gateway: GatewayId,
        producer: Arc<dyn Producer>,
        ledger: SharedLedger,
        metrics: GatewayMetrics,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (withdrawals, given_up) = mpsc::channel(WITHDRAWALS);
        let withdrawing = withdraw_all(producer.clone(), given_up);
        let (joined, runtime) = (Notify::new(), Handle::current());
        let submit_failures = Mutex::new(Throttle::new(LOG_EVERY));
        let line = Self {
            gateway,
            producer,
            ledger,
            joined,
            withdrawals,
            runtime,
            metrics,
            offers: Offers::default(),
            submit_failures,
        };
        (line, withdrawing)
    }

    /// Adds a request to the ledger, and starts the submission of its job.
    pub(super) fn put<'a>(
        self: &'a Arc<Self>,
        model: &'a Arc<Model>,
        request: JobRequest,
        address: Address,
    ) -> InLine<'a> {
        let (id, deadline) = (request.id, request.deadline);
        let job = Arc::new(self.job(model, request));
        let caller = Caller { model: model.clone(), rows: job.rows, address };
        let mut ledger = self.ledger.lock();
        let sending = if job.size() > PIPELINE_BYTES {
            ledger.accept(job.clone(), deadline, caller);
            drop(ledger);
            let (line, model) = (self.clone(), model.clone());
            let send = async move {
                let sent = line.send(&model, &job).await;
                line.refuse(&job, sent);
            };
            Some(AbortOnDropHandle::new(self.runtime.spawn(send)))
        } else {
            ledger.line_up(id);
            ledger.accept(job, deadline, caller);
            drop(ledger);
            self.joined.notify_one();
            None
        };
        InLine { line: self, queue: &model.spec.queue, id, sending }
    }

    fn job(&self, model: &Model, request: JobRequest) -> Job {
        let offer = self.offers.offer(model, &request.inputs).map(Box::new);
        if offer.as_deref().is_some_and(Offer::has_inputs) {
            self.metrics.tensors.offered.inc();
        }
        Job {
            offer,
            id: request.id,
            gateway: self.gateway,
            attempt: 0,
            priority: request.priority,
            ttl: request.deadline.saturating_duration_since(Instant::now()),
            rows: request.rows,
            digest: request.digest,
            inputs: request.inputs,
            outputs: request.outputs,
            trace: request.trace.filter(|_| model.is_traced()),
            classes: request.classes,
        }
    }

    /// Waits for jobs in the line, and takes the jobs of the next pipeline.
    async fn next(&self) -> Vec<(Arc<Model>, Arc<Job>)> {
        loop {
            let with_model = |(job, caller): (_, &Caller)| (caller.model.clone(), job);
            let next: Vec<_> = self
                .ledger
                .lock()
                .next_in_line(PIPELINE_BYTES)
                .into_iter()
                .map(with_model)
                .collect();
            if !next.is_empty() {
                return next;
            }
            self.joined.notified().await;
        }
    }

    /// Submits a job to its queue. A request whose job may not have arrived stays in the ledger as
    /// unsent, and the sweep submits the job again.
    ///
    /// # Errors
    ///
    /// The queue refused the job.
    pub(super) async fn send(&self, model: &Model, job: &Job) -> Result<(), InferError> {
        self.note(model, job, self.producer.submit(&model.spec.queue, job).await)
    }

    /// Updates the ledger after an attempt to submit a job.
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
                if !self.ledger.lock().sent(job.id, entry, Instant::now()) {
                    self.withdraw(queue, entry);
                }
                Ok(())
            }
            Err(BrokerError::Unreachable(_)) => {
                self.ledger.lock().unsent(job.id);
                Ok(())
            }
            Err(BrokerError::Full) => Err(InferError::QueueFull),
            Err(error @ BrokerError::TooLarge { .. }) => {
                let (status, code) = (413, "too_large");
                Err(Problem { status, code, message: error.to_string() }.into())
            }
            Err(error) => {
                if let Some(omitted) = self.submit_failures.lock().admit() {
                    error!(%queue, %error, omitted, "failed to submit job");
                }
                Err(InferError::QueueUnreachable)
            }
        }
    }

    /// Answers the caller of a job that the queue refused.
    pub(super) fn refuse(&self, job: &Job, sent: Result<(), InferError>) {
        if let Err(error) = sent
            && let Some(caller) = self.ledger.lock().release(job.id)
        {
            caller.address.send(Err(error));
        }
    }

    fn withdraw(&self, queue: &QueueName, entry: EntryId) {
        if self.withdrawals.try_send((queue.clone(), entry)).is_err() {
            debug!(%queue, %entry, "job not withdrawn: too many withdrawals are waiting");
        }
    }

    /// The producer that submits jobs to the broker.
    pub(super) fn producer(&self) -> &dyn Producer {
        self.producer.as_ref()
    }

    /// The ledger of outstanding requests.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger<Caller>> {
        self.ledger.lock()
    }

    /// The inputs that are offered to workers.
    pub(super) fn offers(&self) -> &Offers {
        &self.offers
    }

    /// The ledger, to be shared.
    pub(super) fn shared_ledger(&self) -> SharedLedger {
        Arc::clone(&self.ledger)
    }

    /// Counts a resubmitted job.
    pub(super) fn count_resubmission(&self) {
        self.metrics.resubmissions.inc();
    }
}

impl InLine<'_> {
    /// Ends the request without an answer. Returns whether its job was in the queue.
    pub(super) fn give_up(&self) -> bool {
        let entry = self.line.ledger.lock().forget(self.id);
        if let Some(entry) = entry {
            self.line.withdraw(self.queue, entry);
        }
        entry.is_some()
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        drop(self.sending.take());
        self.give_up();
    }
}

/// Task: submits small jobs to their queues. Jobs that arrive meanwhile form the next pipeline.
pub(super) async fn send_all(line: Arc<JobLine>) {
    loop {
        let leaving = line.next().await;
        let jobs: Vec<_> = leaving.iter().map(|(model, job)| (&model.spec.queue, &**job)).collect();
        let submitted = line.producer.submit_all(&jobs).await;
        for ((model, job), submitted) in leaving.iter().zip(submitted) {
            line.refuse(job, line.note(model, job, submitted));
        }
    }
}

/// Task: withdraws the jobs of callers that left.
async fn withdraw_all(
    producer: Arc<dyn Producer>,
    mut given_up: mpsc::Receiver<(QueueName, EntryId)>,
) {
    while let Some((queue, entry)) = given_up.recv().await {
        if let Err(error) = producer.withdraw(&queue, entry).await {
            debug!(%queue, %entry, %error, "failed to withdraw job");
            if matches!(error, BrokerError::Unreachable(_)) {
                sleep(WITHDRAWAL_PAUSE).await;
            }
        }
    }
}
