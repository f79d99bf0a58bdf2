//! A job that the worker holds, and how much of it has run.
//!
//! A job with more rows than N runs in parts, in several batches. Until its last row has run, it
//! remains one claimed job: it expires, fails, is handed back and is reclaimed as a whole, and the
//! outputs of its parts are dropped then.

use std::ops::Range;

use batchfleet_broker::{Delivery, Failure, Tensor, Timing, roles::LEASE};
use batchfleet_policy::WaitingRows;
use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    layout::{JobRows, Layout},
    lengths::RowLengths,
    limit::BatchLimit,
    settle::JobReply,
};

/// A claimed job without a reply.
#[derive(Debug)]
pub(crate) struct HeldJob {
    /// The job.
    pub(crate) delivery: Delivery,
    /// The length of each row, without padding and padded to run alone.
    own_length: u64,
    length: u64,
    /// What each row costs, in units.
    row_units: f64,
    /// The rows that run next, or in the current batch. All earlier rows have run.
    part: Range<u32>,
    /// The outputs of each part that has run.
    outputs: Vec<Vec<Tensor>>,
    /// The sums over all parts that have run.
    timing: Timing,
    /// When the job was claimed, or its last part has run.
    waits_since: Instant,
    /// When the lease of the job began.
    leased_at: Instant,
    /// Whether all rows must run together: the outputs of its parts could not be joined, or rows
    /// influence each other.
    runs_whole: bool,
}

/// What became of a job whose current part has run.
#[derive(Debug)]
pub(crate) enum Progress {
    /// All rows have run. Holds their outputs.
    Complete(HeldJob, Vec<Tensor>),
    /// More rows have to run.
    Unfinished(HeldJob),
}

impl HeldJob {
    /// A job of which no row has run.
    pub(crate) fn new(delivery: Delivery, lengths: &RowLengths) -> Self {
        Self {
            own_length: lengths.longest(&delivery.job.inputs),
            length: lengths.length(&delivery.job),
            row_units: lengths.row_units(&delivery.job),
            part: 0..delivery.job.rows,
            outputs: Vec::new(),
            timing: Timing { queue: delivery.waited, ..Timing::default() },
            waits_since: delivery.claimed_at,
            leased_at: delivery.claimed_at,
            runs_whole: false,
            delivery,
        }
    }

    /// The number of rows that have not run.
    pub(crate) fn rows_left(&self) -> u32 {
        self.delivery.job.rows - self.part.start
    }

    /// What the rows cost that have not run, in units.
    pub(crate) fn units_left(&self) -> f64 {
        f64::from(self.rows_left()) * self.row_units
    }

    /// The length of each row without padding.
    pub(crate) fn own_length(&self) -> u64 {
        self.own_length
    }

    /// The rows that run next, for the choice of the jobs that run together.
    pub(crate) fn waiting_rows(&self) -> WaitingRows {
        let left = self.delivery.deadline.saturating_duration_since(Instant::now());
        WaitingRows { rows: self.part_rows(), length: self.length, left }
    }

    /// What each row costs, in units.
    pub(crate) fn row_units(&self) -> f64 {
        self.row_units
    }

    /// Whether a part of the job has run.
    pub(crate) fn has_begun(&self) -> bool {
        self.part.start > 0
    }

    /// Whether the job runs in parts, if batches are at most as large as `limit`.
    pub(crate) fn is_large(&self, limit: BatchLimit) -> bool {
        self.has_begun() || (self.rows_left() > limit.rows_of(self.row_units) && !self.runs_whole)
    }

    /// Whether rows are left after the current batch.
    pub(crate) fn is_cut(&self) -> bool {
        self.part.end < self.delivery.job.rows
    }

    /// The rows that run next.
    pub(crate) fn rows(&self) -> JobRows<'_> {
        JobRows { job: &self.delivery.job, rows: self.part.clone() }
    }

    /// The number of rows that run next.
    pub(crate) fn part_rows(&self) -> u32 {
        self.part.end - self.part.start
    }

    /// What the rows cost that run next, in units.
    pub(crate) fn part_units(&self) -> f64 {
        f64::from(self.part_rows()) * self.row_units
    }

    /// Runs at most as many rows next as `most` allows, and the others later. Without effect on a
    /// job whose rows must run together.
    pub(crate) fn cut(&mut self, most: BatchLimit) {
        if !self.runs_whole {
            let most = most.rows_of(self.row_units);
            self.part.end = self.part.start.saturating_add(most).min(self.delivery.job.rows);
        }
    }

    /// Runs all rows next that have not run.
    pub(crate) fn uncut(&mut self) {
        self.part.end = self.delivery.job.rows;
    }

    /// Whether the lease of the job should be renewed.
    pub(crate) fn is_lease_due(&self) -> bool {
        self.leased_at.elapsed() >= LEASE / 3
    }

    /// Records that the lease was renewed.
    pub(crate) fn lease_renewed(&mut self) {
        self.leased_at = Instant::now();
    }

    /// Runs all rows together, again if some have run.
    pub(crate) fn run_whole(&mut self) {
        self.part = 0..self.delivery.job.rows;
        self.outputs.clear();
        self.runs_whole = true;
    }

    /// When the job was claimed, or its last part has run.
    pub(crate) fn waits_since(&self) -> Instant {
        self.waits_since
    }

    /// Adds the times of a batch that began at `started`. Its details count if no larger batch had a
    /// part of the job.
    pub(crate) fn count(&mut self, started: Instant, batch: &Timing) {
        let so_far = self.timing;
        let largest = if batch.batch_rows < so_far.batch_rows { &so_far } else { batch };
        self.timing = Timing {
            queue: so_far.queue,
            batch_wait: so_far.batch_wait + started.saturating_duration_since(self.waits_since),
            compute_input: so_far.compute_input + batch.compute_input,
            compute_infer: so_far.compute_infer + batch.compute_infer,
            compute_output: so_far.compute_output + batch.compute_output,
            ..*largest
        };
        self.waits_since = Instant::now();
    }

    /// Adds the outputs of the current part.
    pub(crate) fn ran(mut self, outputs: Vec<Tensor>, layout: &Layout) -> Progress {
        if self.outputs.is_empty() && !self.is_cut() {
            return Progress::Complete(self, outputs);
        }
        self.outputs.push(outputs.into_iter().map(copied).collect());
        self.part = self.part.end..self.delivery.job.rows;
        if !self.part.is_empty() {
            return Progress::Unfinished(self);
        }
        if let Some(outputs) = layout.join_outputs(&self.outputs) {
            return Progress::Complete(self, outputs);
        }
        self.run_whole();
        Progress::Unfinished(self)
    }

    /// The reply to a job with the outputs of all its rows.
    pub(crate) fn answered(self, outputs: Vec<Tensor>) -> JobReply {
        JobReply::outputs(self.delivery, self.timing, outputs)
    }

    /// The reply to a job that has failed. The job did not wait after its last batch.
    pub(crate) fn failed(self, failure: Failure, message: String) -> JobReply {
        JobReply::failure(self.delivery, self.timing, failure, message)
    }

    /// The reply to a job whose remaining rows never run.
    pub(crate) fn refused(mut self, failure: Failure, message: String) -> JobReply {
        self.timing.batch_wait += self.waits_since.elapsed();
        self.failed(failure, message)
    }
}

/// The output with bytes of its own: a slice would keep the bytes of the whole batch in memory.
fn copied(output: Tensor) -> Tensor {
    Tensor { data: Bytes::copy_from_slice(&output.data), ..output }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use batchfleet_broker::{Datatype, Release};

    use super::*;
    use crate::batch::examples::{delivery, held_job, limit_of, spec};

    impl Progress {
        fn unfinished(self) -> HeldJob {
            let Self::Unfinished(job) = self else { panic!("complete: {self:?}") };
            job
        }

        fn reply(self) -> batchfleet_broker::Reply {
            let Self::Complete(job, outputs) = self else { panic!("unfinished: {self:?}") };
            job.answered(outputs).into_reply()
        }
    }

    fn output(rows: u64, byte: u8) -> Vec<Tensor> {
        let data = vec![byte; usize::try_from(rows).unwrap()].into();
        vec![Tensor { name: "X".to_owned(), datatype: Datatype::Uint8, shape: vec![rows, 1], data }]
    }

    fn batch(millis: u64, rows: u32) -> Timing {
        let ms = Duration::from_millis(millis);
        Timing {
            compute_input: ms,
            compute_infer: ms * 2,
            compute_output: ms * 3,
            batch_rows: rows,
            release: Some(Release::Full),
            ..Timing::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_in_parts_has_one_reply_with_all_rows_and_the_times_of_all_parts() {
        let layout = Layout::of(&spec(64));
        let mut job = held_job(delivery(0, 5, 1));
        let second = Duration::from_secs(1);
        for (rows, byte) in [(2, 1), (2, 2)] {
            tokio::time::advance(second).await;
            job.cut(limit_of(rows));
            assert!(job.is_cut() && job.part_rows() == 2);
            job.count(Instant::now(), &batch(byte.into(), 8));
            job = job.ran(output(2, byte), &layout).unfinished();
            assert!(job.has_begun() && job.is_large(limit_of(64)));
        }
        assert_eq!((job.rows_left(), job.part_rows()), (1, 1));
        tokio::time::advance(second).await;
        job.count(Instant::now(), &batch(3, 1));
        let reply = job.ran(output(1, 3), &layout).reply();
        assert_eq!(reply.outcome.unwrap()[0].data[..], [1, 1, 2, 2, 3]);
        let timing = Timing { batch_wait: second * 3, ..batch(1 + 2 + 3, 8) };
        assert_eq!(reply.timing, timing);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_whose_parts_cannot_be_joined_runs_whole() {
        let layout = Layout::of(&spec(64));
        let mut job = held_job(delivery(0, 4, 1));
        for width in [3, 2] {
            job.cut(limit_of(2));
            let mut output = output(2 * width, 1);
            output[0].shape = vec![2, width];
            job = job.ran(output, &layout).unfinished();
        }
        assert!(!job.has_begun() && !job.is_large(limit_of(2)));
        job.cut(limit_of(2));
        assert_eq!(job.part_rows(), 4);
        assert!(job.ran(output(4, 9), &layout).reply().outcome.is_ok());
    }
}
