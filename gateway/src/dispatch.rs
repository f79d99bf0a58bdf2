//! The path of a request through the queue of its model: admission, submission of the job, receipt
//! of the reply, and the sweep for lost jobs.

mod admit;
mod answer;
mod caller;
mod line;
mod offers;
mod retracted;
mod sweep;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use batchfleet_broker::{GatewayId, GatewayRoles};
use batchfleet_service::LongTasks;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{admit::Admission, answer::Resolver, line::JobLine};
pub(crate) use self::{line::JobRequest, offers::OfferedRequests};
use crate::{
    books::Admitted,
    error::{InferError, InferResult},
    ledger::Ledger,
    mailbox::Mailbox,
    metrics::GatewayMetrics,
    model::Model,
    outstanding::RequestWork,
};

/// Owns every accepted request until the request is answered.
pub(crate) struct Dispatcher {
    admission: Admission,
    line: Arc<JobLine>,
    resolver: Arc<Resolver>,
}

impl Dispatcher {
    /// Returns a dispatcher and its tasks. The dispatcher admits at most `max_in_flight` requests
    /// at a time, and no request once `draining` is cancelled.
    pub(crate) fn start(
        gateway: GatewayId,
        roles: GatewayRoles,
        max_in_flight: usize,
        draining: CancellationToken,
        metrics: &GatewayMetrics,
    ) -> (Self, LongTasks) {
        let GatewayRoles { producer, replies: inbox } = roles;
        let ledger = Arc::new(Mutex::new(Ledger::new(max_in_flight, Instant::now())));
        let (line, withdrawals) =
            JobLine::open(gateway, producer.clone(), ledger.clone(), metrics.clone());
        let line = Arc::new(line);
        let resolver = Arc::new(Resolver::new(producer, ledger, metrics.clone()));
        let interrupted = Arc::new(Notify::new());
        let mut tasks = LongTasks::default();
        tasks.spawn("withdrawal of jobs", withdrawals);
        tasks.spawn("submission of jobs", line::send_all(line.clone()));
        let receiving = answer::receive(inbox, resolver.clone(), interrupted.clone());
        tasks.spawn("receipt of replies", receiving);
        tasks.spawn("sweep for lost jobs", sweep::run(line.clone(), interrupted));
        let admission = Admission::new(max_in_flight, draining);
        (Self { admission, line, resolver }, tasks)
    }

    /// Admits a request for `model`, and gives it one of the `max_in_flight` seats.
    ///
    /// # Errors
    ///
    /// The request cannot be answered now, or not in time.
    pub(crate) fn admit(
        &self,
        model: &Model,
        request: &JobRequest,
    ) -> Result<Admitted, InferError> {
        self.admission.admit(model, request, self.is_reachable())
    }

    /// Whether a request of this `work` for `model` would be admitted now.
    ///
    /// # Errors
    ///
    /// As [`admit`](Self::admit).
    pub(crate) fn would_admit(
        &self,
        model: &Model,
        work: RequestWork,
        deadline: Instant,
    ) -> Result<(), InferError> {
        self.admission.would_admit(model, work, deadline, self.is_reachable())
    }

    /// Submits the job of an admitted request and waits for the result, which arrives in the
    /// `mailbox` of the current thread. Dropping the future cancels the request.
    ///
    /// # Errors
    ///
    /// The reason why there is no reply.
    pub(crate) async fn infer(
        &self,
        model: &Arc<Model>,
        request: JobRequest,
        mailbox: &Mailbox,
    ) -> InferResult {
        let deadline = request.deadline;
        let (address, answer) = mailbox.address();
        let in_line = self.line.put(model, request, address);
        match timeout_at(deadline, answer).await {
            // The resolver drops the address if the reply was computed from another input.
            Ok(answer) => answer.unwrap_or(Err(InferError::Misrouted)),
            Err(_) if in_line.give_up() => Err(InferError::Deadline),
            // The job never reached the queue, so the cause is Redis and not a slow fleet.
            Err(_) => Err(InferError::QueueUnreachable),
        }
    }

    /// Whether jobs can be submitted, or a reply arrived within the last second.
    pub(crate) fn is_reachable(&self) -> bool {
        self.resolver.is_reachable()
    }

    /// Offers inputs from `from` bytes on to workers, at `address`, and takes outputs of at most `most`
    /// bytes at a time. If `address` has no IP address, offers begin when it is
    /// [known](Self::reached_at).
    pub(crate) fn offer_inputs(
        &self,
        from: usize,
        address: SocketAddr,
        most: usize,
    ) -> OfferedRequests {
        self.line.offers().open(from, address);
        OfferedRequests::new(self.line.shared_ledger(), most)
    }

    /// Records at which address of this machine other programs reach it.
    pub(crate) fn reached_at(&self, ip: IpAddr) {
        self.line.offers().reached_at(ip);
    }

    /// Sets whether new requests are refused because Redis is almost out of memory.
    pub(crate) fn set_queue_full(&self, full: bool) {
        self.admission.set_queue_full(full);
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
