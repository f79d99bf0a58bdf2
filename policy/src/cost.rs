//! L(b): the duration of a batch of b rows, measured at start-up and corrected while running.

mod seconds;
mod size;

use std::{collections::BTreeSet, time::Duration};

use self::{
    seconds::{TINY, median, relative, toward},
    size::{Size, alone, isotonic},
};

/// Number of recent batches from which the gain is corrected. Their median ignores one or two
/// stalled batches.
const RECENT: usize = 5;
/// Learning rate of the gain per batch.
const GAIN_RATE: f64 = 0.2;
/// Bounds of the ratio between the median and the gain.
const LARGEST_STEP: (f64, f64) = (0.5, 2.0);
/// Bounds of the ratio between two batches of different sizes.
const OTHERS: (f64, f64) = (0.8, 1.25);
/// Sizes that differ less than this in their time are not told apart by one batch.
const NEARLY: f64 = 0.9;
/// The duration of a batch by its rows: L(b) = gain · T(b), in seconds.
///
/// **T** is the table of times measured at start-up. For an engine that runs any size, T is
/// interpolated between the measured sizes and extended along the last slope. For an engine with
/// fixed sizes, T is a step function, because each batch is padded to the next size.
///
/// **The gain** follows the running system. With x = t / T(b) for a batch of b rows that took t,
/// and m the median of the last five x, each batch updates
///
/// gain ← gain · (1 + 0.2 · (clamp(m / gain, ½, 2) − 1)).
///
/// A single stall does not move the median. After the model becomes twice as slow, the error is 3 %
/// after 20 batches: the median changes after three batches, then 0.8¹⁷ of the step is left. A
/// single factor is always identifiable. The factors a and c of L(b) = a + c·b, fitted by recursive
/// least squares, are not: sizes hardly vary in a steady state, and the covariance winds up.
///
/// **The table** is corrected while sizes vary, by comparing each size with the other sizes:
///
/// T(b) ← T(b) · m^0.02,
///
/// where m is the geometric mean of clamp(x / x′, 0.8, 1.25) over those of the last five batches that
/// had other sizes, if there are at least two. What a size gains by this comparison, it and the
/// compared sizes lose in equal parts. Otherwise the sizes in use would drift away from all others,
/// because times have a long tail. For the same reason a size is not compared with itself. If five
/// batches of a size in a row contradict its time by more than 10 %, which the tail does not explain,
/// the size was measured during a stall, and the correction is made at once. A batch counts for the
/// size that is nearest to its rows.
///
/// Sizes that have not served yet follow the largest smaller size that has, if this became slower.
/// Otherwise, because T never falls, they would seem to take no longer than that size.
///
/// **Larger batches** than any measured size, which a short warm-up leaves for later, double the
/// table: the time of the new size follows from the first batch. A new size that seems slow after one
/// or two batches, and is therefore avoided, is tried again after 200 batches, until it has run three
/// times.
#[derive(Clone, Debug)]
pub struct CostModel {
    /// The sizes as measured and corrected, in order of rows.
    sizes: Vec<Size>,
    /// T: the times of `sizes`, made to never fall.
    table: Vec<(u32, f64)>,
    /// The most rows that have run together.
    ran: u32,
    fixed_sizes: bool,
    gain: f64,
    /// The latest batches, oldest first; `None` until so many have run.
    recent: [Option<BatchSample>; RECENT],
}

/// A batch that has run.
#[derive(Clone, Copy, Debug)]
struct BatchSample {
    /// Index in the table.
    entry: usize,
    rows: u32,
    /// The measured time.
    seconds: f64,
}

impl CostModel {
    /// Builds the model from the times measured at start-up: (rows, time), one per size, in any
    /// order. Returns `None` if the profile is empty.
    ///
    /// If a larger size was measured faster than a smaller size, the difference is noise, and both
    /// count as fast as their mean.
    pub fn from_profile(profile: &[(u32, Duration)]) -> Option<Self> {
        let mut measured: Vec<(u32, f64)> = profile
            .iter()
            .map(|&(rows, took)| (rows.max(1), took.as_secs_f64().max(TINY)))
            .collect();
        measured.sort_by_key(|&(rows, _)| rows);
        measured.dedup_by_key(|&mut (rows, _)| rows);
        if measured.is_empty() {
            return None;
        }
        let ran = measured.last().map_or(1, |&(rows, _)| rows);
        let sizes: Vec<Size> =
            measured.into_iter().map(|(rows, seconds)| Size::measured(rows, seconds)).collect();
        let table = isotonic(&sizes);
        let recent = [None; RECENT];
        Some(Self { sizes, table, ran, fixed_sizes: false, gain: 1.0, recent })
    }

    /// Makes this the model of an engine that runs only the measured sizes and pads batches to
    /// them.
    #[must_use]
    pub fn with_fixed_sizes(self) -> Self {
        Self { fixed_sizes: true, ..self }
    }

    /// Returns the model of an engine that has run batches of `rows`.
    #[must_use]
    pub(crate) fn having_run(self, rows: u32) -> Self {
        Self { ran: self.ran.max(rows), ..self }
    }

    /// Returns the most rows that have run together.
    pub(crate) fn ran(&self) -> u32 {
        self.ran
    }

    /// Returns the model of the same engine, if it pads all batches to `rows` rows.
    #[must_use]
    pub fn at_one_size(&self, rows: u32) -> Self {
        let size = Size::measured(rows.max(1), self.seconds(rows).max(TINY));
        let (table, recent) = (isotonic(std::slice::from_ref(&size)), [None; RECENT]);
        Self { sizes: vec![size], table, ran: rows, fixed_sizes: true, gain: 1.0, recent }
    }

    /// Returns whether batches are padded to the next measured size.
    pub fn has_fixed_sizes(&self) -> bool {
        self.fixed_sizes
    }

    /// Returns the rows that the engine runs for a batch of `rows`: the next fixed size. Without
    /// fixed sizes, and beyond the largest size, returns `rows`.
    pub fn padded(&self, rows: u32) -> u32 {
        if !self.fixed_sizes {
            return rows;
        }
        self.table[self.at_or_above(rows)..].first().map_or(rows, |&(size, _)| size)
    }

    /// Returns the largest fixed size that `rows` fill; without fixed sizes, and below the smallest
    /// size, returns `rows`.
    pub(crate) fn filled(&self, rows: u32) -> u32 {
        if !self.fixed_sizes {
            return rows;
        }
        let sizes = self.table.iter().rev().map(|&(size, _)| size);
        sizes.into_iter().find(|&size| size <= rows).unwrap_or(rows)
    }

    /// L(b): the expected duration of a batch of `rows`.
    pub fn latency(&self, rows: u32) -> Duration {
        Duration::try_from_secs_f64(self.seconds(rows)).unwrap_or(Duration::MAX)
    }

    /// L(b) in seconds.
    pub(crate) fn seconds(&self, rows: u32) -> f64 {
        self.gain * self.interpolate(rows)
    }

    /// Returns the fewest rows that are expected to take nearly the time `took`, up to twice the rows
    /// that have run together.
    pub fn rows_in(&self, took: Duration) -> u32 {
        let nearly = took.as_secs_f64() * NEARLY;
        let (mut short, mut enough) = (0, self.reach().max(1));
        while enough - short > 1 {
            let middle = short + (enough - short) / 2;
            if self.seconds(middle) < nearly { short = middle } else { enough = middle }
        }
        enough
    }

    /// b / L(b): rows per second in batches of `rows`.
    pub fn rate(&self, rows: u32) -> f64 {
        f64::from(rows) / self.seconds(rows)
    }

    /// Returns `b_eq`, the smallest b ≤ `most` with b / L(b) ≥ `rate` rows per second. With smaller
    /// batches the queue grows without bound. A value below 1 is the share of time for which
    /// batches of one row keep the worker busy. Returns `None` if no size keeps up.
    ///
    /// `b_eq` is the fixed point of b = rate · L(b), solved exactly on each linear piece of the
    /// table, because iteration would converge slowly near saturation. For L(b) = a + c·b the
    /// solution is rate · a / (1 − rate · c).
    pub fn keeping_up(&self, rate: f64, most: u32) -> Option<f64> {
        let one = rate * self.seconds(1);
        if one <= 1.0 {
            return Some(one);
        }
        let end = |to: u32| self.rate(to) >= rate;
        let inner =
            self.table.iter().map(|&(size, _)| size).filter(|&size| 1 < size && size < most);
        let mut from = 1;
        for to in inner.chain([most.max(1)]) {
            if end(to) {
                return Some(self.crossing(rate, from, to));
            }
            from = to;
        }
        None
    }

    /// Solves b = rate · L(b) on one piece of the table, between a size that does not keep up and a
    /// size that does.
    fn crossing(&self, rate: f64, from: u32, to: u32) -> f64 {
        let (short, enough) = (f64::from(from), f64::from(to));
        if self.fixed_sizes && to <= self.largest() {
            return (rate * self.seconds(to)).clamp(short, enough);
        }
        let (missing, spare) =
            (rate * self.seconds(from) - short, enough - rate * self.seconds(to));
        short + (enough - short) * missing / (missing + spare)
    }

    /// Returns the highest rate of sizes up to `most`, in rows per second. The highest rate is at a
    /// measured size or at `most`, because b / L(b) is monotone between two measured sizes.
    pub fn best_rate(&self, most: u32) -> f64 {
        let sizes = self.table.iter().map(|&(size, _)| size).take_while(|&size| size < most);
        sizes.chain([most.max(1)]).map(|rows| self.rate(rows)).fold(0.0, f64::max)
    }

    /// Corrects the model with the measured duration of one batch of `rows`.
    pub fn observe(&mut self, rows: u32, took: Duration) {
        self.grow(rows);
        let entry = self.nearest(rows);
        self.doubt_others(entry);
        let batch = BatchSample { entry, rows, seconds: took.as_secs_f64() };
        let x = self.x(&batch);
        if !self.sizes[entry].is_known() {
            self.sizes[entry].learn(x / self.gain);
            self.table = isotonic(&self.sizes);
            return;
        }
        self.recent.rotate_left(1);
        self.recent[RECENT - 1] = Some(batch);
        let all = self.recent.iter().map(|batch| batch.as_ref().map_or(1.0, |batch| self.x(batch)));
        let all = median(all.collect());
        self.gain = toward(self.gain, all / self.gain, LARGEST_STEP, GAIN_RATE);
        let others = self.recent.iter().flatten().filter(|other| other.entry != entry);
        let (entries, others): (BTreeSet<usize>, Vec<f64>) =
            others.map(|other| (other.entry, self.x(other))).unzip();
        if others.len() > 1 {
            self.compare(entry, x, (entries, others));
        }
    }

    /// Corrects a size with the time of a batch, x, relative to those of `others`, which have the sizes
    /// at `entries`. All these sizes together become neither slower nor faster relative to the sizes
    /// that do not run: batches of two sizes only show the ratio of the two.
    fn compare(&mut self, entry: usize, x: f64, (entries, others): (BTreeSet<usize>, Vec<f64>)) {
        let before = alone(&self.sizes)[entry];
        // The size's own time may differ from T, which respects its neighbours.
        let own = before / self.table[entry].1;
        self.sizes[entry].seconds = before;
        self.sizes[entry].correct(relative(x, &others, OTHERS) / own, x / median(others) / own);
        let factor = self.sizes[entry].seconds / before;
        let all = u32::try_from(entries.len() + 1).unwrap_or(u32::MAX);
        let back = factor.powf(-1.0 / f64::from(all));
        for entry in entries.into_iter().chain([entry]) {
            self.sizes[entry].scale(back);
        }
        self.table = isotonic(&self.sizes);
    }

    /// x: the time of a batch relative to T.
    fn x(&self, batch: &BatchSample) -> f64 {
        batch.seconds / self.interpolate(batch.rows)
    }

    /// Adds sizes until a batch of `rows` is within the table. Their times continue the last slope.
    fn grow(&mut self, rows: u32) {
        self.ran = self.ran.max(rows);
        while !self.fixed_sizes && self.largest() < rows {
            let next = self.largest().saturating_mul(2);
            self.sizes.push(Size::guessed(next, self.interpolate(next)));
            self.table = isotonic(&self.sizes);
        }
    }

    /// Counts a batch of the size `entry`. Other sizes that ran too seldom to be sure are guessed again
    /// after a while. These are the last of the table.
    fn doubt_others(&mut self, entry: usize) {
        for index in (0..self.sizes.len()).filter(|&index| index != entry) {
            if self.sizes[index].rests() {
                let guess = beyond(&self.table[..index], self.sizes[index].rows);
                self.sizes[index].guess_again(guess);
                self.table = isotonic(&self.sizes);
            }
        }
    }

    /// Returns the most rows to run next: twice the rows that have run together so far. The time of
    /// yet larger batches would be a guess.
    pub(crate) fn reach(&self) -> u32 {
        if self.fixed_sizes { self.largest() } else { self.ran.saturating_mul(2) }
    }

    /// Returns the largest measured size.
    pub fn largest(&self) -> u32 {
        self.table[self.table.len() - 1].0
    }

    /// Returns the current duration of batches relative to start-up; 2 is twice as slow.
    pub fn gain(&self) -> f64 {
        self.gain
    }

    /// Returns the current L(b) at the measured sizes, in order of rows.
    pub fn sizes(&self) -> impl Iterator<Item = (u32, Duration)> {
        self.table.iter().map(|&(rows, _)| (rows, self.latency(rows)))
    }

    /// Returns the index of the first measured size of at least `rows`.
    fn at_or_above(&self, rows: u32) -> usize {
        self.table.partition_point(|&(size, _)| size < rows)
    }

    /// Returns the index of the size that a batch of `rows` tells most about: the next fixed size, else
    /// the nearest.
    fn nearest(&self, rows: u32) -> usize {
        let above = self.at_or_above(rows).min(self.table.len() - 1);
        let below = above.saturating_sub(1);
        let is_below = rows.abs_diff(self.table[below].0) < rows.abs_diff(self.table[above].0);
        if is_below && !self.fixed_sizes { below } else { above }
    }

    /// Returns T(b) in seconds, without the gain. Below the first size, the time of the first size
    /// applies.
    fn interpolate(&self, rows: u32) -> f64 {
        let above = self.at_or_above(rows);
        match (above.checked_sub(1), self.table.get(above)) {
            (None, first) => first.map_or(0.0, |&(_, seconds)| seconds),
            (Some(_), Some(&(_, seconds))) if self.fixed_sizes => seconds,
            (Some(below), Some(&next)) => line(self.table[below], next, rows),
            (Some(_), None) => beyond(&self.table, rows),
        }
    }
}

/// Continues the last slope of a table to `rows`. With a single size, the line starts at the origin.
fn beyond(table: &[(u32, f64)], rows: u32) -> f64 {
    match *table {
        [] => 0.0,
        [last] => line((0, 0.0), last, rows),
        [.., before, last] => line(before, last, rows),
    }
}

/// Evaluates the line through two (rows, seconds) points at `rows`.
fn line((b0, t0): (u32, f64), (b1, t1): (u32, f64), rows: u32) -> f64 {
    t0 + (t1 - t0) * (f64::from(rows) - f64::from(b0)) / (f64::from(b1) - f64::from(b0))
}

#[cfg(test)]
mod tests;
