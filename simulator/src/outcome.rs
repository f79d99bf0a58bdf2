//! The outcome of a simulation: requests, latencies, and worker time.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::request::{Request, longest};

/// Number of equal intervals into which a simulation is divided.
const INTERVALS: u32 = 600;
/// Upper bound of recorded latencies: one hour, in microseconds.
const LONGEST: u64 = 3_600_000_000;

/// Result of a simulation.
#[derive(Clone, Debug)]
pub struct SimulationOutcome {
    /// Requests that arrived.
    pub offered: u64,
    /// Requests answered later than the latency target.
    pub late: u64,
    /// Requests refused because the answer would have been late.
    pub refused: u64,
    /// Batches that ran.
    pub batches: u64,
    /// Rows in all batches.
    pub rows: u64,
    /// The length of all rows, padded to the longest of their batch, and without padding.
    pub positions: (u64, u64),
    /// When the requests arrived that were late or refused, in seconds.
    pub missed_at: Vec<f64>,
    /// Paid time of all workers in seconds, from the order of a worker to its end.
    pub worker_seconds: f64,
    /// Changes of the number of workers: (seconds, new number).
    pub changes: Vec<(f64, u32)>,
    /// Counts over time, in equal intervals.
    pub intervals: Vec<Interval>,
    slo: f64,
    /// Length of an interval in seconds.
    interval: f64,
    latencies: Option<Histogram<u64>>,
    /// Number of paid workers, and the time since which this number is unchanged.
    paid: (f64, u32),
}

/// Counts of an interval of simulated time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interval {
    /// Requests that arrived.
    pub offered: u32,
    /// Requests, among those that arrived in the interval, that were late or refused.
    pub missed: u32,
    /// Paid workers at the end of the interval.
    pub workers: u32,
}

impl SimulationOutcome {
    pub(crate) fn new(duration: f64, slo: Duration, workers: u32) -> Self {
        Self {
            offered: 0,
            late: 0,
            refused: 0,
            batches: 0,
            rows: 0,
            positions: (0, 0),
            missed_at: Vec::new(),
            worker_seconds: 0.0,
            changes: vec![(0.0, workers)],
            intervals: vec![Interval { workers, ..Interval::default() }; INTERVALS as usize],
            slo: slo.as_secs_f64(),
            interval: duration / f64::from(INTERVALS),
            latencies: Histogram::new_with_bounds(1, LONGEST, 3).ok(),
            paid: (0.0, workers),
        }
    }

    pub(crate) fn offered(&mut self, at: f64) {
        self.offered += 1;
        self.interval(at).offered += 1;
    }

    pub(crate) fn refused(&mut self, arrived: f64) {
        self.refused += 1;
        self.missed_request(arrived);
    }

    pub(crate) fn answered(&mut self, arrived: f64, at: f64) {
        let took = at - arrived;
        // Tolerates rounding errors of one nanosecond.
        if took > self.slo + 1e-9 {
            self.late += 1;
            self.missed_request(arrived);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "microseconds")]
        let microseconds = (took * 1e6) as u64;
        if let Some(latencies) = &mut self.latencies {
            latencies.saturating_record(microseconds);
        }
    }

    fn missed_request(&mut self, arrived: f64) {
        self.interval(arrived).missed += 1;
        self.missed_at.push(arrived);
    }

    /// Adds a batch of requests of one row each.
    pub(crate) fn ran(&mut self, batch: &[Request]) {
        let rows = batch.len() as u64;
        self.batches += 1;
        self.rows += rows;
        self.positions.0 += rows * longest(batch);
        self.positions.1 += batch.iter().map(|request| request.length).sum::<u64>();
    }

    pub(crate) fn workers(&mut self, now: f64, ordered: u32, paid: u32) {
        self.worker_seconds += (now - self.paid.0).max(0.0) * f64::from(self.paid.1);
        self.paid = (now, paid);
        if self.changes.last().is_none_or(|&(_, last)| last != ordered) {
            self.changes.push((now, ordered));
        }
        let from = self.index(now);
        self.intervals[from..].iter_mut().for_each(|interval| interval.workers = paid);
    }

    pub(crate) fn end(&mut self, duration: f64) {
        let (_, last) = self.paid;
        self.worker_seconds += (duration - self.paid.0).max(0.0) * f64::from(last);
    }

    /// Returns the outcome of this fleet and another of the same length, with a constant number of
    /// workers each.
    #[must_use]
    pub fn joined(mut self, other: Self) -> Self {
        self.offered += other.offered;
        self.late += other.late;
        self.refused += other.refused;
        self.batches += other.batches;
        self.rows += other.rows;
        self.positions.0 += other.positions.0;
        self.positions.1 += other.positions.1;
        self.missed_at.extend(other.missed_at);
        self.missed_at.sort_by(f64::total_cmp);
        self.worker_seconds += other.worker_seconds;
        let workers = |changes: &[(f64, u32)]| changes.last().map_or(0, |&(_, workers)| workers);
        self.changes = vec![(0.0, workers(&self.changes) + workers(&other.changes))];
        for (interval, other) in self.intervals.iter_mut().zip(other.intervals) {
            interval.offered += other.offered;
            interval.missed += other.missed;
            interval.workers += other.workers;
        }
        if let (Some(all), Some(others)) = (&mut self.latencies, other.latencies) {
            // Both have the same bounds.
            all.add(others).ok();
        }
        self
    }

    /// Returns the number of requests that were late or refused.
    pub fn missed(&self) -> u64 {
        self.late + self.refused
    }

    /// Returns the share of requests that were late or refused.
    pub fn missed_share(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "requests of a simulation")]
        let (missed, offered) = (self.missed() as f64, self.offered.max(1) as f64);
        missed / offered
    }

    /// Returns a quantile of the latency of answered requests, in seconds.
    pub fn latency(&self, quantile: f64) -> f64 {
        let micros = self.latencies.as_ref().map_or(0, |all| all.value_at_quantile(quantile));
        Duration::from_micros(micros).as_secs_f64()
    }

    /// Returns the rows per second that ran.
    pub fn rate(&self) -> f64 {
        let length = self.interval * f64::from(INTERVALS);
        #[expect(clippy::cast_precision_loss, reason = "rows of a simulation")]
        let rows = self.rows as f64;
        rows / length
    }

    /// Returns the mean rows per batch.
    pub fn mean_batch(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "rows of a simulation")]
        let (rows, batches) = (self.rows as f64, self.batches.max(1) as f64);
        rows / batches
    }

    /// Returns padding as a share of the positions that ran.
    pub fn padding(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "positions of a simulation")]
        let (padded, own) = (self.positions.0.max(1) as f64, self.positions.1.max(1) as f64);
        1.0 - own / padded
    }

    /// Returns the smallest and the largest number of workers ordered.
    pub fn extremes(&self) -> (u32, u32) {
        let numbers = || self.changes.iter().map(|&(_, workers)| workers);
        (numbers().min().unwrap_or(0), numbers().max().unwrap_or(0))
    }

    fn index(&self, at: f64) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = (at / self.interval) as usize;
        index.min(self.intervals.len() - 1)
    }

    fn interval(&mut self, at: f64) -> &mut Interval {
        let index = self.index(at);
        &mut self.intervals[index]
    }
}
