//! Finds the jobs that make a batch fail: what fails runs again in halves, until only jobs are left
//! that fail alone. Pure.

use std::collections::VecDeque;

use batchfleet_broker::Delivery;

use crate::{batch::Batch, fault::RunFault};

/// What is still to run of one batch.
///
/// Halves queue up, so that with one bad job the larger good parts are answered first. If the first
/// half of a part runs well, the second must hold what failed, and is split without another run: one
/// bad job among N takes 1.5 log2 N more runs on average, 2 log2 N at most.
#[derive(Debug)]
pub(super) struct Bisection(VecDeque<Part>);

/// A batch, or a part of one that failed.
#[derive(Debug)]
pub(super) struct Part {
    /// The jobs.
    pub(super) batch: Batch,
    /// The first of two halves; the second is next in the queue.
    pub(super) is_first_half: bool,
    /// The part holds what made a larger part fail.
    pub(super) is_guilty: bool,
}

impl Bisection {
    /// The whole batch is still to run.
    pub(super) fn new(batch: Batch) -> Self {
        Self(VecDeque::from([Part { batch, is_first_half: false, is_guilty: false }]))
    }

    /// Takes the next part.
    pub(super) fn next(&mut self) -> Option<Part> {
        self.0.pop_front()
    }

    /// Whether nothing is left to run after the part that was taken last.
    pub(super) fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// The first half of a part ran well, so the second, now the next part, is guilty.
    pub(super) fn first_half_ran(&mut self) {
        if let Some(second) = self.0.front_mut() {
            second.is_guilty = true;
        }
    }

    /// A part failed with `fault`, and its halves are to run. If memory ran out, either half may
    /// fail again, whatever becomes of the other.
    pub(super) fn failed(&mut self, [first, second]: [Batch; 2], fault: RunFault) {
        let is_first_half = fault == RunFault::Model;
        self.0.push_back(Part { batch: first, is_first_half, is_guilty: false });
        self.0.push_back(Part { batch: second, is_first_half: false, is_guilty: false });
    }

    /// The jobs that have not run.
    pub(super) fn into_jobs(self) -> impl Iterator<Item = Delivery> {
        self.0.into_iter().flat_map(|part| part.batch.deliveries)
    }
}
