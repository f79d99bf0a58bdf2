//! Recent batches, latencies and counts of one model version, for the live page.
//!
//! While no page is open, nothing is recorded, and a request costs two reads of a flag.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use batchfleet_broker::{Release, Timing};
use parking_lot::Mutex;
use serde::Serialize;

/// Ticks for which recording continues after a read: 3 s at five ticks per second.
const ATTENTION: u32 = 15;
/// Number of samples kept, one per tick: one minute.
const MINUTE: usize = 300;
/// Number of batches kept. Older batches are only counted.
const BATCHES: usize = 128;
/// Number of latencies kept for the next sample. Further latencies are ignored.
const LATENCIES: usize = 8192;

/// Records one model version while a live page is open.
#[derive(Debug, Default)]
pub(crate) struct ModelWatch {
    /// Ticks until recording stops.
    attention: AtomicU32,
    recorded: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    batches: Series<Ran>,
    /// The current batch, of which more replies may arrive.
    open: Option<Ran>,
    /// Whether `open` was already open at the last tick.
    is_old: bool,
    samples: Series<WatchSample>,
    /// Latencies of the requests that ended since the last tick, in milliseconds.
    latencies: Vec<f64>,
    /// Refused requests at the last tick.
    refused: Option<u64>,
}

/// The latest members of a series, numbered from 1.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series<T> {
    /// The number of the last member.
    pub(crate) count: u64,
    /// The members kept, oldest first.
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

    /// The members after `number`, or all members if `number` is from an earlier run of the
    /// gateway.
    fn after(&self, number: u64) -> Self {
        let new = self.count.checked_sub(number).unwrap_or(self.count);
        let new = usize::try_from(new).unwrap_or(usize::MAX).min(self.last.len());
        Self {
            count: self.count,
            last: self.last.range(self.last.len() - new..).cloned().collect(),
        }
    }
}

/// A batch with requests of this gateway.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Ran {
    /// Rows of all requests in the batch, including requests of other gateways.
    rows: u32,
    /// Rows of padding, added to reach a size that the engine runs.
    padding: u32,
    /// Why the worker released the batch.
    release: &'static str,
    /// How long the model ran.
    run_ms: f64,
    /// The longest wait of this gateway's requests in the batch.
    wait_ms: f64,
    /// Rows of this gateway's requests.
    own_rows: u32,
    /// Identifies the batch: no two runs take the same time to the nanosecond.
    #[serde(skip)]
    took: (Duration, Duration),
}

/// The state at one tick, and the events since the tick before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct WatchSample {
    /// Requests that no worker had claimed.
    waiting: u64,
    /// Requests in flight at this gateway.
    in_flight: i64,
    /// Requests that ended at this gateway since the tick before.
    answered: usize,
    /// Requests refused by this gateway since the tick before, because the fleet is too small.
    refused: u64,
    /// Median latency of the requests that ended; `None` without such requests.
    p50_ms: Option<f64>,
    /// 99th percentile of the same latencies.
    p99_ms: Option<f64>,
}

/// The state at a tick.
pub(crate) struct Moment {
    /// Requests that no worker has claimed.
    pub(crate) waiting: u64,
    /// Requests in flight at this gateway.
    pub(crate) in_flight: i64,
    /// Total requests refused by this gateway because the fleet is too small.
    pub(crate) refused: u64,
}

impl ModelWatch {
    /// The batches and samples numbered above `batches` and `samples`. Recording continues for 3 s.
    pub(crate) fn look(&self, batches: u64, samples: u64) -> (Series<Ran>, Series<WatchSample>) {
        self.attention.store(ATTENTION, Ordering::Relaxed);
        let recorded = self.recorded.lock();
        (recorded.batches.after(batches), recorded.samples.after(samples))
    }

    /// Records the reply to a request that ran in a batch.
    pub(crate) fn ran(&self, rows: u32, timing: &Timing) {
        if self.is_on()
            && let Some(release) = timing.release
        {
            self.recorded.lock().ran(rows, timing, release);
        }
    }

    /// Records the latency of a request that ended.
    pub(crate) fn answered(&self, after: Duration) {
        if self.is_on() {
            let mut recorded = self.recorded.lock();
            if recorded.latencies.len() < LATENCIES {
                recorded.latencies.push(milliseconds(after));
            }
        }
    }

    /// Takes a sample while a live page is open. Must be called five times per second.
    pub(crate) fn tick(&self, now: impl FnOnce() -> Moment) {
        let less = |attention: u32| attention.checked_sub(1);
        match self.attention.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Err(_) => {}
            Ok(1) => self.recorded.lock().forget(),
            Ok(_) => {
                let now = now();
                self.recorded.lock().tick(&now);
            }
        }
    }

    fn is_on(&self) -> bool {
        self.attention.load(Ordering::Relaxed) > 0
    }
}

impl Recorded {
    fn ran(&mut self, rows: u32, timing: &Timing, release: Release) {
        let took = (timing.compute_input, timing.compute_infer);
        let wait_ms = milliseconds(timing.queue + timing.batch_wait);
        // The replies of one batch arrive in sequence, so a different duration means the next
        // batch.
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

    /// Ends the open batch, of which no more replies will arrive.
    fn close(&mut self) {
        if let Some(ran) = self.open.take() {
            self.batches.push(ran, BATCHES);
        }
        self.is_old = false;
    }

    fn tick(&mut self, now: &Moment) {
        // Keep a batch that was opened since the last tick: more of its replies may arrive.
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
        let sample = WatchSample {
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

    /// Drops everything except the counts.
    fn forget(&mut self) {
        let (batches, samples) = (self.batches.count, self.samples.count);
        *self = Self::default();
        (self.batches.count, self.samples.count) = (batches, samples);
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
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
    fn nothing_is_recorded_while_no_page_is_open() {
        let watch = ModelWatch::default();
        watch.ran(1, &timing(2, 9));
        watch.answered(Duration::from_millis(1));
        watch.tick(|| unreachable!("no page is open"));
        let (batches, samples) = watch.look(0, 0);
        assert_eq!((batches.count, samples.count), (0, 0));
    }

    #[test]
    fn the_answers_of_one_batch_are_recorded_as_one_batch() {
        let watch = ModelWatch::default();
        watch.look(0, 0);
        for (rows, timing) in [(1, timing(3, 9)), (2, timing(3, 9)), (3, timing(7, 10))] {
            watch.ran(rows, &timing);
        }
        watch.ran(1, &Timing::default());
        assert_eq!(watch.look(0, 0).0.count, 1, "more answers of the second batch may arrive");
        (0..2).for_each(|_| watch.tick(|| moment(0)));
        let (batches, _) = watch.look(0, 0);
        let own: Vec<_> = batches.last.iter().map(|ran| (ran.rows, ran.own_rows)).collect();
        assert_eq!(own, [(3, 3), (7, 3)]);
        assert_eq!(watch.look(1, 0).0.last, [batches.last[1].clone()]);
        assert_eq!(watch.look(99, 0).0.last.len(), 2, "a number from a former run");
    }

    #[test]
    fn a_sample_has_latency_percentiles_and_the_number_of_refused_requests() {
        let watch = ModelWatch::default();
        watch.look(0, 0);
        watch.tick(|| moment(40));
        (1..=101).for_each(|ms| watch.answered(Duration::from_millis(ms)));
        watch.tick(|| moment(42));
        let (_, samples) = watch.look(0, 1);
        let sample = WatchSample {
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
    fn memory_is_bounded_and_freed_when_the_last_page_is_closed() {
        let watch = ModelWatch::default();
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
