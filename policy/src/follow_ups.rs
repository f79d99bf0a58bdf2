//! Decides how long a free engine waits for requests that follow answers.
//!
//! Many clients send their next request as soon as they have an answer: services with a pool of
//! connections, batch jobs, load tests. When a batch ends, the requests of some of them wait, and its
//! answers bring those of the others within a moment. If the engine begins at once, the two groups take turns
//! for ever, and each waits for the other's batch. Where the time of a batch hardly depends on its rows,
//! together they would be answered twice as fast.
//!
//! So the engine waits if requests are known to follow answers soon, and if that raises the rate:
//! (n + d) / (w + L(n + d)) against n / L(n), where n rows wait and d more come within w. Requests that
//! come at any time do not make it wait: a wait is at most a quarter of a run, and at least 60 % as
//! many rows as were answered must follow within it, which is more than twice what an even stream brings.

use std::{collections::VecDeque, time::Duration};

use crate::CostModel;

/// The shortest time within which requests are counted; each next one is twice as long.
const SHORTEST: Duration = Duration::from_micros(250);
const WINDOWS: usize = 12;
/// Brokers and timers count milliseconds, so a request may seem to come this much before the answers
/// that it follows.
const RESOLUTION: Duration = Duration::from_millis(1);
/// Later answers after which all followers of an answer are known.
const KNOWN_AFTER: usize = 3;
/// Weight of the latest answers in the averages.
const SMOOTHING: f64 = 0.1;
/// Batches and rows whose followers must have been counted: the fewer rows a batch has, the more do its
/// followers differ from those of others by chance.
const LEAST_BATCHES: u32 = 3;
const LEAST_ROWS: f64 = 20.0;
/// The longest wait, as a part of the run that it precedes.
const PART_OF_RUN: u32 = 4;
/// The share of the answered rows that must follow within the wait.
const LEAST_SHARE: f64 = 0.6;
/// The engine waits only if the rate rises by this factor.
const WORTH: f64 = 1.1;

/// How soon requests follow answers, for the only worker of a queue. Rows count as units where they
/// differ in length. Times are by any monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct FollowUps {
    /// The latest answers, oldest first.
    recent: VecDeque<Answers>,
    /// For each window, averages over earlier answers.
    windows: [Window; WINDOWS],
}

/// The answers to a batch.
#[derive(Clone, Debug)]
struct Answers {
    at: Duration,
    rows: f64,
    /// The rows that arrived afterwards within each window.
    followed: [f64; WINDOWS],
}

/// What followed within one window.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// Batches and rows that have been counted.
    batches: u32,
    rows: f64,
    /// Averages of the rows of a batch, and of those that followed.
    answered: f64,
    followed: f64,
}

/// A wait of a free engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FollowUpWait {
    /// When it ends.
    pub until: Duration,
    /// It ends earlier once so many rows wait.
    pub rows: f64,
}

impl FollowUps {
    /// Records that a batch was answered.
    pub fn answered(&mut self, at: Duration, rows: f64) {
        self.recent.push_back(Answers { at, rows, followed: [0.0; WINDOWS] });
        if self.recent.len() <= KNOWN_AFTER {
            return;
        }
        let Some(known) = self.recent.pop_front() else { return };
        // Requests after the next answers may follow those.
        let until = self.recent.front().map_or(known.at, |next| next.at);
        let windows = self.windows.iter_mut().zip(lengths()).zip(known.followed);
        for ((window, length), followed) in windows {
            if known.at + length <= until {
                window.count(known.rows, followed);
            }
        }
    }

    /// Records that rows have arrived.
    pub fn arrived(&mut self, at: Duration, rows: f64) {
        let is_before = |answers: &&mut Answers| answers.at <= at + RESOLUTION;
        let Some(answers) = self.recent.iter_mut().rev().find(is_before) else { return };
        let after = at.saturating_sub(answers.at);
        for (followed, length) in answers.followed.iter_mut().zip(lengths()) {
            if after <= length {
                *followed += rows;
            }
        }
    }

    /// How long the engine, which is free, should wait while `waiting` rows wait, of which at most `most`
    /// run together; `None` to begin at once.
    pub fn wait(
        &self,
        now: Duration,
        (waiting, most): (f64, f64),
        cost: &CostModel,
    ) -> Option<FollowUpWait> {
        let last = self.recent.back()?;
        let since = now.saturating_sub(last.at);
        let wait = self.best((last.rows, &last.followed), since, (waiting, most), cost)?;
        Some(FollowUpWait { until: last.at + wait.until, ..wait })
    }

    /// Whether the engine should wait after a run of `running` rows, if nothing changes until then.
    pub fn waits_after(&self, running: f64, (waiting, most): (f64, f64), cost: &CostModel) -> bool {
        let none = [0.0; WINDOWS];
        self.best((running, &none), Duration::ZERO, (waiting, most), cost).is_some()
    }

    /// The wait with the best rate, counted from answers to `answered` rows, `since` ago, after which
    /// `followed` rows have come.
    fn best(
        &self,
        (answered, followed): (f64, &[f64; WINDOWS]),
        since: Duration,
        (waiting, most): (f64, f64),
        cost: &CostModel,
    ) -> Option<FollowUpWait> {
        if waiting <= 0.0 || waiting >= most {
            return None;
        }
        let run = cost.latency(whole(waiting));
        let mut best = (WORTH * waiting / run.as_secs_f64(), None);
        for ((window, until), followed) in self.windows.iter().zip(lengths()).zip(followed) {
            let Some(share) = window.share().filter(|share| *share >= LEAST_SHARE) else {
                continue;
            };
            if until <= since || until + RESOLUTION > run / PART_OF_RUN {
                continue;
            }
            let rows = most.min(waiting + (share * answered - followed).max(0.0));
            let takes = until.saturating_sub(since) + cost.latency(whole(rows));
            let rate = rows / takes.as_secs_f64();
            if rate > best.0 {
                best = (rate, Some(FollowUpWait { until, rows }));
            }
        }
        best.1
    }
}

impl Window {
    fn count(&mut self, answered: f64, followed: f64) {
        self.batches = self.batches.saturating_add(1);
        self.rows += answered;
        self.answered += (answered - self.answered) * SMOOTHING;
        self.followed += (followed - self.followed) * SMOOTHING;
    }

    /// The rows that follow each answered row; `None` while unknown.
    fn share(&self) -> Option<f64> {
        let is_known = self.batches >= LEAST_BATCHES && self.rows >= LEAST_ROWS;
        is_known.then(|| (self.followed / self.answered).min(1.0))
    }
}

/// The lengths of the windows.
fn lengths() -> impl Iterator<Item = Duration> {
    (0..WINDOWS).map(|window| SHORTEST * (1 << window))
}

fn whole(rows: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let whole = rows.ceil() as u32;
    whole.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const RUN: Duration = Duration::from_millis(20);
    const MOST: f64 = 64.0;

    /// Batches of any size take 20 ms.
    fn flat() -> CostModel {
        CostModel::from_profile(&[(1, RUN), (64, RUN)]).unwrap()
    }

    /// The end of the batch with this number.
    fn end(batch: u32) -> Duration {
        RUN * batch
    }

    /// After batches of 8 rows, each followed by rows at these times.
    fn after(batches: u32, rows: &[Duration]) -> FollowUps {
        let mut follow_ups = FollowUps::default();
        for batch in 0..batches {
            follow_ups.answered(end(batch), 8.0);
            for after in rows {
                follow_ups.arrived(end(batch) + *after, 1.0);
            }
        }
        follow_ups.answered(end(batches), 8.0);
        follow_ups
    }

    /// Clients that send their next request 0.3 to 0.4 ms after an answer.
    fn clients() -> [Duration; 8] {
        [300, 310, 320, 340, 360, 370, 390, 400].map(Duration::from_micros)
    }

    #[test]
    fn two_groups_of_clients_are_joined() {
        let follow_ups = after(20, &clients());
        let wait = follow_ups.wait(end(20), (8.0, MOST), &flat()).unwrap();
        assert_eq!(wait.until, end(20) + Duration::from_micros(500));
        assert!((wait.rows - 16.0).abs() < 1e-6, "{wait:?}");
        assert!(follow_ups.waits_after(8.0, (8.0, MOST), &flat()));
        let wait = follow_ups.wait(end(20), (8.0, 12.0), &flat()).unwrap();
        assert!((wait.rows - 12.0).abs() < 1e-6, "N is enough: {wait:?}");
    }

    #[test]
    fn a_wait_ends_with_the_rows_that_have_not_come() {
        let mut follow_ups = after(20, &clients());
        let soon = end(20) + MS * 3 / 10;
        (0..6).for_each(|_| follow_ups.arrived(soon, 1.0));
        let wait = follow_ups.wait(soon, (6.0, MOST), &flat()).unwrap();
        assert!((wait.rows - 8.0).abs() < 1e-6, "{wait:?}");
        assert_eq!(follow_ups.wait(end(20) + MS * 6, (6.0, MOST), &flat()), None, "too late");
    }

    #[test]
    fn the_engine_begins_at_once_unless_a_wait_is_known_to_be_worth_it() {
        let follow_ups = after(20, &clients());
        let waits = |waiting, most, cost| follow_ups.wait(end(20), (waiting, most), &cost);
        assert_eq!(waits(8.0, 8.0, flat()), None, "the batch is full");
        assert_eq!(waits(0.0, MOST, flat()), None, "nothing could begin");
        assert_eq!(waits(100.0, 200.0, flat()), None, "8 more rows hardly matter");
        let rows = CostModel::from_profile(&[(1, MS), (64, MS * 64)]).unwrap();
        assert_eq!(waits(32.0, MOST, rows), None, "a row costs the same in any batch");
        let quick = CostModel::from_profile(&[(1, MS * 4), (64, MS * 4)]).unwrap();
        assert_eq!(waits(8.0, MOST, quick), None, "times are too coarse for so short a run");
        let few = after(4, &clients());
        assert_eq!(few.wait(end(4), (8.0, MOST), &flat()), None, "two batches tell too little");
        let known = after(5, &clients());
        assert!(known.wait(end(5), (8.0, MOST), &flat()).is_some());
        assert_eq!(FollowUps::default().wait(MS, (8.0, MOST), &flat()), None);
    }

    #[test]
    fn small_batches_tell_less_than_large_ones() {
        let waits_after = |batches: u32| {
            let mut follow_ups = FollowUps::default();
            for batch in 0..batches + 3 {
                follow_ups.answered(end(batch), 1.0);
                follow_ups.arrived(end(batch) + MS, 1.0);
            }
            follow_ups.waits_after(1.0, (1.0, MOST), &flat())
        };
        assert!(!waits_after(19) && waits_after(20));
    }

    #[test]
    fn requests_that_come_at_any_time_are_not_awaited() {
        let even: Vec<_> = (0..8).map(|row| RUN * row / 8 + MS).collect();
        let thinking: Vec<_> = clients().map(|after| after + MS * 8).to_vec();
        let half_of_them = &clients()[..4];
        for rows in [&even[..], &thinking, half_of_them, &[]] {
            let follow_ups = after(50, rows);
            assert_eq!(follow_ups.wait(end(50), (8.0, MOST), &flat()), None, "{rows:?}");
        }
    }

    #[test]
    fn a_broker_that_counts_milliseconds_may_date_requests_before_the_answers() {
        let mut follow_ups = FollowUps::default();
        for batch in 1..=20 {
            follow_ups.answered(end(batch), 8.0);
            (0..8).for_each(|_| follow_ups.arrived(end(batch).saturating_sub(MS / 2), 1.0));
        }
        assert!(follow_ups.wait(end(20), (8.0, MOST), &flat()).is_none_or(|wait| wait.rows > 8.0));
        assert!(follow_ups.waits_after(8.0, (8.0, MOST), &flat()));
    }

    #[test]
    fn clients_that_leave_are_forgotten() {
        let mut follow_ups = after(50, &clients());
        for batch in 51..100 {
            follow_ups.answered(end(batch), 8.0);
        }
        assert_eq!(follow_ups.wait(end(99), (8.0, MOST), &flat()), None);
    }
}
