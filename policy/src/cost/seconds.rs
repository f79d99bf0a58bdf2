//! Arithmetic with measured times, which are never 0.

/// Lower bound of times and gain, to avoid division by zero.
pub(super) const TINY: f64 = 1e-9;

/// Multiplies `value` by `ratio`, clamped and weakened by the learning rate `rate`.
pub(super) fn toward(value: f64, ratio: f64, (least, most): (f64, f64), rate: f64) -> f64 {
    (value * (1.0 + rate * (ratio.clamp(least, most) - 1.0))).max(TINY)
}

/// Returns the median, or the geometric mean of the two middle values if their number is even.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let (Some(&upper), below) = (values.get(middle), middle.saturating_sub(1)) else { return TINY };
    let lower = if values.len().is_multiple_of(2) { values[below] } else { upper };
    (lower * upper).sqrt().max(TINY)
}

/// Returns the geometric mean of `value` relative to each of `others`, each ratio clamped; 1 if there
/// are none.
pub(super) fn relative(value: f64, others: &[f64], (least, most): (f64, f64)) -> f64 {
    let ratios = others.iter().map(|other| (value / other.max(TINY)).clamp(least, most).ln());
    let count = u32::try_from(others.len().max(1)).unwrap_or(u32::MAX);
    (ratios.sum::<f64>() / f64::from(count)).exp()
}
