//! What a row costs where rows differ in length: alone, and in the batches of a full load.

use crate::CostModel;

/// The usual length is an average over about as many rows.
const ROWS: f64 = 200.0;
/// What a full load loses is an average over at most as many batches.
const BATCHES: f64 = 50.0;
/// The load is full if this share of N waits.
const FULL: f64 = 0.5;

/// The row of the usual length, in [units](crate::LengthCost), and what a row costs more when the
/// worker is under full load.
///
/// A full load does not run as N units of one length would: rows are padded to the longest of their
/// batch, and requests that do not go together run in batches smaller than N. Both follow from the
/// batches under full load. Smaller loads need less padding and tell nothing about a full one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsualRow {
    units: f64,
    /// Averages over the batches of a full load: units with and without padding, and the seconds
    /// that they take and would take as a part of one batch of all that waited, up to N.
    padded: f64,
    own: f64,
    takes: f64,
    as_part: f64,
    batches: f64,
}

/// A batch that has run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ComposedBatch {
    /// What its rows cost, all padded to the longest.
    pub units: u32,
    /// What its rows cost without padding.
    pub own_units: f64,
    /// What all waiting rows cost of which it was chosen.
    pub chosen_from: u32,
}

impl UsualRow {
    /// Returns a usual row of `units`, at least 1, before any row is known.
    pub const fn new(units: f64) -> Self {
        let units = units.max(1.0);
        Self { units, padded: 0.0, own: 0.0, takes: 0.0, as_part: 0.0, batches: 0.0 }
    }

    /// Adds a request of `rows`, which cost `units` together.
    pub fn arrived(&mut self, rows: u32, units: f64) {
        let rows = f64::from(rows.max(1));
        self.units += (units / rows - self.units) * rows / (rows + ROWS);
    }

    /// Adds a batch that ran while batches of `n` units were allowed.
    pub fn ran(&mut self, cost: &CostModel, n: u32, batch: &ComposedBatch) {
        if f64::from(batch.chosen_from) < FULL * f64::from(n) {
            return;
        }
        let own = batch.own_units.max(1.0);
        self.batches = BATCHES.min(self.batches + 1.0);
        let batches = self.batches;
        let add = |average: &mut f64, value: f64| *average += (value - *average) / batches;
        add(&mut self.padded, f64::from(batch.units).max(own));
        add(&mut self.own, own);
        add(&mut self.takes, cost.seconds(batch.units));
        add(&mut self.as_part, own / cost.rate(n.min(batch.chosen_from)));
    }

    /// Counts in units of which `per_unit` cost as much as one before.
    pub fn rescale(&mut self, per_unit: f64) {
        *self = Self { units: (self.units * per_unit).max(1.0), ..*self };
    }

    /// Returns the units of a usual row.
    pub fn units(&self) -> f64 {
        self.units
    }

    /// Returns the units that a usual row takes from a worker under full load, at the rate of N.
    pub fn units_at_full_load(&self) -> f64 {
        self.units * if self.batches > 0.0 { self.takes / self.as_part } else { 1.0 }
    }

    /// Returns padding as a share of the units that run under full load.
    pub fn padding(&self) -> f64 {
        if self.batches > 0.0 { 1.0 - self.own / self.padded } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A batch takes 1 ms and 1 ms for each unit.
    fn cost() -> CostModel {
        let took = |units: u32| Duration::from_millis(1 + u64::from(units));
        CostModel::from_profile(&[1, 2, 64].map(|units| (units, took(units)))).unwrap()
    }

    fn batch(units: u32, own_units: f64, chosen_from: u32) -> ComposedBatch {
        ComposedBatch { units, own_units, chosen_from }
    }

    #[test]
    fn padding_and_small_batches_under_full_load_cost_units() {
        let mut row = UsualRow::new(2.0);
        for _ in 0..100 {
            row.ran(&cost(), 9, &batch(9, 6.0, 40));
        }
        // Nine units at the rate of N instead of six.
        assert!((row.units_at_full_load() - 3.0).abs() < 1e-9, "{row:?}");
        assert!((row.padding() - 1.0 / 3.0).abs() < 1e-9, "{row:?}");
        for _ in 0..1000 {
            row.ran(&cost(), 9, &batch(1, 1.0, 40));
        }
        // Two milliseconds for a unit, of which nine take ten.
        assert!((row.units_at_full_load() - 3.6).abs() < 1e-6, "{row:?}");
        assert!(row.padding() < 1e-6, "{row:?}");
    }

    #[test]
    fn long_and_short_batches_count_by_their_time() {
        let mut row = UsualRow::new(1.0);
        for _ in 0..500 {
            row.ran(&cost(), 9, &batch(9, 9.0, 40));
            row.ran(&cost(), 9, &batch(1, 1.0, 40));
        }
        // Ten units in 12 ms instead of 11.1.
        let ratio = row.units_at_full_load() / 1.08;
        assert!((0.99..1.01).contains(&ratio), "{row:?}");
    }

    #[test]
    fn batches_below_a_full_load_tell_nothing() {
        let mut row = UsualRow::new(1.0);
        row.ran(&cost(), 9, &batch(6, 6.0, 6));
        assert!((row.units_at_full_load() - 1.0).abs() < 1e-9, "all that waits runs: {row:?}");
        let mut row = UsualRow::new(1.0);
        row.ran(&cost(), 9, &batch(4, 2.0, 4));
        assert_eq!(row, UsualRow::new(1.0));
        assert!((row.units_at_full_load() - 1.0).abs() < 1e-9 && row.padding() == 0.0);
    }

    #[test]
    fn the_usual_row_follows_the_rows_that_arrive() {
        let mut row = UsualRow::new(1.0);
        (0..2000).for_each(|_| row.arrived(1, 4.0));
        assert!((row.units() - 4.0).abs() < 0.01, "{row:?}");
        row.rescale(0.5);
        assert!((row.units() - 2.0).abs() < 0.01, "{row:?}");
    }
}
