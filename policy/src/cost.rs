//! L(b): how long a batch of b rows takes, measured at start and corrected while running.

use std::time::Duration;

/// A change counts once most of so many batches show it: a stall or two change nothing.
const WITNESSES: usize = 5;
/// Share of the way from the gain to what the witnesses say that one batch goes.
const GAIN_RATE: f64 = 0.2;
/// What the witnesses say counts as at most this much slower or faster.
const LARGEST_STEP: (f64, f64) = (0.5, 2.0);
/// Share of a size's own deviation that one batch corrects, and the largest that counts.
const SIZE_RATE: f64 = 0.02;
const LARGEST_DEVIATION: (f64, f64) = (0.8, 1.25);
/// No time and no gain is less: a clock that stands still must not divide by zero.
const TINY: f64 = 1e-9;

/// The cost of a batch by its rows: L(b) = gain · T(b), in seconds.
///
/// T is a table of times measured at start. Of an engine that runs any size it is interpolated
/// between its sizes and extended along its last slope; of one that runs only fixed sizes it is a
/// step function, because a batch is padded to the next of them.
///
/// The gain follows the running system. With xᵢ = tᵢ / T(bᵢ) for batch i, and m the median of the
/// last five x, each batch moves it by gain ← gain · (1 + 0.2 · (clamp(m / gain, ½, 2) − 1)). So one
/// stall moves nothing, and a model that became twice as slow is known to 3 % after 20 batches:
/// three until the median believes it, 0.8¹⁷ of the way missing after the others. One gain is
/// always identifiable; fitting a and c of a + c·b online is not, because sizes hardly vary in a
/// steady state and the covariance winds up. Where sizes do vary, what one of them deviates from
/// the others corrects its entry of the table: T(b) ← T(b) · (1 + 0.02 · (clamp(x / m') − 1)), with m'
/// the median of those of the last five x that other entries gave, if these are two at least. To
/// compare a size with itself would be worse than nothing: times have a long tail, so x is above its
/// own median on average, and the one size that runs would seem to become slower than all others.
#[derive(Clone, Debug)]
pub struct CostModel {
    /// (rows, seconds), rows rising, as measured and corrected.
    measured: Vec<(u32, f64)>,
    /// The same, seconds never falling: what is computed with.
    table: Vec<(u32, f64)>,
    only_these_sizes: bool,
    gain: f64,
    /// The last batches, oldest first.
    witnesses: [Witness; WITNESSES],
}

/// What a batch says of the gain.
#[derive(Clone, Copy, Debug)]
struct Witness {
    /// The entry of the table that it ran by; `None` if it is only assumed.
    entry: Option<usize>,
    /// Its x.
    x: f64,
}

impl CostModel {
    /// Takes the times measured at start, one per size, in any order; `None` without any.
    ///
    /// A larger size measured faster than a smaller one is noise: it counts like the smaller one.
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
        let table = monotone(&measured);
        let witnesses = [Witness { entry: None, x: 1.0 }; WITNESSES];
        Some(Self { measured, table, only_these_sizes: false, gain: 1.0, witnesses })
    }

    /// The same of an engine that runs no other sizes than those measured: batches are padded.
    #[must_use]
    pub fn with_fixed_sizes(self) -> Self {
        Self { only_these_sizes: true, ..self }
    }

    /// Whether batches are padded to the next measured size.
    pub fn has_fixed_sizes(&self) -> bool {
        self.only_these_sizes
    }

    /// The rows that the engine runs for a batch of `rows`: the next fixed size, if there are such.
    /// Beyond the largest size there is none, and it is `rows`.
    pub fn padded(&self, rows: u32) -> u32 {
        if !self.only_these_sizes {
            return rows;
        }
        self.table[self.at_or_above(rows)..].first().map_or(rows, |&(size, _)| size)
    }

    /// L(b): the expected time of a batch of `rows`.
    pub fn latency(&self, rows: u32) -> Duration {
        Duration::try_from_secs_f64(self.seconds(rows)).unwrap_or(Duration::MAX)
    }

    /// L(b) in seconds.
    pub(crate) fn seconds(&self, rows: u32) -> f64 {
        self.gain * self.interpolate(rows)
    }

    /// b / L(b): rows per second in batches of `rows`.
    pub fn rate(&self, rows: u32) -> f64 {
        f64::from(rows) / self.seconds(rows)
    }

    /// The smallest b ≤ `most` whose rate b / L(b) is at least `rate` rows per second: with fewer
    /// rows a batch, a queue that grows at that rate never ends. Below one row it is the share of
    /// time that single rows take. `None` if no size keeps up.
    ///
    /// The fixed point of b = rate · L(b), piece by piece of the table: exact for each, where
    /// iterating converges slowly near saturation. For L = a + c·b, it is rate · a / (1 − rate · c).
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

    /// Where b = rate · L(b) on one piece of the table, from a size that does not keep up to one
    /// that does.
    fn crossing(&self, rate: f64, from: u32, to: u32) -> f64 {
        let (short, enough) = (f64::from(from), f64::from(to));
        if self.only_these_sizes && to <= self.largest() {
            return (rate * self.seconds(to)).clamp(short, enough);
        }
        let (missing, spare) =
            (rate * self.seconds(from) - short, enough - rate * self.seconds(to));
        short + (enough - short) * missing / (missing + spare)
    }

    /// The most rows per second in batches of up to `most`: at a measured size or the largest,
    /// since between two sizes b / L(b) only rises or only falls.
    pub fn best_rate(&self, most: u32) -> f64 {
        let sizes = self.table.iter().map(|&(size, _)| size).take_while(|&size| size < most);
        sizes.chain([most.max(1)]).map(|rows| self.rate(rows)).fold(0.0, f64::max)
    }

    /// Corrects the model by one batch: `rows` took `took`.
    pub fn observe(&mut self, rows: u32, took: Duration) {
        let x = took.as_secs_f64() / self.interpolate(rows);
        let entry = self.at_or_above(rows).min(self.table.len() - 1);
        self.witnesses.rotate_left(1);
        self.witnesses[WITNESSES - 1] = Witness { entry: Some(entry), x };
        let all = median(self.witnesses.iter().map(|witness| witness.x).collect());
        self.gain = toward(self.gain, all / self.gain, LARGEST_STEP, GAIN_RATE);
        let is_other = |witness: &&Witness| witness.entry.is_some_and(|other| other != entry);
        let others: Vec<f64> =
            self.witnesses.iter().filter(is_other).map(|witness| witness.x).collect();
        if others.len() > 1 {
            let size = &mut self.measured[entry].1;
            *size = toward(*size, x / median(others), LARGEST_DEVIATION, SIZE_RATE);
            self.table = monotone(&self.measured);
        }
    }

    /// The largest size that was measured.
    pub fn largest(&self) -> u32 {
        self.table[self.table.len() - 1].0
    }

    /// How much slower than at start batches are just now.
    pub fn gain(&self) -> f64 {
        self.gain
    }

    /// L(b) at the measured sizes, as it is believed now; rows rising.
    pub fn sizes(&self) -> impl Iterator<Item = (u32, Duration)> {
        self.table.iter().map(|&(rows, _)| (rows, self.latency(rows)))
    }

    /// The index of the first measured size of at least `rows`.
    fn at_or_above(&self, rows: u32) -> usize {
        self.table.partition_point(|&(size, _)| size < rows)
    }

    /// T(b): seconds for `rows` before the gain. Below the first size, that size's.
    fn interpolate(&self, rows: u32) -> f64 {
        let above = self.at_or_above(rows);
        match (above.checked_sub(1), self.table.get(above)) {
            (None, first) => first.map_or(0.0, |&(_, seconds)| seconds),
            (Some(_), Some(&(_, seconds))) if self.only_these_sizes => seconds,
            (Some(below), Some(&next)) => line(self.table[below], next, rows),
            (Some(last), None) => {
                let before = last.checked_sub(1).map_or((0, 0.0), |index| self.table[index]);
                line(before, self.table[last], rows)
            }
        }
    }
}

/// `value` after a `share` of the way to `ratio` times itself, the ratio kept within bounds.
fn toward(value: f64, ratio: f64, (least, most): (f64, f64), share: f64) -> f64 {
    (value * (1.0 + share * (ratio.clamp(least, most) - 1.0))).max(TINY)
}

/// The middle of some values, the lower of two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().max(1) - 1) / 2).map_or(TINY, |value| value.max(TINY))
}

/// The least table above this one whose seconds never fall.
fn monotone(measured: &[(u32, f64)]) -> Vec<(u32, f64)> {
    let mut floor = 0.0_f64;
    let lift = |&(rows, seconds): &(u32, f64)| {
        floor = floor.max(seconds);
        (rows, floor)
    };
    measured.iter().map(lift).collect()
}

/// The line through two measured sizes, at `rows`.
fn line((b0, t0): (u32, f64), (b1, t1): (u32, f64), rows: u32) -> f64 {
    t0 + (t1 - t0) * (f64::from(rows) - f64::from(b0)) / (f64::from(b1) - f64::from(b0))
}

#[cfg(test)]
mod tests;
