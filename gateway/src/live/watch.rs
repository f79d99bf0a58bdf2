//! What happens to the requests of one model just now, for whoever looks.
//!
//! While nobody does, a request pays for reading a flag twice, and nothing is kept.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use batchfleet_broker::{Release, Timing};
use serde::Serialize;

use super::milliseconds;

/// Ticks, five a second, for which one look is remembered: three seconds.
const ATTENTION: u32 = 15;
/// Ticks that are kept: a minute.
const MINUTE: usize = 300;
/// Batches that are kept; of more between two looks the oldest are only counted.
const BATCHES: usize = 128;
/// Latencies that are kept for the next tick; of more only the first count.
const LATENCIES: usize = 8192;

/// Keeps an eye on one model.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Ticks until nobody is believed to look any more.
    attention: AtomicU32,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    batches: Series<Ran>,
    /// A batch whose answers are still coming, or go to other gateways.
    open: Option<Ran>,
    /// It was there at the last tick already.
    is_old: bool,
    samples: Series<Sample>,
    /// Of the requests that ended since the last tick, in milliseconds.
    latencies: Vec<f64>,
    /// Refused requests at the last tick.
    refused: Option<u64>,
}

/// The end of a series whose members are numbered from 1.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series<T> {
    /// The number of the last.
    pub(crate) count: u64,
    /// Those that are kept, oldest first.
    pub(crate) last: VecDeque<T>,
}

impl<T> Default for Series<T> {
    fn default() -> Self {
        Self { count: 0, last: VecDeque::new() }
    }
}

impl<T: Clone> Series<T> {
    fn push(&mut self, member: T, most: usize) {
        self.count += 1;
        if self.last.len() == most {
            self.last.pop_front();
        }
        self.last.push_back(member);
    }

    /// Those that came after the one of this number, which may be from another life.
    fn after(&self, number: u64) -> Self {
        let new = self.count.checked_sub(number).unwrap_or(self.count);
        let new = usize::try_from(new).unwrap_or(usize::MAX).min(self.last.len());
        Self {
            count: self.count,
            last: self.last.range(self.last.len() - new..).cloned().collect(),
        }
    }
}

/// A batch that requests of this gateway travelled in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Ran {
    /// Rows of requests in it, those of other gateways included.
    rows: u32,
    /// Rows added to reach a size that the engine runs.
    padding: u32,
    /// Why it left when it did.
    release: &'static str,
    /// How long the model ran.
    run_ms: f64,
    /// How long the first of this gateway's requests had waited for it.
    wait_ms: f64,
    /// Rows of this gateway's requests.
    own_rows: u32,
    /// Tells it from others: two runs do not take the same time to the nanosecond.
    #[serde(skip)]
    took: (Duration, Duration),
}

/// A fifth of a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// Requests that no worker had claimed at its end.
    waiting: u64,
    /// Requests at this gateway that were not answered at its end.
    in_flight: i64,
    /// Requests that ended in it here.
    answered: usize,
    /// Requests that were refused in it here for want of room.
    refused: u64,
    /// Of those that ended, how long half of them took at most; `None` if none ended.
    p50_ms: Option<f64>,
    /// The same for 99 in 100.
    p99_ms: Option<f64>,
}

/// What a tick takes note of.
pub(crate) struct Moment {
    /// Requests that no worker has claimed.
    pub(crate) waiting: u64,
    /// Requests at this gateway that are not answered.
    pub(crate) in_flight: i64,
    /// Requests refused here so far for want of room.
    pub(crate) refused: u64,
}

impl Watch {
    /// What came after these numbers. From now on, for a while, what happens is kept.
    pub(crate) fn look(&self, batches: u64, samples: u64) -> (Series<Ran>, Series<Sample>) {
        self.attention.store(ATTENTION, Ordering::Relaxed);
        let seen = self.seen();
        (seen.batches.after(batches), seen.samples.after(samples))
    }

    /// A request of this gateway came back from a batch.
    pub(crate) fn ran(&self, rows: u32, timing: &Timing) {
        if self.is_on()
            && let Some(release) = timing.release
        {
            self.seen().ran(rows, timing, release);
        }
    }

    /// A request ended.
    pub(crate) fn answered(&self, after: Duration) {
        if self.is_on() {
            let mut seen = self.seen();
            if seen.latencies.len() < LATENCIES {
                seen.latencies.push(milliseconds(after));
            }
        }
    }

    /// A fifth of a second has passed.
    pub(crate) fn tick(&self, now: impl FnOnce() -> Moment) {
        let less = |attention: u32| attention.checked_sub(1);
        match self.attention.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Err(_) => {}
            Ok(1) => self.seen().forget(),
            Ok(_) => {
                let now = now();
                self.seen().tick(&now);
            }
        }
    }

    fn is_on(&self) -> bool {
        self.attention.load(Ordering::Relaxed) > 0
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn ran(&mut self, rows: u32, timing: &Timing, release: Release) {
        let took = (timing.compute_input, timing.compute_infer);
        let wait_ms = milliseconds(timing.queue + timing.batch_wait);
        // The answers of one batch come one after the other.
        if self.open.as_ref().is_some_and(|open| open.took != took) {
            self.close();
        }
        let ran = self.open.get_or_insert_with(|| Ran {
            rows: timing.batch_rows,
            padding: timing.padded_rows,
            release: release.name(),
            run_ms: milliseconds(timing.compute_infer),
            wait_ms: 0.0,
            own_rows: 0,
            took,
        });
        ran.own_rows += rows;
        ran.wait_ms = ran.wait_ms.max(wait_ms);
        if ran.own_rows >= ran.rows {
            self.close();
        }
    }

    /// No more answers of the open batch will come.
    fn close(&mut self) {
        if let Some(ran) = self.open.take() {
            self.batches.push(ran, BATCHES);
        }
        self.is_old = false;
    }

    fn tick(&mut self, now: &Moment) {
        // One that has just begun may be in the middle of its answers.
        if self.is_old {
            self.close();
        } else {
            self.is_old = self.open.is_some();
        }
        self.latencies.sort_unstable_by(f64::total_cmp);
        let at = |hundredths: usize| {
            let last = self.latencies.len().checked_sub(1)?;
            self.latencies.get(last * hundredths / 100).copied()
        };
        let sample = Sample {
            waiting: now.waiting,
            in_flight: now.in_flight,
            answered: self.latencies.len(),
            refused: now.refused.saturating_sub(self.refused.unwrap_or(now.refused)),
            p50_ms: at(50),
            p99_ms: at(99),
        };
        self.refused = Some(now.refused);
        self.latencies.clear();
        self.samples.push(sample, MINUTE);
    }

    /// Lets go of all but the counts.
    fn forget(&mut self) {
        let (batches, samples) = (self.batches.count, self.samples.count);
        *self = Self::default();
        (self.batches.count, self.samples.count) = (batches, samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(rows: u32, nanoseconds: u64) -> Timing {
        Timing {
            queue: Duration::from_millis(3),
            compute_infer: Duration::from_nanos(nanoseconds),
            batch_rows: rows,
            release: Some(Release::Full),
            ..Timing::default()
        }
    }

    fn moment(refused: u64) -> Moment {
        Moment { waiting: 5, in_flight: 7, refused }
    }

    #[test]
    fn nothing_is_kept_while_nobody_looks() {
        let watch = Watch::default();
        watch.ran(1, &timing(2, 9));
        watch.answered(Duration::from_millis(1));
        watch.tick(|| unreachable!("nobody looks"));
        let (batches, samples) = watch.look(0, 0);
        assert_eq!((batches.count, samples.count), (0, 0));
    }

    #[test]
    fn the_answers_of_one_batch_are_one_batch() {
        let watch = Watch::default();
        watch.look(0, 0);
        for (rows, timing) in [(1, timing(3, 9)), (2, timing(3, 9)), (3, timing(7, 10))] {
            watch.ran(rows, &timing);
        }
        watch.ran(1, &Timing::default());
        assert_eq!(watch.look(0, 0).0.count, 1, "others of the second may still come");
        (0..2).for_each(|_| watch.tick(|| moment(0)));
        let (batches, _) = watch.look(0, 0);
        let own: Vec<_> = batches.last.iter().map(|ran| (ran.rows, ran.own_rows)).collect();
        assert_eq!(own, [(3, 3), (7, 3)]);
        assert_eq!(watch.look(1, 0).0.last, [batches.last[1].clone()]);
        assert_eq!(watch.look(99, 0).0.last.len(), 2, "a number of another life");
    }

    #[test]
    fn a_tick_says_how_long_requests_took_and_how_many_were_refused() {
        let watch = Watch::default();
        watch.look(0, 0);
        watch.tick(|| moment(40));
        (1..=101).for_each(|ms| watch.answered(Duration::from_millis(ms)));
        watch.tick(|| moment(42));
        let (_, samples) = watch.look(0, 1);
        let sample = Sample {
            waiting: 5,
            in_flight: 7,
            answered: 101,
            refused: 2,
            p50_ms: Some(51.0),
            p99_ms: Some(100.0),
        };
        assert_eq!((samples.count, samples.last), (2, VecDeque::from([sample])));
    }

    #[test]
    fn memory_is_bounded_and_given_back_when_the_last_has_gone() {
        let watch = Watch::default();
        watch.look(0, 0);
        (0..1000).for_each(|run| watch.ran(1, &timing(1, run)));
        let (batches, _) = watch.look(0, 0);
        assert_eq!((batches.count, batches.last.len()), (1000, BATCHES));
        assert!((batches.last[BATCHES - 1].run_ms - 999e-6).abs() < 1e-9);
        (0..ATTENTION).for_each(|_| watch.tick(|| moment(0)));
        watch.ran(1, &timing(1, 5000));
        let (batches, samples) = watch.look(0, 0);
        assert_eq!((batches.count, batches.last.len(), samples.last.len()), (1000, 0, 0));
    }
}
