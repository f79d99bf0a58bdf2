//! The workers of a simulated fleet: starting, idle, busy, or draining.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

/// A time in seconds with a total order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Time(pub(super) f64);

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A running batch. Batches are ordered by end time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Batch {
    ends: Time,
    worker: usize,
    rows: u32,
    first: usize,
    began: Time,
}

/// An event of a worker.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A worker has started.
    Ready,
    /// A batch has run: `rows` arrivals, starting at index `first`.
    Ran { worker: usize, rows: u32, first: usize, began: f64, ended: f64 },
}

/// All workers of a fleet.
#[derive(Debug, Default)]
pub(super) struct Workers {
    /// Times at which the starting workers will be ready, in ascending order.
    starting: VecDeque<f64>,
    idle: VecDeque<usize>,
    busy: BinaryHeap<Reverse<Batch>>,
    /// Number of busy workers that end after their batch.
    draining: usize,
    /// Number of the next worker to start.
    next: usize,
}

impl Workers {
    pub(super) fn new(workers: u32) -> Self {
        let next = workers as usize;
        Self { idle: (0..next).collect(), next, ..Self::default() }
    }

    pub(super) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Returns the worker that has been idle for the longest time.
    pub(super) fn idle(&self) -> Option<usize> {
        self.idle.front().copied()
    }

    /// Returns the number of workers that serve.
    pub(super) fn ready(&self) -> u32 {
        count(self.idle.len() + self.busy.len() - self.draining)
    }

    /// Returns the number of workers that serve or are starting.
    pub(super) fn ordered(&self) -> u32 {
        self.ready() + count(self.starting.len())
    }

    /// Returns the number of workers that cost money: `ordered` and the draining workers.
    pub(super) fn paid(&self) -> u32 {
        self.ordered() + count(self.draining)
    }

    /// Starts a batch of `rows` arrivals, starting at index `first`, on an idle worker.
    pub(super) fn run(
        &mut self,
        worker: usize,
        first: usize,
        rows: u32,
        (began, ends): (f64, f64),
    ) {
        self.idle.retain(|&idle| idle != worker);
        self.busy.push(Reverse(Batch {
            ends: Time(ends),
            worker,
            rows,
            first,
            began: Time(began),
        }));
    }

    /// Returns the time of the next event.
    pub(super) fn next_event(&self) -> Option<f64> {
        let ends = self.busy.peek().map(|Reverse(batch)| batch.ends.0);
        ends.into_iter().chain(self.starting.front().copied()).min_by(f64::total_cmp)
    }

    /// Takes the next event that is due at `now`.
    pub(super) fn due(&mut self, now: f64) -> Option<Event> {
        if self.starting.front().is_some_and(|&at| at <= now) {
            self.starting.pop_front();
            self.idle.push_back(self.next);
            self.next += 1;
            return Some(Event::Ready);
        }
        self.busy.peek().filter(|Reverse(batch)| batch.ends.0 <= now)?;
        let Reverse(Batch { ends, worker, rows, first, began }) = self.busy.pop()?;
        if self.draining > 0 {
            self.draining -= 1;
        } else {
            self.idle.push_back(worker);
        }
        Some(Event::Ran { worker, rows, first, began: began.0, ended: ends.0 })
    }

    /// Changes the number of workers to `wanted`. New workers are ready at `ready_at`. Surplus
    /// workers end in this order: starting workers (the last ordered first), idle workers, and busy
    /// workers after their batch.
    pub(super) fn scale(&mut self, wanted: u32, ready_at: f64) {
        while self.ordered() < wanted {
            // Keep a draining worker rather than start a new one.
            if self.draining > 0 {
                self.draining -= 1;
            } else {
                self.starting.push_back(ready_at);
            }
        }
        while self.ordered() > wanted {
            if self.starting.pop_back().is_none() && self.idle.pop_back().is_none() {
                self.draining += 1;
            }
        }
    }
}

fn count(workers: usize) -> u32 {
    u32::try_from(workers).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starting_workers_end_first_then_idle_ones_and_busy_ones_after_their_batch() {
        let mut workers = Workers::new(3);
        workers.run(0, 0, 8, (0.0, 1.0));
        workers.scale(5, 60.0);
        assert_eq!((workers.ready(), workers.ordered()), (3, 5));
        workers.scale(1, 60.0);
        assert_eq!((workers.ready(), workers.ordered(), workers.paid()), (1, 1, 1));
        workers.scale(0, 60.0);
        assert_eq!((workers.ordered(), workers.paid()), (0, 1));
        assert!(matches!(workers.due(1.0), Some(Event::Ran { worker: 0, rows: 8, .. })));
        assert_eq!((workers.idle(), workers.paid()), (None, 0));
    }

    #[test]
    fn a_draining_worker_stays_if_more_workers_are_wanted_again() {
        let mut workers = Workers::new(1);
        workers.run(0, 0, 8, (0.0, 1.0));
        workers.scale(0, 60.0);
        workers.scale(2, 60.0);
        assert_eq!((workers.ready(), workers.ordered()), (1, 2));
        assert_eq!(workers.next_event(), Some(1.0));
    }
}
