//! Totals of a model version at this gateway, as shown by `/stats`.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use batchfleet_broker::Timing;

use batchfleet_oip::statistics::{BatchStatistics, InferStatistics, ModelStatistics, Total};

/// Running totals of one model version.
///
/// A batch may hold requests of several gateways. Each request therefore counts as its share of the
/// batch: its rows divided by the rows of the batch. The shares of a batch add up to 1 over all
/// gateways.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    last_inference: u64,
    rows: u64,
    inference: InferStatistics,
    batches: BTreeMap<u32, BatchShare>,
}

/// This gateway's share of the batches of one size.
#[derive(Debug, Default)]
struct BatchShare {
    count: f64,
    compute_input: Duration,
    compute_infer: Duration,
    compute_output: Duration,
}

impl Tally {
    /// Counts a request of `rows` rows that was answered with outputs after `took`.
    pub(crate) fn success(&mut self, rows: u32, timing: &Timing, took: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_inference = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.rows += u64::from(rows);
        self.inference.success.add(took);
        self.inference.queue.add(timing.queue + timing.batch_wait);
        self.inference.compute_input.add(timing.compute_input);
        self.inference.compute_infer.add(timing.compute_infer);
        self.inference.compute_output.add(timing.compute_output);
        // A request with more rows than a batch filled several batches. Its times are sums.
        let batches = match timing.batch_rows {
            0 => 1.0,
            of_batch => f64::from(rows) / f64::from(of_batch),
        };
        let filled = batches.min(1.0);
        let share = self.batches.entry(timing.batch_rows).or_default();
        share.count += batches;
        share.compute_input += timing.compute_input.mul_f64(filled);
        share.compute_infer += timing.compute_infer.mul_f64(filled);
        share.compute_output += timing.compute_output.mul_f64(filled);
    }

    /// Counts a request that was answered with an error after `took`.
    pub(crate) fn failure(&mut self, took: Duration) {
        self.inference.fail.add(took);
    }

    /// The mean rows of a request; 1 before the first success.
    #[expect(clippy::cast_precision_loss, reason = "counts of rows and requests")]
    pub(crate) fn rows_per_request(&self) -> f64 {
        match self.inference.success.count {
            0 => 1.0,
            requests => self.rows as f64 / requests as f64,
        }
    }

    /// The totals in the protocol's form, with whole numbers of batches.
    pub(crate) fn statistics(&self) -> ModelStatistics {
        ModelStatistics {
            last_inference: self.last_inference,
            inference_count: self.rows,
            execution_count: whole(self.batches.values().map(|share| share.count).sum()),
            inference: self.inference,
            batches: self.batches.iter().map(|(&rows, share)| share.statistics(rows)).collect(),
        }
    }
}

impl BatchShare {
    fn statistics(&self, rows: u32) -> BatchStatistics {
        let total = |time| Total { count: whole(self.count), time };
        BatchStatistics {
            batch_size: u64::from(rows),
            compute_input: total(self.compute_input),
            compute_infer: total(self.compute_infer),
            compute_output: total(self.compute_output),
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rounded count")]
fn whole(batches: f64) -> u64 {
    batches.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_in_several_batches_counts_as_these_batches_with_the_sum_of_their_times() {
        let mut tally = Tally::default();
        let compute_infer = Duration::from_millis(20);
        let timing = Timing { batch_rows: 8, compute_infer, ..Timing::default() };
        tally.success(32, &timing, Duration::from_millis(30));
        let statistics = tally.statistics();
        assert_eq!((statistics.inference_count, statistics.execution_count), (32, 4));
        assert_eq!(statistics.inference.success.count, 1);
        assert_eq!(statistics.batches[0].compute_infer, Total { count: 4, time: compute_infer });
    }

    #[test]
    fn the_requests_of_a_batch_count_as_one_batch_together() {
        let timing =
            Timing { batch_rows: 3, compute_infer: Duration::from_millis(6), ..Timing::default() };
        let mut tally = Tally::default();
        tally.success(1, &timing, Duration::from_millis(9));
        tally.success(2, &timing, Duration::from_millis(9));
        let statistics = tally.statistics();
        assert_eq!((statistics.inference_count, statistics.execution_count), (3, 1));
        assert_eq!(statistics.inference.success.count, 2);
        let [batch] = statistics.batches[..] else { panic!("one size: {:?}", statistics.batches) };
        assert_eq!((batch.batch_size, batch.compute_infer.count), (3, 1));
        assert!(batch.compute_infer.time.abs_diff(timing.compute_infer) < Duration::from_micros(1));
    }
}
