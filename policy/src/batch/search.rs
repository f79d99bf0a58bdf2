//! Searches for a size of batches with a given time or rate.

use crate::CostModel;

/// Returns the largest size at which a batch takes at most `seconds`. The binary search works
/// because L never falls.
pub(super) fn largest_within(cost: &CostModel, seconds: f64, max_batch: u32) -> Option<u32> {
    let (mut fits, mut too_large) = (0, max_batch.saturating_add(1));
    while too_large - fits > 1 {
        let middle = fits + (too_large - fits) / 2;
        if cost.seconds(middle) <= seconds {
            fits = middle;
        } else {
            too_large = middle;
        }
    }
    (fits > 0).then_some(fits)
}

/// Returns the smallest size with this `share` of the best rate of sizes up to `most`.
pub(super) fn enough(cost: &CostModel, share: f64, most: u32) -> u32 {
    let rows = cost.keeping_up(share * cost.best_rate(most), most).map_or(most, round_up);
    cost.padded(rows).min(most)
}

/// Rounds up to whole rows, at least 1.
pub(super) fn round_up(rows: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let whole = rows.ceil() as u32;
    whole.max(1)
}
