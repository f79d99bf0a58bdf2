//! u(S): what a row of length S costs, in units.
//!
//! The rows of text, speech and images differ in length: in tokens, samples or pixels. The time of a
//! batch of b rows of length S is modelled as
//!
//! T(b, S) = a + b · (r + c·S + d·S²):
//!
//! a fixed time, and for each row a part that does not depend on its length, a part for layers that
//! treat each position alone, and one for attention. A unit is a row of the shortest measured length
//! S₀, so that u(S) = (r + c·S + d·S²) / (r + c·S₀ + d·S₀²), and T is a function of b · u(S) alone.
//! Everything that counts rows (L(b), N, the limit of memory) counts units instead, and needs no
//! second dimension.

use std::time::Duration;

/// The number of coefficients of T(b, S), and of those that do not depend on S.
const TERMS: usize = 4;
const ROWS_ALONE: usize = 2;
/// Relative errors of measured times up to this size are noise.
const NOISE: f64 = 0.1;
/// Lengths must explain at least half of the error that a model without them has.
const EXPLAINED: f64 = 0.5;
/// Rows that are longer than any before count as rows of this multiple of the longest, because
/// nothing is known of them. They run, and are known from then on.
const STEP: u64 = 2;

/// A measured batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LengthSample {
    /// Rows of the batch.
    pub rows: u32,
    /// S: the length of each row.
    pub length: u64,
    /// The measured time.
    pub took: Duration,
}

impl LengthSample {
    /// The units of all rows.
    pub(crate) fn units_of(&self, lengths: &LengthCost) -> f64 {
        f64::from(self.rows) * lengths.units(self.length)
    }
}

/// u(S), the cost of a row by its length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LengthCost {
    /// r, c and d, as multiples of the cost of the shortest length.
    row: f64,
    linear: f64,
    square: f64,
    /// The longest length that was measured; `u64::MAX` if the cost does not depend on lengths.
    measured: u64,
    /// The longest length that has run while serving, and its units; longer than `measured`.
    ran: Option<(u64, f64)>,
}

impl Default for LengthCost {
    /// Every row costs one unit.
    fn default() -> Self {
        Self { row: 1.0, linear: 0.0, square: 0.0, measured: u64::MAX, ran: None }
    }
}

impl LengthCost {
    /// Fits u(S) to measured batches by least squares of the relative errors, with no negative
    /// coefficient. Flat if a model of the number of rows alone is hardly worse, because the rest
    /// may be noise.
    pub fn fit(samples: &[LengthSample]) -> Self {
        fit(samples).lengths
    }

    /// Whether rows of all lengths cost the same.
    pub fn is_flat(&self) -> bool {
        *self == Self::default()
    }

    /// u(S): the units of one row of `length`, at least 1.
    pub fn units(&self, length: u64) -> f64 {
        let measured = self.at(length.min(self.measured));
        if length <= self.measured {
            return measured;
        }
        let twice = self.measured.saturating_mul(STEP);
        let (ran, units) = self.ran.unwrap_or_else(|| (twice, self.at(twice)));
        let known = self.ran.map_or(twice, |(ran, _)| ran.saturating_mul(STEP));
        let length = length.min(known);
        let share = as_f64(length - self.measured) / as_f64(ran - self.measured).max(1.0);
        (measured + (units - measured) * share).max(measured)
    }

    /// Returns whether nothing is known of rows of `length`.
    pub fn is_new(&self, length: u64) -> bool {
        length > self.ran.map_or(self.measured, |(ran, _)| ran)
    }

    /// Learns the cost of rows that are longer than all before: `units` according to the first batch,
    /// which is slower than others. It counts as at most as slow as attention would explain.
    pub fn learn(&mut self, length: u64, units: f64) {
        if self.is_new(length) {
            let (known, least) = self.ran.unwrap_or((self.measured, self.at(self.measured)));
            let longer = as_f64(length) / as_f64(known.max(1));
            self.ran = Some((length, units.clamp(least, least * longer * longer)));
        }
    }

    /// u(S) by the measured coefficients.
    fn at(&self, length: u64) -> f64 {
        let length = as_f64(length);
        (self.row + self.linear * length + self.square * length * length).max(1.0)
    }
}

/// T(b, S), fitted to measured batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LengthFit {
    pub(crate) lengths: LengthCost,
    /// a: the time of a batch beside its units, in seconds.
    fixed: f64,
    /// The time of a unit, in seconds.
    unit: f64,
}

impl LengthFit {
    /// The time of so many units, in seconds.
    pub(crate) fn of_units(&self, units: f64) -> f64 {
        (self.fixed + units * self.unit).max(1e-9)
    }

    /// The time of a batch of the rows and length of `sample`, in seconds.
    pub(crate) fn seconds(&self, sample: &LengthSample) -> f64 {
        self.of_units(sample.units_of(&self.lengths))
    }
}

/// Fits T(b, S) as [`LengthCost::fit`] does.
pub(crate) fn fit(samples: &[LengthSample]) -> LengthFit {
    let lengths = samples.iter().map(|sample| sample.length);
    let short = as_f64(lengths.clone().min().unwrap_or(1).max(1));
    let terms: Vec<[f64; TERMS]> = samples.iter().map(relative_terms).collect();
    let ([fixed, row, ..], error_of_rows) = nonnegative_fit(&terms, ROWS_ALONE);
    let by_rows = LengthFit { lengths: LengthCost::default(), fixed, unit: row };
    let ([fixed, row, linear, square], error) = nonnegative_fit(&terms, TERMS);
    let unit = row + linear * short + square * short * short;
    if error_of_rows <= NOISE.max(error / EXPLAINED) || unit <= 0.0 {
        return by_rows;
    }
    let (row, linear, square) = (row / unit, linear / unit, square / unit);
    let measured = lengths.max().unwrap_or(1);
    LengthFit { lengths: LengthCost { row, linear, square, measured, ran: None }, fixed, unit }
}

/// The coefficients a, r, c, d ≥ 0 with the least squares of relative errors, of which the first
/// `count` may be positive, and the root of the mean square. With few coefficients,
/// the best of all choices of positive ones is found by trying each (the solution of non-negative
/// least squares is an unconstrained solution over its positive coefficients; Lawson and Hanson,
/// "Solving Least Squares Problems", 1974, chapter 23).
fn nonnegative_fit(rows: &[[f64; TERMS]], count: usize) -> ([f64; TERMS], f64) {
    let error = |fit: &[f64; TERMS]| {
        let squares: f64 = rows.iter().map(|row| (dot(row, fit) - 1.0).powi(2)).sum();
        (squares / as_f64(rows.len() as u64)).sqrt()
    };
    let mut best = ([0.0; TERMS], f64::INFINITY);
    for chosen in 1..1_u8 << count {
        let uses = |term: usize| chosen & (1 << term) != 0;
        let Some(fit) = least_squares(rows, uses) else { continue };
        let error = error(&fit);
        if fit.iter().all(|&coefficient| coefficient >= 0.0) && error < best.1 {
            best = (fit, error);
        }
    }
    best
}

/// The terms 1, b, b·S and b·S², each relative to the measured time.
fn relative_terms(sample: &LengthSample) -> [f64; TERMS] {
    let took = sample.took.as_secs_f64().max(1e-9);
    let (rows, length) = (f64::from(sample.rows), as_f64(sample.length));
    [1.0 / took, rows / took, rows * length / took, rows * length * length / took]
}

/// Solves the least squares problem over the terms in use, by the normal equations with each term
/// scaled to the same size. `None` if the terms in use are not independent.
fn least_squares(rows: &[[f64; TERMS]], uses: impl Fn(usize) -> bool) -> Option<[f64; TERMS]> {
    let scale = |term: usize| rows.iter().map(|row| row[term] * row[term]).sum::<f64>().sqrt();
    let used: Vec<(usize, f64)> =
        (0..TERMS).filter(|&term| uses(term)).map(|term| (term, scale(term))).collect();
    let mut system: Vec<Vec<f64>> = Vec::new();
    for &(one, one_scale) in &used {
        let product = |&(other, scale): &(usize, f64)| {
            rows.iter().map(|row| row[one] * row[other]).sum::<f64>() / (one_scale * scale)
        };
        let mut equation: Vec<f64> = used.iter().map(product).collect();
        equation.push(rows.iter().map(|row| row[one]).sum::<f64>() / one_scale);
        system.push(equation);
    }
    let solution = eliminate(system)?;
    let mut fit = [0.0; TERMS];
    for (&(term, scale), value) in used.iter().zip(solution) {
        fit[term] = value / scale;
    }
    Some(fit)
}

/// Gaussian elimination without pivoting, which a positive definite system does not need. `None` if
/// the system is singular.
fn eliminate(mut system: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let size = system.len();
    for pivot in 0..size {
        let row = system[pivot].clone();
        if row[pivot].abs() < 1e-9 {
            return None;
        }
        for (index, other) in system.iter_mut().enumerate().filter(|&(index, _)| index != pivot) {
            debug_assert_ne!(index, pivot);
            let factor = other[pivot] / row[pivot];
            for (value, &pivoted) in other.iter_mut().zip(&row) {
                *value -= factor * pivoted;
            }
        }
    }
    Some(system.iter().enumerate().map(|(index, row)| row[size] / row[index]).collect())
}

fn dot(one: &[f64; TERMS], other: &[f64; TERMS]) -> f64 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

#[expect(clippy::cast_precision_loss, reason = "a length of a row")]
fn as_f64(length: u64) -> f64 {
    length as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(ms: impl Fn(f64, f64) -> f64) -> Vec<LengthSample> {
        let mut samples = Vec::new();
        for (rows, length) in [1, 4]
            .into_iter()
            .flat_map(|rows| [8, 32, 128, 512].into_iter().map(move |length| (rows, length)))
        {
            let ms = ms(f64::from(rows), as_f64(length));
            samples.push(LengthSample { rows, length, took: Duration::from_secs_f64(ms / 1e3) });
        }
        samples
    }

    #[test]
    fn the_cost_of_attention_is_found_exactly() {
        let cost = LengthCost::fit(&samples(|b, s| 2.0 + b * (0.01 * s + 1e-5 * s * s)));
        let expected = |s: f64| (0.01 * s + 1e-5 * s * s) / (0.01 * 8.0 + 1e-5 * 64.0);
        for length in [8_u32, 20, 512] {
            let (found, right) = (cost.units(length.into()), expected(length.into()));
            assert!((found / right - 1.0).abs() < 1e-6, "{length}: {found} instead of {right}");
        }
    }

    #[test]
    fn noise_of_ten_percent_moves_the_cost_by_little() {
        let mut noisy = samples(|b, s| 1.0 + b * 0.02 * s);
        for (at, sample) in noisy.iter_mut().enumerate() {
            sample.took = sample.took.mul_f64(if at % 2 == 0 { 1.1 } else { 0.9 });
        }
        let units = LengthCost::fit(&noisy).units(512);
        assert!((45.0..85.0).contains(&units), "{units}");
    }

    #[test]
    fn rows_of_any_length_cost_the_same_if_the_times_say_so() {
        let cost = LengthCost::fit(&samples(|b, _| 4.0 + 0.05 * b));
        assert!(
            (cost.units(8) - 1.0).abs() < 1e-6 && (cost.units(512) - 1.0).abs() < 1e-3,
            "{cost:?}"
        );
    }

    #[test]
    fn a_longer_row_than_any_counts_as_twice_the_longest_until_it_has_run() {
        let mut cost = LengthCost::fit(&samples(|b, s| 1.0 + b * 0.02 * s));
        let at = |cost: &LengthCost, length| format!("{:.0}", cost.units(length));
        let twice = at(&cost, 1024);
        assert_eq!(twice, "128");
        assert_eq!((at(&cost, 2048), at(&cost, 1_000_000)), (twice.clone(), twice));
        cost.learn(100_000, 5000.0);
        assert!(!cost.is_new(100_000) && cost.is_new(100_001));
        assert_eq!(at(&cost, 100_000), "5000");
        let mut stalled = LengthCost::fit(&samples(|b, s| 1.0 + b * 0.02 * s));
        stalled.learn(1024, 1e6);
        assert_eq!(at(&stalled, 1024), "256", "four times the cost of half the length");
        assert!((2400.0..2600.0).contains(&cost.units(50_000)), "{}", cost.units(50_000));
        assert_eq!(at(&cost, 512), "64");
        cost.learn(90_000, 1.0);
        assert_eq!(at(&cost, 100_000), "5000", "only longer rows are new");
    }

    #[test]
    fn differences_like_noise_are_no_cost_of_length() {
        let mut noisy = samples(|b, _| 4.0 + 0.05 * b);
        for (at, sample) in noisy.iter_mut().enumerate() {
            sample.took = sample.took.mul_f64(if at % 3 == 0 { 1.08 } else { 0.96 });
        }
        assert!(LengthCost::fit(&noisy).is_flat());
        assert!(LengthCost::fit(&samples(|_, _| 5.0)).is_flat());
    }

    #[test]
    fn a_single_length_shows_no_cost() {
        let one_length = [1, 4, 16].map(|rows| {
            let took = Duration::from_millis(3 * u64::from(rows));
            LengthSample { rows, length: 16, took }
        });
        assert!(LengthCost::fit(&one_length).is_flat() && LengthCost::fit(&[]).is_flat());
        assert!((LengthCost::default().units(1000) - 1.0).abs() < 1e-9);
    }
}
