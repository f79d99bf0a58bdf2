//! The workers of a simulated fleet: on their way, idle, busy, or about to leave.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

/// A time in seconds that can be ordered.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Time(f64);

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

/// A batch under way, in the order in which it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Batch {
    ends: Time,
    worker: usize,
    rows: u32,
    first: usize,
    began: Time,
}

/// What has happened to a worker.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// It has come.
    Ready,
    /// Its batch has run: `rows` arrivals from number `first` on.
    Ran { worker: usize, rows: u32, first: usize, began: f64, ended: f64 },
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Workers {
    /// When each that is on its way will be there, rising.
    coming: VecDeque<f64>,
    idle: VecDeque<usize>,
    busy: BinaryHeap<Reverse<Batch>>,
    /// How many of the busy are to leave when they have finished.
    leaving: usize,
    /// The number of the next to come.
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

    /// The worker that has been idle for longest.
    pub(super) fn idle(&self) -> Option<usize> {
        self.idle.front().copied()
    }

    /// Those that serve.
    pub(super) fn ready(&self) -> u32 {
        count(self.idle.len() + self.busy.len() - self.leaving)
    }

    /// Those that serve or will.
    pub(super) fn ordered(&self) -> u32 {
        self.ready() + count(self.coming.len())
    }

    /// Those that cost money.
    pub(super) fn paid(&self) -> u32 {
        self.ordered() + count(self.leaving)
    }

    /// Lets an idle worker run `rows` arrivals from number `first` on.
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

    /// When something will happen by itself.
    pub(super) fn next_event(&self) -> Option<f64> {
        let ends = self.busy.peek().map(|Reverse(batch)| batch.ends.0);
        ends.into_iter().chain(self.coming.front().copied()).min_by(f64::total_cmp)
    }

    /// What has happened by `now`, one by one.
    pub(super) fn due(&mut self, now: f64) -> Option<Event> {
        if self.coming.front().is_some_and(|&at| at <= now) {
            self.coming.pop_front();
            self.idle.push_back(self.next);
            self.next += 1;
            return Some(Event::Ready);
        }
        self.busy.peek().filter(|Reverse(batch)| batch.ends.0 <= now)?;
        let Reverse(Batch { ends, worker, rows, first, began }) = self.busy.pop()?;
        if self.leaving > 0 {
            self.leaving -= 1;
        } else {
            self.idle.push_back(worker);
        }
        Some(Event::Ran { worker, rows, first, began: began.0, ended: ends.0 })
    }

    /// Makes them `wanted`: new ones are there at `ready_at`; of too many, the last ordered go first,
    /// then idle ones, then busy ones when they have finished.
    pub(super) fn scale(&mut self, wanted: u32, ready_at: f64) {
        while self.ordered() < wanted {
            if self.leaving > 0 {
                self.leaving -= 1;
            } else {
                self.coming.push_back(ready_at);
            }
        }
        while self.ordered() > wanted {
            if self.coming.pop_back().is_none() && self.idle.pop_back().is_none() {
                self.leaving += 1;
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
    fn those_on_their_way_go_first_then_the_idle_and_the_busy_finish() {
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
    fn who_was_to_leave_and_is_still_there_stays_if_wanted() {
        let mut workers = Workers::new(1);
        workers.run(0, 0, 8, (0.0, 1.0));
        workers.scale(0, 60.0);
        workers.scale(2, 60.0);
        assert_eq!((workers.ready(), workers.ordered()), (1, 2));
        assert_eq!(workers.next_event(), Some(1.0));
    }
}
