//! The cost model and the choice of N in the form of an announcement. Pure.

use std::{iter::successors, time::Duration};

use batchfleet_broker::BatchBound;
use batchfleet_policy::{Bound, CostModel, LengthCost, UsualRow};

use crate::limit::{BatchLimit, whole_units};

/// The rows of the usual length that cost `units`; at least 1.
pub(super) fn in_rows(units: u32, usual: &UsualRow) -> u32 {
    BatchLimit { rows: u32::MAX, units: f64::from(units) }.rows_of(usual.units())
}

/// L(b) of rows of the usual length, where rows differ in length: at the powers of two up to the
/// largest measured batch.
pub(super) fn curve_of_lengths(
    cost: &CostModel,
    usual: &UsualRow,
    max_batch: u32,
) -> Vec<(u32, Duration)> {
    let largest = in_rows(cost.largest(), usual).min(max_batch.max(1));
    let sizes = successors(Some(1_u32), |rows| rows.checked_mul(2));
    let sizes = sizes.take_while(|&rows| rows < largest).chain([largest]);
    // A single row is not padded.
    let units = |rows: u32| match rows {
        1 => usual.units(),
        rows => f64::from(rows) * usual.units_at_full_load(),
    };
    let took = |rows| cost.latency(whole_units(units(rows)));
    sizes.map(|rows| (rows, took(rows))).collect()
}

/// What rows cost by their length, up to the longest that is known.
pub(super) fn units_by_length(cost: &LengthCost) -> Vec<(u64, f64)> {
    if cost.is_flat() {
        return Vec::new();
    }
    let lengths = successors(Some(1_u64), |length| length.checked_mul(2));
    let known = lengths.take_while(|&length| !cost.is_new(length));
    known.map(|length| (length, cost.units(length))).collect()
}

/// What limited N.
pub(super) const fn bound(bound: Bound) -> BatchBound {
    match bound {
        Bound::Slo => BatchBound::Slo,
        Bound::MaxBatch => BatchBound::MaxBatch,
        Bound::MaxBatchTime => BatchBound::MaxBatchTime,
        Bound::Untried => BatchBound::Untried,
        Bound::NoGain => BatchBound::NoGain,
        Bound::RateMatched => BatchBound::RateMatched,
        Bound::Backlog => BatchBound::Backlog,
        Bound::SloInfeasible => BatchBound::SloInfeasible,
        Bound::Fixed => BatchBound::Fixed,
        Bound::Published => BatchBound::Published,
    }
}
