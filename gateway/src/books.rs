//! Request accounting. The books of a model version hold all counts of its requests; only the
//! record of each request changes these counts.
//!
//! A request is offered, then refused or accepted; an accepted request is in flight until it ends.
//! At every moment, offered = accepted + refused + being read, and accepted = ended + in flight.

use std::{
    mem,
    num::NonZeroU128,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use batchfleet_broker::{Backlog, QueueName, RequestId, Timing, TraceContext, Traffic};
use batchfleet_oip::statistics::ModelStatistics;
use batchfleet_service::trace::KeyValue;
use parking_lot::Mutex;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tracing::debug;

use crate::{
    demand::DemandCounts,
    error::{InferError, InferResult},
    metrics::{GatewayMetrics, RequestMetrics},
    outcome::RequestOutcome,
    outstanding::{OutstandingWork, RequestWork},
    refusal::RefusalKind,
    tally::Tally,
    trace::Trace,
    traffic::TrafficCounts,
    watch::{ModelWatch, Moment, Ran, Series, WatchSample},
};

/// All counts of the requests for one model version at this gateway.
#[derive(Debug)]
pub(crate) struct ModelBooks {
    queue: QueueName,
    /// Counts for Prometheus. No decision depends on these counts.
    metrics: RequestMetrics,
    /// Counts for the controller and for admission.
    traffic: TrafficCounts,
    /// Totals for `/stats`.
    tally: Mutex<Tally>,
    /// Recent batches and latencies for the live page.
    watch: ModelWatch,
    /// The latency target in nanoseconds; 0 while unknown.
    latency_target: AtomicU64,
    /// The mean cost of a request in rows of the usual length; `None` if all rows cost the same.
    usual_rows: Mutex<Option<f64>>,
    /// What the requests cost.
    work: Mutex<OutstandingWork>,
}

impl ModelBooks {
    /// Empty books.
    pub(crate) fn new(queue: QueueName, metrics: RequestMetrics) -> Self {
        Self {
            queue,
            metrics,
            traffic: TrafficCounts::default(),
            tally: Mutex::default(),
            watch: ModelWatch::default(),
            latency_target: AtomicU64::new(0),
            usual_rows: Mutex::default(),
            work: Mutex::default(),
        }
    }

    /// Accepted requests that have not ended.
    pub(crate) fn in_flight(&self) -> i64 {
        self.traffic.in_flight()
    }

    /// What the accepted requests cost.
    pub(crate) fn work(&self) -> OutstandingWork {
        *self.work.lock()
    }

    /// The current counts; `queued` is the number of jobs put into the queue by all gateways.
    pub(crate) fn counts(&self, queued: u64) -> DemandCounts {
        self.traffic.counts(queued)
    }

    /// The traffic since this gateway started, for its traffic report.
    pub(crate) fn traffic(&self) -> Traffic {
        self.traffic.report(&self.queue, self.rows_per_request())
    }

    /// The mean rows of a request; 1 before the first answer. Where rows differ in length, in rows of
    /// the usual length.
    pub(crate) fn rows_per_request(&self) -> f64 {
        let usual = *self.usual_rows.lock();
        usual.unwrap_or_else(|| self.tally.lock().rows_per_request())
    }

    /// Sets the mean cost of a request, in rows of the usual length; `None` if all rows cost the same.
    pub(crate) fn set_usual_rows(&self, rows: Option<f64>) {
        *self.usual_rows.lock() = rows;
    }

    /// The totals that `/stats` shows.
    pub(crate) fn statistics(&self) -> ModelStatistics {
        self.tally.lock().statistics()
    }

    /// The batches and samples numbered above `batches` and `samples`, for the live page.
    pub(crate) fn look(&self, batches: u64, samples: u64) -> (Series<Ran>, Series<WatchSample>) {
        self.watch.look(batches, samples)
    }

    /// Sets the latency target of the model version.
    pub(crate) fn set_latency_target(&self, target: Duration) {
        let nanoseconds = u64::try_from(target.as_nanos()).unwrap_or(u64::MAX);
        self.latency_target.store(nanoseconds, Relaxed);
    }

    /// Records the reply to a request of `rows` rows for the live page. Only the task that receives
    /// replies may call this method, because the replies of one batch must be recorded in sequence.
    pub(crate) fn ran(&self, rows: u32, timing: &Timing) {
        self.watch.ran(rows, timing);
    }

    /// Takes a sample while a live page is open; `waiting` is the number of jobs in the queue.
    pub(crate) fn sample(&self, waiting: u64) {
        self.watch.tick(|| Moment {
            waiting,
            in_flight: self.in_flight(),
            refused: self.traffic.counts(0).refused,
        });
    }

    /// Updates Triton's gauge of pending requests after a poll of the queue.
    pub(crate) fn observe(&self, backlog: &Backlog) {
        self.metrics.observe(backlog, u64::try_from(self.in_flight()).unwrap_or(0));
    }

    /// Updates Triton's counters, which follow the totals of `/stats`.
    pub(crate) fn publish(&self) {
        self.metrics.publish(&self.statistics());
    }

    fn offered(&self, names_version: bool) {
        self.traffic.offered(names_version);
        self.metrics.offered();
    }

    fn refused(&self, code: &'static str, refusal: Option<RefusalKind>) {
        self.metrics.refused(code);
        self.traffic.refused(refusal);
    }

    fn accepted(&self, work: RequestWork) {
        self.metrics.accepted();
        self.traffic.accepted();
        self.work.lock().accepted(work);
    }

    fn ended(
        &self,
        work: RequestWork,
        outcome: RequestOutcome,
        took: Duration,
        trace: Option<NonZeroU128>,
    ) {
        self.work.lock().ended(work);
        let in_time = took.as_nanos() <= u128::from(self.latency_target.load(Relaxed));
        self.metrics.ended(outcome, took, in_time, trace);
        self.traffic.ended(outcome, took.as_secs_f64());
        self.watch.answered(took);
    }
}

/// The record of one request, from the arrival until the answer is ready.
///
/// A record that is dropped before its request has ended counts the request as cancelled.
pub(crate) struct Record<'a> {
    metrics: &'a GatewayMetrics,
    trace: Trace,
    arrived: Instant,
    stage: Stage,
}

/// An admitted request.
pub(crate) struct Admitted {
    /// One of the seats of the gateway. Dropping the permit frees the seat.
    pub(crate) _seat: OwnedSemaphorePermit,
    pub(crate) work: RequestWork,
}

/// The stage of a request.
enum Stage {
    /// The model is not known yet.
    Arrived,
    /// The model is known; the rows are known once the request has been read.
    Offered { books: Arc<ModelBooks>, rows: Option<u32> },
    /// The request waits for its reply. The seat is released after the books are closed.
    Accepted { books: Arc<ModelBooks>, rows: u32, id: RequestId, admitted: Admitted },
    /// The request was refused, answered or given up.
    Ended,
}

impl<'a> Record<'a> {
    /// Begins the record of a request that arrives now.
    pub(crate) fn arrive(metrics: &'a GatewayMetrics, trace: Trace) -> Self {
        Self { metrics, trace, arrived: Instant::now(), stage: Stage::Arrived }
    }

    /// When the request arrived.
    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The span of the request, if the request is traced.
    pub(crate) fn trace(&self) -> Option<TraceContext> {
        self.trace.context()
    }

    /// Adds an attribute to the request's span.
    pub(crate) fn attribute(&mut self, attribute: KeyValue) {
        self.trace.attribute(attribute);
    }

    /// Records that the model is known; `names_version` if the request named the version.
    pub(crate) fn offered(&mut self, books: &Arc<ModelBooks>, names_version: bool) {
        books.offered(names_version);
        self.stage = Stage::Offered { books: books.clone(), rows: None };
    }

    /// Records that the request has been read and is correct.
    pub(crate) fn read(&mut self, rows: u32) {
        if let Stage::Offered { books, rows: known } = &mut self.stage {
            self.trace.read(&books.queue, rows);
            *known = Some(rows);
        }
    }

    /// Records that the request is accepted. The record holds the seat until the request has ended.
    pub(crate) fn accepted(&mut self, id: RequestId, admitted: Admitted) {
        self.stage = match mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Offered { books, rows } => {
                books.accepted(admitted.work);
                Stage::Accepted { books, rows: rows.unwrap_or(0), id, admitted }
            }
            stage => stage,
        };
    }

    /// Records the result of an accepted request and ends the request.
    pub(crate) fn ended(&mut self, result: &InferResult) {
        let took = self.arrived.elapsed();
        if let Stage::Accepted { books, rows, .. } = &self.stage {
            let mut tally = books.tally.lock();
            match result {
                Ok(reply) if reply.outcome.is_ok() => tally.success(*rows, &reply.timing, took),
                _ => tally.failure(took),
            }
        }
        self.close(RequestOutcome::of(result), took);
    }

    /// Records the error sent to the caller. Counts as a refusal if the request was not accepted.
    pub(crate) fn failed(&mut self, error: &InferError) {
        self.trace.failed(error);
        let took = self.arrived.elapsed();
        match &self.stage {
            Stage::Arrived => self.metrics.unknown_model(error.code()),
            Stage::Offered { books, rows } => {
                books.refused(error.code(), error.refusal());
                if rows.is_some() {
                    books.tally.lock().failure(took);
                }
            }
            Stage::Accepted { .. } => self.close(RequestOutcome::of_error(error), took),
            Stage::Ended => {}
        }
        self.stage = Stage::Ended;
    }

    /// Closes the books of an accepted request, then releases the seat.
    fn close(&mut self, outcome: RequestOutcome, took: Duration) {
        if let Stage::Accepted { books, id, admitted, .. } = &self.stage {
            let (model, outcome_label) = (&books.queue, outcome.label());
            let context = self.trace.context();
            let trace = context.map(tracing::field::display);
            debug!(%model, request = %id, trace, outcome = outcome_label, ?took, "answered");
            books.ended(admitted.work, outcome, took, context.map(|context| context.trace));
        }
        self.stage = Stage::Ended;
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if let Stage::Offered { books, .. } = &self.stage {
            books.refused(RefusalKind::Cancelled.code(), Some(RefusalKind::Cancelled));
        }
        self.close(RequestOutcome::Cancelled, self.arrived.elapsed());
    }
}

#[cfg(test)]
mod tests;
