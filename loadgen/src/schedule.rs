//! The schedule of a run: which request is next, and when it is due.

use std::time::Duration;

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::{Length, Pace, Stop};

/// Seed of the arrivals of an open loop: equal plans have equal bursts.
const ARRIVALS_SEED: u64 = 1;

/// The turn of one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Turn {
    /// The number of the request.
    pub(crate) index: u64,
    /// When the request is due; in a closed loop, when the turn was taken.
    pub(crate) due: Instant,
}

/// Hands out turns to idle users.
pub(crate) struct Schedule {
    pace: Pace,
    /// The end of the warm-up.
    pub(crate) measured_from: Instant,
    /// The end of the run, if the plan has a time.
    ends: Option<Instant>,
    stop: Stop,
    state: Mutex<State>,
}

struct State {
    next_index: u64,
    /// Turns left after the warm-up, if the plan has a number of requests.
    left: Option<u64>,
    last_due: Instant,
    arrivals: StdRng,
}

impl Schedule {
    /// A schedule that starts at `start`.
    pub(crate) fn new(pace: Pace, warm_up: Duration, length: Length, start: Instant) -> Self {
        let measured_from = start + warm_up;
        let (left, ends) = match length {
            Length::Requests(requests) => (Some(requests), None),
            Length::Time(time) => (None, Some(measured_from + time)),
        };
        let arrivals = StdRng::seed_from_u64(ARRIVALS_SEED);
        let state = State { next_index: 0, left, last_due: start, arrivals };
        Self { pace, measured_from, ends, stop: Stop::default(), state: Mutex::new(state) }
    }

    /// Adds a way to end the run early.
    pub(crate) fn ended_by(self, stop: Stop) -> Self {
        Self { stop, ..self }
    }

    /// The time after which no requests are due, if known yet.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.ends.into_iter().chain(self.stop.at()).min()
    }

    /// The next turn, or `None` when the run is over.
    pub(crate) fn take(&self, now: Instant) -> Option<Turn> {
        if self.end().is_some_and(|end| now >= end) {
            return None;
        }
        self.next(now)
    }

    /// The number of requests of an open loop that were due before the end, but found no idle user.
    /// Takes the remaining turns, so must be called once, at the end of the run.
    pub(crate) fn unsent(&self) -> u64 {
        let mut unsent = 0;
        while self.pace != Pace::Closed && self.next(self.measured_from).is_some() {
            unsent += 1;
        }
        unsent
    }

    fn next(&self, now: Instant) -> Option<Turn> {
        let mut state = self.state.lock();
        let due = match self.pace {
            Pace::Closed => now,
            Pace::Open { per_second } => {
                let uniform: f64 = state.arrivals.random();
                let gap = -(1.0 - uniform).ln() / per_second;
                state.last_due + Duration::from_secs_f64(gap)
            }
        };
        if self.end().is_some_and(|end| due >= end) {
            return None;
        }
        if due >= self.measured_from
            && let Some(left) = &mut state.left
        {
            *left = left.checked_sub(1)?;
        }
        state.last_due = due;
        let index = state.next_index;
        state.next_index += 1;
        Some(Turn { index, due })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn turns_of_a_closed_loop_are_due_at_once_until_none_are_left() {
        let start = Instant::now();
        let schedule = Schedule::new(Pace::Closed, Duration::ZERO, Length::Requests(2), start);
        assert_eq!(schedule.take(start), Some(Turn { index: 0, due: start }));
        assert_eq!(schedule.take(start + SECOND), Some(Turn { index: 1, due: start + SECOND }));
        assert_eq!(schedule.take(start + SECOND), None);
        assert_eq!(schedule.take(start + SECOND), None);
    }

    #[test]
    fn the_warm_up_does_not_count_towards_the_number_of_requests() {
        let start = Instant::now();
        let schedule = Schedule::new(Pace::Closed, SECOND, Length::Requests(1), start);
        assert!(schedule.take(start).is_some());
        assert!(schedule.take(start).is_some());
        assert!(schedule.take(start + SECOND).is_some());
        assert!(schedule.take(start + SECOND).is_none());
    }

    #[test]
    fn a_run_ends_after_its_time() {
        let start = Instant::now();
        let schedule = Schedule::new(Pace::Closed, SECOND, Length::Time(SECOND), start);
        assert!(schedule.take(start + 2 * SECOND - Duration::from_nanos(1)).is_some());
        assert!(schedule.take(start + 2 * SECOND).is_none());
    }

    #[test]
    fn the_rate_of_an_open_loop_does_not_depend_on_when_turns_are_taken() {
        let start = Instant::now();
        let pace = Pace::Open { per_second: 1000.0 };
        let schedule = Schedule::new(pace, Duration::ZERO, Length::Time(10 * SECOND), start);
        let mut last = start;
        let mut turns = 0;
        while let Some(turn) = schedule.take(start) {
            assert!(turn.due >= last);
            last = turn.due;
            turns += 1;
        }
        assert!((9_500..10_500).contains(&turns), "{turns} arrivals in 10 s at 1000 per second");
    }

    #[test]
    fn a_stop_ends_a_run_early() {
        let start = Instant::now();
        let (pace, stop) = (Pace::Open { per_second: 1000.0 }, Stop::default());
        let schedule =
            Schedule::new(pace, Duration::ZERO, Length::Time(SECOND), start).ended_by(stop.clone());
        assert!(schedule.take(start).is_some());
        stop.now();
        assert_eq!(schedule.take(Instant::now()), None);
        assert!(schedule.unsent() < 900, "requests due after the stop do not count");
    }

    #[test]
    fn an_open_loop_reports_the_requests_that_found_no_idle_user() {
        let start = Instant::now();
        let pace = Pace::Open { per_second: 1000.0 };
        let schedule = Schedule::new(pace, Duration::ZERO, Length::Time(SECOND), start);
        assert!(schedule.take(start + SECOND).is_none());
        let unsent = schedule.unsent();
        assert!((900..1100).contains(&unsent), "{unsent} unsent of about 1000");
    }
}
