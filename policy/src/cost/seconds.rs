//! Arithmetic with measured times, which are never 0.

/// Lower bound of times and gain, to avoid division by zero.
pub(super) const TINY: f64 = 1e-9;

/// Multiplies `value` by `ratio`, clamped and weakened by the learning rate `rate`.
pub(super) fn toward(value: f64, ratio: f64, (least, most): (f64, f64), rate: f64) -> f64 {
    (value * (1.0 + rate * (ratio.clamp(least, most) - 1.0))).max(TINY)
}

/// Returns the median, or the lower of the two middle values if their number is even.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().max(1) - 1) / 2).map_or(TINY, |value| value.max(TINY))
}
