//! Request counts under Triton's metric names, so that dashboards and adapter rules for Triton work
//! unchanged. Each gateway counts its own requests; the sum over gateways is the fleet's.
//!
//! <https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html>

use std::{mem, num::NonZeroU128, time::Duration};

use batchfleet_broker::{Backlog, QueueName};
use batchfleet_oip::statistics::{ModelStatistics, Total};
use batchfleet_service::metrics::{TracedHistogram, TracedHistogramVec};
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::fleet::{VERSION, labels};
use crate::{outcome::RequestOutcome, refusal::RefusalKind};

/// Triton's reasons for failure.
const REASONS: [&str; 4] = ["REJECTED", "CANCELED", "BACKEND", "OTHER"];

/// Triton's default bounds of the time to the first response, in milliseconds.
const MILLISECONDS: [f64; 4] = [100.0, 500.0, 2000.0, 5000.0];

batchfleet_service::metrics! {
    /// Triton's metrics.
    #[derive(Clone, Debug)]
    pub(crate) struct Triton {
        /// Requests answered with outputs.
        #[metric("nv_inference_request_success", unit = "requests", labels = VERSION)]
        success: IntCounterVec,
        /// Rows answered with outputs.
        #[metric("nv_inference_count", unit = "rows", labels = VERSION)]
        rows: IntCounterVec,
        /// Batches run, as this gateway's share of them: over all gateways, a batch counts as one.
        #[metric("nv_inference_exec_count", unit = "batches", labels = VERSION)]
        batches: IntCounterVec,
        /// Time of successful requests, end to end.
        #[metric("nv_inference_request_duration_us", unit = "microseconds", labels = VERSION)]
        request: IntCounterVec,
        /// Part of the request time: waiting in the queue and for the batch to begin.
        #[metric("nv_inference_queue_duration_us", unit = "microseconds", labels = VERSION)]
        queue: IntCounterVec,
        /// Part of the request time: joining the inputs of the batch.
        #[metric("nv_inference_compute_input_duration_us", unit = "microseconds", labels = VERSION)]
        input: IntCounterVec,
        /// Part of the request time: running the model.
        #[metric("nv_inference_compute_infer_duration_us", unit = "microseconds", labels = VERSION)]
        infer: IntCounterVec,
        /// Part of the request time: splitting the outputs of the batch.
        #[metric(
            "nv_inference_compute_output_duration_us",
            unit = "microseconds",
            labels = VERSION
        )]
        output: IntCounterVec,
        /// Time of successful requests until their first response, which is their only one.
        #[metric(
            "nv_inference_first_response_histogram_ms",
            unit = "milliseconds",
            labels = VERSION,
            buckets = MILLISECONDS
        )]
        first_response: TracedHistogramVec,
        /// Requests that failed: REJECTED (not accepted), CANCELED (the caller left), BACKEND (the
        /// model failed) or OTHER (too late, or the queue was unreachable).
        #[metric(
            "nv_inference_request_failure",
            unit = "requests",
            labels = ["model", "version", "reason"]
        )]
        failures: IntCounterVec,
        /// Requests of this gateway that wait for a worker: those in flight here, times the share
        /// of all requests in flight that wait.
        #[metric("nv_inference_pending_request_count", unit = "requests", labels = VERSION)]
        pending: IntGaugeVec,
    }
}

impl Triton {
    /// The metrics of one model version.
    pub(super) fn for_model(&self, queue: &QueueName) -> ModelTriton {
        let labels = labels(queue);
        let [model, version] = &labels;
        let counters = [
            &self.success,
            &self.rows,
            &self.batches,
            &self.request,
            &self.queue,
            &self.input,
            &self.infer,
            &self.output,
        ];
        ModelTriton {
            counters: counters.map(|family| family.with_label_values(&labels)),
            failures: REASONS
                .map(|reason| self.failures.with_label_values(&[model, version, reason])),
            first_response: self.first_response.with_label_values(&[model, version]),
            pending: self.pending.with_label_values(&labels),
            published: Mutex::default(),
        }
    }
}

/// Triton's metrics of one model version.
#[derive(Debug)]
pub(super) struct ModelTriton {
    /// In the order of the totals in [`publish`](Self::publish).
    counters: [IntCounter; 8],
    /// In the order of [`REASONS`].
    failures: [IntCounter; REASONS.len()],
    first_response: TracedHistogram,
    pending: IntGauge,
    /// The totals that `counters` show.
    published: Mutex<[u64; 8]>,
}

impl ModelTriton {
    /// Counts a request that was refused with this error code.
    pub(super) fn refused(&self, code: &'static str) {
        self.failures[usize::from(code == RefusalKind::Cancelled.code())].inc();
    }

    /// Counts the end of an accepted request after `took`, in the trace with this id if the request
    /// is traced.
    pub(super) fn ended(
        &self,
        outcome: RequestOutcome,
        took: Duration,
        trace: Option<NonZeroU128>,
    ) {
        let reason = match outcome {
            RequestOutcome::Ok => {
                return self.first_response.observe(took.as_secs_f64() * 1e3, trace);
            }
            RequestOutcome::Cancelled => 1,
            RequestOutcome::ModelError | RequestOutcome::Poison => 2,
            RequestOutcome::Expired | RequestOutcome::Unavailable => 3,
        };
        self.failures[reason].inc();
    }

    /// Adds the growth of the totals since the last call to the counters.
    pub(super) fn publish(&self, statistics: &ModelStatistics) {
        let inference = &statistics.inference;
        let micros = |total: &Total| u64::try_from(total.time.as_micros()).unwrap_or(u64::MAX);
        let now = [
            inference.success.count,
            statistics.inference_count,
            statistics.execution_count,
            micros(&inference.success),
            micros(&inference.queue),
            micros(&inference.compute_input),
            micros(&inference.compute_infer),
            micros(&inference.compute_output),
        ];
        let before = mem::replace(&mut *self.published.lock(), now);
        for ((counter, now), before) in self.counters.iter().zip(now).zip(before) {
            counter.inc_by(now.saturating_sub(before));
        }
    }

    /// Sets the gauge after a poll of the queue; `in_flight` counts the requests of this gateway.
    pub(super) fn observe(&self, backlog: &Backlog, in_flight: u64) {
        self.pending.set(pending(backlog, in_flight));
    }
}

/// The estimated number of waiting requests among the `here` requests in flight at this gateway:
/// the share of waiting requests is assumed to be the same at all gateways.
fn pending(backlog: &Backlog, here: u64) -> i64 {
    let all = backlog.depth() + backlog.in_flight;
    let waiting = u128::from(here) * u128::from(backlog.depth());
    let share = (waiting + u128::from(all / 2)).checked_div(u128::from(all)).unwrap_or(0);
    i64::try_from(share).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use batchfleet_service::metrics::MetricGroup;
    use prometheus::Registry;

    use super::*;

    #[test]
    fn the_pending_requests_of_all_gateways_add_up_to_the_queue_depth() {
        let backlog = Backlog { waiting: [10, 20, 0], in_flight: 10, ..Backlog::default() };
        assert_eq!([30, 10, 0].map(|here| pending(&backlog, here)), [23, 8, 0]);
        assert_eq!(pending(&Backlog::default(), 7), 0);
    }

    #[test]
    fn each_count_is_published_once() {
        let mut statistics = ModelStatistics { inference_count: 5, ..ModelStatistics::default() };
        let triton = Triton::register(&Registry::new()).unwrap();
        let model = triton.for_model(&QueueName::new("m", 1));
        let counts = || {
            (
                model.counters.each_ref().map(IntCounter::get),
                model.failures.each_ref().map(IntCounter::get),
            )
        };
        model.refused("queue_wait");
        model.ended(RequestOutcome::Ok, Duration::from_millis(3), None);
        model.ended(RequestOutcome::Poison, Duration::from_millis(3), None);
        assert_eq!(model.first_response.get_sample_count(), 1);
        model.publish(&statistics);
        assert_eq!(counts(), ([0, 5, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0]));
        model.publish(&statistics);
        assert_eq!(counts(), ([0, 5, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0]));
        statistics.inference_count = 7;
        model.publish(&statistics);
        assert_eq!(counts(), ([0, 7, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0]));
    }
}
