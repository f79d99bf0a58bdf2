//! L(b), the duration of a batch, as a formula (`8+2b`) or as a table of measured times.

use std::{fmt, str::FromStr, time::Duration};

use batchfleet_policy::{Climb, ClimbEnd, CostModel, LengthCost, LengthSample};

use crate::window;

/// L(b): duration of a batch of b rows in the simulated model.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    shape: Shape,
    /// Fixed sizes of the engine, in ascending order; batches are padded to the next size. `None`
    /// if the engine runs any size.
    sizes: Option<Vec<u32>>,
    /// What each row costs by its length, in milliseconds: for each position, and for each pair of
    /// positions.
    length_ms: (f64, f64),
}

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// a + c·b milliseconds.
    Affine { a: f64, c: f64 },
    /// (rows, milliseconds), interpolated linearly.
    Table(Vec<(u32, f64)>),
}

impl Curve {
    /// Returns the curve a + c·b, in milliseconds.
    pub const fn affine(a: f64, c: f64) -> Self {
        Self { shape: Shape::Affine { a, c }, sizes: None, length_ms: (0.0, 0.0) }
    }

    /// Returns the same curve for an engine with these fixed sizes, in ascending order.
    #[must_use]
    pub fn with_sizes(self, sizes: Vec<u32>) -> Self {
        Self { sizes: Some(sizes), ..self }
    }

    /// Returns the same curve for rows of which each takes longer by so many milliseconds for each of
    /// its positions, and for each pair of positions.
    #[must_use]
    pub fn with_lengths(self, position_ms: f64, pair_ms: f64) -> Self {
        Self { length_ms: (position_ms, pair_ms), ..self }
    }

    /// Returns the fixed sizes; empty if the engine runs any size.
    pub fn sizes(&self) -> &[u32] {
        self.sizes.as_deref().unwrap_or_default()
    }

    /// Returns L(b) in seconds.
    pub fn seconds(&self, rows: u32) -> f64 {
        let fixed = self.sizes.iter().flatten().copied().find(|&size| size >= rows);
        let rows = f64::from(fixed.unwrap_or(rows));
        match &self.shape {
            Shape::Affine { a, c } => (a + c * rows) / 1000.0,
            Shape::Table(points) => interpolate(points, rows) / 1000.0,
        }
    }

    /// Returns T(b, S) in seconds: the time of a batch of rows that are all padded to `length`.
    pub fn seconds_of(&self, rows: u32, length: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a length of a row")]
        let length = length as f64;
        let (position_ms, pair_ms) = self.length_ms;
        let row_ms = position_ms * length + pair_ms * length * length;
        self.seconds(rows) + f64::from(rows) * row_ms / 1000.0
    }

    /// Returns L of units, and what rows cost in units, of a worker that has measured rows of lengths
    /// within these bounds.
    pub fn length_costs(
        &self,
        max_batch: u32,
        (least, most): (u64, u64),
    ) -> Option<(CostModel, LengthCost)> {
        let lengths = std::iter::successors(Some(least), |length| length.checked_mul(4));
        let lengths = lengths.take_while(|&length| length < most).chain([most]);
        let powers = || std::iter::successors(Some(1_u32), |rows| rows.checked_mul(2));
        let sample = |rows, length| {
            let took = Duration::from_secs_f64(self.seconds_of(rows, length));
            LengthSample { rows, length, took }
        };
        let sizes = || powers().take_while(|&rows| rows < max_batch).chain([max_batch]);
        let measured: Vec<LengthSample> =
            lengths.flat_map(|length| sizes().map(move |rows| sample(rows, length))).collect();
        window::costs(&measured)
    }

    /// Returns the profile that a worker would measure at start-up: the times of the fixed sizes,
    /// or of 1, 2, 4 … `max_batch` rows.
    pub fn profile(&self, max_batch: u32) -> Vec<(u32, Duration)> {
        let powers = std::iter::successors(Some(1_u32), |rows| rows.checked_mul(2));
        let mut sizes: Vec<u32> = match &self.sizes {
            Some(sizes) => sizes.iter().copied().filter(|&size| size < max_batch).collect(),
            None => powers.take_while(|&rows| rows < max_batch).collect(),
        };
        sizes.push(max_batch);
        sizes.into_iter().map(|rows| (rows, Duration::from_secs_f64(self.seconds(rows)))).collect()
    }

    /// Returns the cost model of a worker after its warm-up, and the most rows that it may run.
    /// The warm-up may be shorter than [`profile`](Self::profile): it depends on the latency target
    /// `slo`, and on the time `hung_after` after which a batch counts as hung.
    pub fn warm_up(
        &self,
        max_batch: u32,
        slo: Duration,
        hung_after: Duration,
    ) -> Option<(CostModel, u32)> {
        let mut climb = Climb::new(slo, hung_after);
        let mut usable = 1;
        for (rows, took) in self.profile(max_batch) {
            if let Err(end) = climb.goes_on(rows) {
                usable = if end == ClimbEnd::Time { max_batch } else { usable };
                break;
            }
            let mut runs = Vec::new();
            while !climb.suffice(rows, &runs) {
                runs.push(took);
            }
            climb.add(rows, runs);
            usable = rows;
        }
        let cost = CostModel::from_profile(climb.measured())?;
        let cost = if self.sizes.is_some() { cost.with_fixed_sizes() } else { cost };
        Some((cost, usable))
    }

    /// Returns the cost model of a worker that has measured all sizes.
    pub fn cost(&self, max_batch: u32) -> Option<CostModel> {
        let cost = CostModel::from_profile(&self.profile(max_batch))?;
        Some(if self.sizes.is_some() { cost.with_fixed_sizes() } else { cost })
    }
}

/// Interpolates linearly. The last line is extended beyond the last point. Before the first point,
/// the first value applies.
fn interpolate(points: &[(u32, f64)], rows: f64) -> f64 {
    let above = points.partition_point(|&(size, _)| f64::from(size) < rows);
    let line = |(b0, t0): (u32, f64), (b1, t1): (u32, f64)| {
        t0 + (t1 - t0) * (rows - f64::from(b0)) / (f64::from(b1) - f64::from(b0))
    };
    match (above, points) {
        (_, []) => 0.0,
        (0, [first, ..]) => first.1,
        (_, [only]) => only.1 * rows / f64::from(only.0),
        _ => {
            let next = above.min(points.len() - 1);
            line(points[next - 1], points[next])
        }
    }
}

impl FromStr for Curve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || {
            "expected milliseconds such as 8+2b, or a table such as 1=8.1,8=24,64=136".to_owned()
        };
        let number = |text: &str| {
            let number = text.trim().parse::<f64>().ok();
            number.filter(|ms| ms.is_finite() && *ms >= 0.0).ok_or_else(expected)
        };
        let shape =
            if let Some((a, c)) = text.trim().strip_suffix('b').and_then(|t| t.split_once('+')) {
                Shape::Affine { a: number(a)?, c: number(c.trim_end_matches(['*', ' ']))? }
            } else {
                let point = |pair: &str| {
                    let (rows, ms) = pair.split_once('=').ok_or_else(expected)?;
                    let rows = rows.trim().parse().ok().filter(|&rows: &u32| rows > 0);
                    Ok::<_, String>((rows.ok_or_else(expected)?, number(ms)?))
                };
                let mut points = text.split(',').map(point).collect::<Result<Vec<_>, _>>()?;
                points.sort_by_key(|&(rows, _)| rows);
                points.dedup_by_key(|&mut (rows, _)| rows);
                Shape::Table(points)
            };
        let curve = Self { shape, sizes: None, length_ms: (0.0, 0.0) };
        if curve.seconds(1) > 0.0 { Ok(curve) } else { Err(expected()) }
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shape {
            Shape::Affine { a, c } => write!(f, "{a} ms + {c} ms per row")?,
            Shape::Table(points) => {
                let points: Vec<_> =
                    points.iter().map(|(rows, ms)| format!("{rows}: {ms} ms")).collect();
                f.write_str(&points.join(", "))?;
            }
        }
        if self.length_ms != (0.0, 0.0) {
            let (position_ms, pair_ms) = self.length_ms;
            write!(f, " + {position_ms} ms per position + {pair_ms} ms per pair of positions")?;
        }
        match &self.sizes {
            Some(sizes) => write!(f, ", padded to one of {} sizes", sizes.len()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_formula_or_a_table_and_rejects_anything_else() {
        let formula: Curve = "8+2b".parse().unwrap();
        assert_eq!(formula, Curve::affine(8.0, 2.0));
        assert!((formula.seconds(16) - 0.040).abs() < 1e-12);
        let table: Curve = "1=8, 8=24,64=136".parse().unwrap();
        for (rows, ms) in [(1, 8.0), (8, 24.0), (36, 80.0), (120, 248.0)] {
            assert!((table.seconds(rows) * 1e3 - ms).abs() < 1e-9, "{rows} rows");
        }
        for wrong in ["", "8", "8+b2", "-8+2b", "1=", "0=8", "1:8", "0+0b"] {
            assert!(wrong.parse::<Curve>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn rows_take_longer_by_their_length() {
        let curve = Curve::affine(4.0, 0.0).with_lengths(0.02, 0.0001);
        assert!((curve.seconds_of(3, 100) - 0.013).abs() < 1e-12);
        let (cost, lengths) = curve.length_costs(16, (8, 512)).unwrap();
        for (rows, length) in [(1, 20), (5, 100), (16, 300)] {
            let units = window::whole(f64::from(rows) * lengths.units(length));
            let ratio = cost.latency(units).as_secs_f64() / curve.seconds_of(rows, length);
            assert!((0.97..1.03).contains(&ratio), "{rows} rows of {length}: {ratio}");
        }
        let (_, lengths) = Curve::affine(4.0, 1.0).length_costs(16, (8, 512)).unwrap();
        assert!(lengths.is_flat());
    }

    #[test]
    fn a_batch_takes_as_long_as_the_next_fixed_size() {
        let curve = Curve::affine(8.0, 2.0).with_sizes(vec![1, 4, 8]);
        assert!((curve.seconds(2) - 0.016).abs() < 1e-12);
        let cost = curve.cost(8).unwrap();
        assert_eq!((cost.padded(2), cost.latency(2)), (4, Duration::from_millis(16)));
    }
}
