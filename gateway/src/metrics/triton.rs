//! The same counts under the names that Triton gives them, so that dashboards and adapter rules made
//! for it work unchanged. They are of this gateway: their sum over gateways is the fleet's.
//!
//! <https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html>

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use batchfleet_broker::{Backlog, QueueName};
use batchfleet_service::metrics::{Families, family};
use prometheus::{IntCounterVec, IntGaugeVec, Result};

use super::{Outcome, fleet::labels};
use batchfleet_oip::statistics::{ModelStatistics, Total};

const MODEL: [&str; 2] = ["model", "version"];

/// Triton's reasons for failure.
const REASONS: [&str; 4] = ["REJECTED", "CANCELED", "BACKEND", "OTHER"];

/// Requests of one version of a model that failed, by [`REASONS`], and what has been told of all.
#[derive(Debug, Default)]
pub(crate) struct Told {
    failures: [AtomicU64; REASONS.len()],
    last: Mutex<Totals>,
}

/// What has been counted, in the order of [`Triton`]'s counters.
type Totals = ([u64; 8], [u64; REASONS.len()]);

impl Told {
    /// It was turned away; `reason` is ours.
    pub(super) fn refused(&self, reason: &str) {
        self.failures[usize::from(reason == "cancelled")].fetch_add(1, Relaxed);
    }

    /// It was accepted, and ended like this.
    pub(super) fn ended(&self, outcome: Outcome) {
        let reason = match outcome {
            Outcome::Ok => return,
            Outcome::Cancelled => 1,
            Outcome::ModelError | Outcome::Poison => 2,
            Outcome::Expired | Outcome::Unavailable => 3,
        };
        self.failures[reason].fetch_add(1, Relaxed);
    }

    /// What is to be added to what was told before.
    fn news(&self, statistics: &ModelStatistics) -> Totals {
        let inference = &statistics.inference;
        let micros = |total: &Total| u64::try_from(total.time.as_micros()).unwrap_or(u64::MAX);
        let now: Totals = (
            [
                inference.success.count,
                statistics.inference_count,
                statistics.execution_count,
                micros(&inference.success),
                micros(&inference.queue),
                micros(&inference.compute_input),
                micros(&inference.compute_infer),
                micros(&inference.compute_output),
            ],
            self.failures.each_ref().map(|count| count.load(Relaxed)),
        );
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *last, now);
        (less(now.0, before.0), less(now.1, before.1))
    }
}

fn less<const N: usize>(now: [u64; N], before: [u64; N]) -> [u64; N] {
    std::array::from_fn(|n| now[n].saturating_sub(before[n]))
}

/// Triton's metrics.
#[derive(Clone, Debug)]
pub(crate) struct Triton {
    counters: [IntCounterVec; 8],
    failures: IntCounterVec,
    pending: IntGaugeVec,
}

impl Triton {
    pub(super) fn make(make: &mut Families) -> Result<Self> {
        let mut count =
            |name, unit, help: &'static str| make.counter(family(name, unit, &MODEL, help));
        Ok(Self {
            counters: [
                count(
                    "nv_inference_request_success",
                    "requests",
                    "Requests answered with outputs",
                )?,
                count("nv_inference_count", "rows", "Rows answered with outputs")?,
                count(
                    "nv_inference_exec_count",
                    "batches",
                    "Batches run, each gateway its share; a batch of the fleet counts as one",
                )?,
                count(
                    "nv_inference_request_duration_us",
                    "microseconds",
                    "Time of successful requests, from end to end",
                )?,
                count(
                    "nv_inference_queue_duration_us",
                    "microseconds",
                    "Of that, waiting in the queue and for the batch to begin",
                )?,
                count(
                    "nv_inference_compute_input_duration_us",
                    "microseconds",
                    "Of that, joining the inputs of the batch",
                )?,
                count(
                    "nv_inference_compute_infer_duration_us",
                    "microseconds",
                    "Of that, the run of the model",
                )?,
                count(
                    "nv_inference_compute_output_duration_us",
                    "microseconds",
                    "Of that, splitting the outputs of the batch",
                )?,
            ],
            failures: make.counter(family(
                "nv_inference_request_failure",
                "requests",
                &["model", "version", "reason"],
                "Requests that failed: REJECTED (not let in), CANCELED (the caller left), BACKEND \
                 (the model failed) or OTHER (too late, or the queue was away)",
            ))?,
            pending: make.gauge(family(
                "nv_inference_pending_request_count",
                "requests",
                &MODEL,
                "Requests of this gateway that wait for a worker: those in flight here, times the \
                 share that waits of those in flight in the fleet",
            ))?,
        })
    }

    /// Follows what was counted of one version of a model.
    pub(crate) fn follow(&self, queue: &QueueName, told: &Told, statistics: &ModelStatistics) {
        let labels = labels(queue);
        let (counts, failures) = told.news(statistics);
        for (counter, more) in self.counters.iter().zip(counts) {
            counter.with_label_values(&labels).inc_by(more);
        }
        let [model, version] = &labels;
        for (reason, more) in REASONS.into_iter().zip(failures) {
            self.failures.with_label_values(&[model, version, reason]).inc_by(more);
        }
    }

    /// Follows a look at its queue, with so many of its requests in flight here.
    pub(crate) fn looked(&self, queue: &QueueName, backlog: &Backlog, here: u64) {
        self.pending.with_label_values(&labels(queue)).set(pending(backlog, here));
    }
}

/// How many of the requests in flight here wait, if they do as those of all gateways.
fn pending(backlog: &Backlog, here: u64) -> i64 {
    let all = backlog.depth() + backlog.in_flight;
    let waiting = u128::from(here) * u128::from(backlog.depth());
    let share = (waiting + u128::from(all / 2)).checked_div(u128::from(all)).unwrap_or(0);
    i64::try_from(share).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_here_adds_up_over_gateways_to_what_waits() {
        let backlog = Backlog { waiting: [10, 20, 0], in_flight: 10, ..Backlog::default() };
        assert_eq!([30, 10, 0].map(|here| pending(&backlog, here)), [23, 8, 0]);
        assert_eq!(pending(&Backlog::default(), 7), 0);
    }

    #[test]
    fn each_count_is_told_once() {
        let mut statistics = ModelStatistics { inference_count: 5, ..ModelStatistics::default() };
        let told = Told::default();
        told.refused("queue_wait");
        told.ended(Outcome::Ok);
        told.ended(Outcome::Poison);
        assert_eq!(told.news(&statistics), ([0, 5, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0]));
        statistics.inference_count = 7;
        assert_eq!(told.news(&statistics), ([0, 2, 0, 0, 0, 0, 0, 0], [0; 4]));
    }
}
