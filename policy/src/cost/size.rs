//! One size of the table T, and the table that follows from all sizes.

use super::seconds::{TINY, median};

/// Number of recent ratios by which a size is judged.
const RECENT: usize = 5;
/// Learning rate of one size per batch, and bounds of the ratio between this size and the others.
const RATE: f64 = 0.02;
const LARGEST_DEVIATION: (f64, f64) = (0.8, 1.25);
/// A size whose recent ratios are all outside these bounds, on the same side, was measured wrong.
const WRONG: (f64, f64) = (0.9, 1.1);
/// Bounds of one correction of a wrong size.
const LARGEST_JUMP: (f64, f64) = (0.25, 4.0);
/// Weight of a size that was measured at start-up, and of a size that has run often.
const MEASURED: f64 = 3.0;
const OFTEN: f64 = 30.0;
/// A guessed size is doubtful until it has run so often. A doubtful size that has not run for so many
/// batches is guessed again.
const SURE: f64 = 3.0;
const FORGOTTEN: u32 = 200;

/// A size of the table.
#[derive(Clone, Debug)]
pub(super) struct Size {
    pub(super) rows: u32,
    /// The time measured for this size alone, in seconds.
    pub(super) seconds: f64,
    /// The first of these times.
    first: f64,
    /// Whether `seconds` follows from batches that served requests.
    has_served: bool,
    /// Number of batches behind `seconds`; 0 for a size that has not run.
    weight: f64,
    /// Times of recent batches relative to `seconds`, oldest first.
    ratios: [f64; RECENT],
    /// How many of `ratios` are set.
    known: usize,
    /// Number of batches behind `fastest`, the least time of this size, which counts once the size is
    /// no longer guessed.
    learnt: f64,
    fastest: f64,
    /// Number of batches since this size ran.
    rested: u32,
}

impl Size {
    /// A size that was measured at start-up.
    pub(super) const fn measured(rows: u32, seconds: f64) -> Self {
        let (ratios, fastest) = ([1.0; RECENT], f64::INFINITY);
        Self {
            rows,
            seconds,
            first: seconds,
            has_served: false,
            weight: MEASURED,
            ratios,
            known: 0,
            learnt: 0.0,
            fastest,
            rested: 0,
        }
    }

    /// A size whose time is a guess until it runs.
    pub(super) const fn guessed(rows: u32, seconds: f64) -> Self {
        Self { weight: 0.0, ..Self::measured(rows, seconds) }
    }

    /// Whether the size has run.
    pub(super) fn is_known(&self) -> bool {
        self.weight > 0.0
    }

    /// Corrects the size with the time of a batch, relative to `seconds` and to batches of other sizes:
    /// `mean` is the mean of clamped ratios, `ratio` the ratio to their median.
    ///
    /// A single batch moves the size by at most 0.5 %. If the last five batches agree that the size
    /// is more than 10 % wrong, the size moves by the square root of their median. The root is
    /// taken because the batches of two sizes only show the ratio of the two: each size takes half
    /// of the correction, and together they are right at once.
    pub(super) fn correct(&mut self, mean: f64, ratio: f64) {
        self.has_served = true;
        self.ratios.rotate_left(1);
        self.ratios[RECENT - 1] = ratio;
        self.known = (self.known + 1).min(RECENT);
        self.rested = 0;
        self.weight = (self.weight + 1.0).min(OFTEN);
        let (low, high) = WRONG;
        let agree = self.ratios.iter().all(|&ratio| ratio < low)
            || self.ratios.iter().all(|&ratio| ratio > high);
        if self.known == RECENT && agree {
            let middle = median(self.ratios.to_vec());
            self.replace(middle.sqrt());
        } else {
            let (least, most) = LARGEST_DEVIATION;
            self.seconds = (self.seconds * mean.clamp(least, most).powf(RATE)).max(TINY);
        }
    }

    /// Scales the time of a size that has served.
    pub(super) fn scale(&mut self, factor: f64) {
        if self.has_served {
            self.seconds = (self.seconds * factor).max(TINY);
        }
    }

    /// Sets the time of a guessed size from its first batch. If the size was guessed again after
    /// earlier batches, the fastest counts, because delays only add time.
    pub(super) fn learn(&mut self, ratio: f64) {
        self.replace(ratio);
        self.learnt += 1.0;
        self.fastest = self.fastest.min(self.seconds);
        (self.weight, self.seconds, self.rested) = (self.learnt, self.fastest, 0);
        (self.first, self.has_served) = (self.seconds, true);
    }

    /// Counts a batch of another size. Returns whether this size should be guessed again: its few
    /// batches may have run while the machine was slow, and N avoids a size that seems slow, so that
    /// nothing else would correct it.
    pub(super) fn rests(&mut self) -> bool {
        self.rested = self.rested.saturating_add(1);
        self.is_known() && self.weight < SURE && self.rested >= FORGOTTEN
    }

    /// Replaces the time of a doubtful size by a guess.
    pub(super) const fn guess_again(&mut self, seconds: f64) {
        (self.learnt, self.weight, self.seconds) = (self.weight, 0.0, seconds);
    }

    fn replace(&mut self, factor: f64) {
        let (least, most) = LARGEST_JUMP;
        self.seconds = (self.seconds * factor.clamp(least, most)).max(TINY);
        self.known = 0;
    }
}

/// The time of each size alone. A size that has not served yet became slower by the same factor as the
/// largest smaller size that has: a measurement at start-up is too slow after a stall but never too
/// fast, so that a size which takes longer now shows that the machine has become slower for batches of
/// at least this size.
pub(super) fn alone(sizes: &[Size]) -> Vec<f64> {
    let mut slower = 1.0_f64;
    let each = sizes.iter().map(|size| {
        if size.has_served {
            slower = (size.seconds / size.first).max(1.0);
        }
        let is_scaled = !size.has_served && size.is_known();
        if is_scaled { size.seconds * slower } else { size.seconds }
    });
    each.collect()
}

/// T: the times that never fall and are closest to the times of `sizes` [`alone`], by least squares,
/// each weighted by the number of its batches.
///
/// A size that seems slower than a larger one was measured during a stall, or the larger size was
/// measured too fast. The size that ran more often is more likely right. This isotonic regression
/// is computed by pooling adjacent violators (Ayer et al., "An empirical distribution function for
/// sampling with incomplete information", 1955; Barlow et al., "Statistical inference under order
/// restrictions", 1972).
pub(super) fn isotonic(sizes: &[Size]) -> Vec<(u32, f64)> {
    /// Neighbours with the same time.
    struct Pool {
        seconds: f64,
        weight: f64,
        sizes: usize,
    }
    let mut pools: Vec<Pool> = Vec::with_capacity(sizes.len());
    for (size, seconds) in sizes.iter().zip(alone(sizes)) {
        let weight = size.weight.max(TINY);
        let mut last = Pool { seconds, weight, sizes: 1 };
        while let Some(before) = pools.pop_if(|before| before.seconds > last.seconds) {
            let weight = before.weight + last.weight;
            let sum = before.seconds * before.weight + last.seconds * last.weight;
            last = Pool { seconds: sum / weight, weight, sizes: before.sizes + last.sizes };
        }
        pools.push(last);
    }
    let seconds = pools.iter().flat_map(|pool| std::iter::repeat_n(pool.seconds, pool.sizes));
    sizes.iter().map(|size| size.rows).zip(seconds).collect()
}
