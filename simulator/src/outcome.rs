//! What became of the requests of a simulated load, and what it cost.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Parts of the time that are told apart.
const PARTS: u32 = 600;
/// The longest latency told apart from longer ones: an hour, in microseconds.
const LONGEST: u64 = 3_600_000_000;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Requests that came.
    pub offered: u64,
    /// Answered, but later than the latency target.
    pub late: u64,
    /// Refused, because they would have been.
    pub refused: u64,
    /// Batches.
    pub batches: u64,
    /// Rows in them.
    pub rows: u64,
    /// Seconds of all workers, from order to end.
    pub worker_seconds: f64,
    /// Each change of the number of workers: when, and how many then.
    pub changes: Vec<(f64, u32)>,
    /// The same over time, in equal parts.
    pub parts: Vec<Part>,
    slo: f64,
    part: f64,
    latencies: Option<Histogram<u64>>,
    /// Since when so many workers are paid.
    paid: (f64, u32),
}

/// A part of the time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    /// Requests that came in it.
    pub offered: u32,
    /// Those of them that were late or refused.
    pub missed: u32,
    /// Workers that were paid at its end.
    pub workers: u32,
}

impl Outcome {
    pub(crate) fn new(duration: f64, slo: Duration, workers: u32) -> Self {
        Self {
            offered: 0,
            late: 0,
            refused: 0,
            batches: 0,
            rows: 0,
            worker_seconds: 0.0,
            changes: vec![(0.0, workers)],
            parts: vec![Part { workers, ..Part::default() }; PARTS as usize],
            slo: slo.as_secs_f64(),
            part: duration / f64::from(PARTS),
            latencies: Histogram::new_with_bounds(1, LONGEST, 3).ok(),
            paid: (0.0, workers),
        }
    }

    pub(crate) fn offered(&mut self, at: f64) {
        self.offered += 1;
        self.part(at).offered += 1;
    }

    pub(crate) fn refused(&mut self, arrived: f64) {
        self.refused += 1;
        self.part(arrived).missed += 1;
    }

    pub(crate) fn answered(&mut self, arrived: f64, at: f64) {
        let took = at - arrived;
        // A nanosecond late is rounding.
        if took > self.slo + 1e-9 {
            self.late += 1;
            self.part(arrived).missed += 1;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "microseconds")]
        let microseconds = (took * 1e6) as u64;
        if let Some(latencies) = &mut self.latencies {
            latencies.saturating_record(microseconds);
        }
    }

    pub(crate) fn ran(&mut self, rows: u32) {
        self.batches += 1;
        self.rows += u64::from(rows);
    }

    pub(crate) fn workers(&mut self, now: f64, ordered: u32, paid: u32) {
        self.worker_seconds += (now - self.paid.0).max(0.0) * f64::from(self.paid.1);
        self.paid = (now, paid);
        if self.changes.last().is_none_or(|&(_, last)| last != ordered) {
            self.changes.push((now, ordered));
        }
        let from = self.index(now);
        self.parts[from..].iter_mut().for_each(|part| part.workers = paid);
    }

    pub(crate) fn end(&mut self, duration: f64) {
        let (_, last) = self.paid;
        self.worker_seconds += (duration - self.paid.0).max(0.0) * f64::from(last);
    }

    /// Requests that were late or refused.
    pub fn missed(&self) -> u64 {
        self.late + self.refused
    }

    /// Their share of all.
    pub fn missed_share(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "requests of a simulation")]
        let (missed, offered) = (self.missed() as f64, self.offered.max(1) as f64);
        missed / offered
    }

    /// Seconds that this share of the answers took at most.
    pub fn latency(&self, quantile: f64) -> f64 {
        let micros = self.latencies.as_ref().map_or(0, |all| all.value_at_quantile(quantile));
        Duration::from_micros(micros).as_secs_f64()
    }

    /// Rows of the average batch.
    pub fn mean_batch(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "rows of a simulation")]
        let (rows, batches) = (self.rows as f64, self.batches.max(1) as f64);
        rows / batches
    }

    /// The fewest and the most workers that were ordered.
    pub fn extremes(&self) -> (u32, u32) {
        let numbers = || self.changes.iter().map(|&(_, workers)| workers);
        (numbers().min().unwrap_or(0), numbers().max().unwrap_or(0))
    }

    fn index(&self, at: f64) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = (at / self.part) as usize;
        index.min(self.parts.len() - 1)
    }

    fn part(&mut self, at: f64) -> &mut Part {
        let index = self.index(at);
        &mut self.parts[index]
    }
}
