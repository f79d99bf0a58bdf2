//! Chooses which waiting requests of different lengths run together.

use std::time::Duration;

use crate::{CostModel, LengthCost};

/// Of more requests, only the first are considered: the search takes the square of their number.
const MOST: usize = 256;
/// The batches may take this share longer than the fastest ones if they are fewer: each batch also costs
/// the worker and the broker time that the model's times do not show.
const SLACK: f64 = 0.05;
/// The most time that a batch costs beside that of the model, in seconds.
const MOST_CHARGE: f64 = 0.002;

/// A waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingRows {
    /// Its rows.
    pub rows: u32,
    /// S: the length to which its rows are padded if they run alone.
    pub length: u64,
    /// The time until its deadline.
    pub left: Duration,
}

/// The largest batch that may run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LargestBatch {
    /// Rows.
    pub rows: u32,
    /// Units of all rows.
    pub units: f64,
}

/// Returns the indices of the `waiting` requests that run together with the request at `lead`, which
/// is one of them, in ascending order.
///
/// The requests are sorted by length and cut into batches, so that all batches together take the
/// least time; the batch of `lead` runs. Neighbours in this order waste the least on padding, and a
/// cut pays if the padding that it saves takes longer than a batch's fixed time. The cuts are found
/// by dynamic programming: with T(j, i) the time of a batch of the requests j to i, padded to the
/// length of the last, the first i requests take
///
/// C(i) = min over j < i of C(j) + T(j, i).
///
/// Fewer batches are made that take up to 5 % longer, and at most 2 ms for each batch. The batch is made
/// smaller if it would end after the deadline of one of its requests.
pub fn companions(
    cost: &CostModel,
    lengths: &LengthCost,
    largest: LargestBatch,
    waiting: &[WaitingRows],
    lead: usize,
) -> Vec<usize> {
    let mut order: Vec<usize> = (0..waiting.len()).filter(|&at| at < MOST || at == lead).collect();
    order.sort_by_key(|&at| (waiting[at].length, at));
    let sorted: Vec<WaitingRows> = order.iter().map(|&at| waiting[at]).collect();
    let cuts = fewer_cuts(cost, lengths, largest, &sorted);
    let place = order.iter().position(|&at| at == lead).unwrap_or_default();
    let end = cuts.partition_point(|&cut| cut <= place).min(cuts.len() - 1);
    let begin = end.checked_sub(1).map_or(0, |before| cuts[before]);
    let mut together = order[begin..cuts[end]].to_vec();
    end_in_time(cost, lengths, waiting, lead, &mut together);
    together.sort_unstable();
    together
}

/// Leaves the longest requests to later batches until the batch ends before the deadlines of all
/// its requests, except those that would be late alone. The request at `lead` stays.
fn end_in_time(
    cost: &CostModel,
    lengths: &LengthCost,
    waiting: &[WaitingRows],
    lead: usize,
    together: &mut Vec<usize>,
) {
    let takes = |indices: &[usize]| {
        let rows = indices.iter().map(|&at| waiting[at].rows).sum();
        let length = indices.iter().map(|&at| waiting[at].length).max().unwrap_or_default();
        Duration::from_secs_f64(batch_seconds(cost, lengths, rows, length))
    };
    let may_be_in_time = |&at: &usize| takes(&[at]) <= waiting[at].left;
    loop {
        let hurried = together.iter().copied().filter(may_be_in_time);
        let hurried = hurried.min_by_key(|&at| waiting[at].left);
        let Some(hurried) = hurried.filter(|&at| takes(together) > waiting[at].left) else {
            return;
        };
        let others = together.iter().copied().filter(|&at| at != lead && at != hurried);
        let longest = others.max_by_key(|&at| waiting[at].length);
        let leaves = if takes(&[lead, hurried]) > waiting[hurried].left && hurried != lead {
            // Beside the lead, the request would be late in any batch.
            Some(hurried)
        } else {
            longest
        };
        let Some(leaves) = leaves else { return };
        together.retain(|&at| at != leaves);
    }
}

/// Returns the expected time of the batches into which [`companions`] cuts all `waiting` requests.
pub fn composed_time(
    cost: &CostModel,
    lengths: &LengthCost,
    largest: LargestBatch,
    waiting: &[WaitingRows],
) -> Duration {
    let mut sorted = waiting.to_vec();
    sorted.sort_by_key(|request| request.length);
    let cuts = cuts(cost, lengths, largest, &sorted, 0.0);
    Duration::from_secs_f64(seconds_of_cuts(cost, lengths, &sorted, &cuts))
}

/// The time of the batches of requests in order of length that end at `cuts`.
fn seconds_of_cuts(
    cost: &CostModel,
    lengths: &LengthCost,
    sorted: &[WaitingRows],
    cuts: &[usize],
) -> f64 {
    let begins = std::iter::once(0).chain(cuts.iter().copied());
    begins.zip(cuts).map(|(begin, &end)| seconds(cost, lengths, &sorted[begin..end])).sum()
}

/// Like [`cuts`], but with fewer batches, as far as all take at most [`SLACK`] longer.
///
/// With a charge of p for each batch, the chosen cuts of k batches cost no more than the m fastest
/// batches, charge included: their time is at most p (m − k) longer. With p of at most SLACK / m of the
/// least time, it is within the slack.
fn fewer_cuts(
    cost: &CostModel,
    lengths: &LengthCost,
    largest: LargestBatch,
    sorted: &[WaitingRows],
) -> Vec<usize> {
    let fastest = cuts(cost, lengths, largest, sorted, 0.0);
    let least = seconds_of_cuts(cost, lengths, sorted, &fastest);
    #[expect(clippy::cast_precision_loss, reason = "a number of batches")]
    let charge = (SLACK * least / fastest.len() as f64).min(MOST_CHARGE);
    if fastest.len() > 1 { cuts(cost, lengths, largest, sorted, charge) } else { fastest }
}

/// Returns the ends of the batches into which requests in order of length are cut, so that their time is
/// the least, with `charge` seconds added for each.
fn cuts(
    cost: &CostModel,
    lengths: &LengthCost,
    largest: LargestBatch,
    sorted: &[WaitingRows],
    charge: f64,
) -> Vec<usize> {
    // Of the first i requests: the least time, and where the last batch begins.
    let mut least: Vec<(f64, usize)> = vec![(0.0, 0)];
    for end in 1..=sorted.len() {
        let row_units = lengths.units(sorted[end - 1].length);
        let (mut rows, mut best) = (0_u32, (f64::INFINITY, end - 1));
        for begin in (0..end).rev() {
            rows = rows.saturating_add(sorted[begin].rows);
            let units = f64::from(rows) * row_units;
            let is_single = begin + 1 == end;
            if !is_single && (rows > largest.rows || units > largest.units + 1e-6) {
                break;
            }
            let all = least[begin].0 + cost.seconds(whole(units)) + charge;
            // Of equal times the larger batch is better: it ends sooner for most.
            if all <= best.0 {
                best = (all, begin);
            }
        }
        least.push(best);
    }
    let mut cuts = Vec::new();
    let mut end = sorted.len();
    while end > 0 {
        cuts.push(end);
        end = least[end].1;
    }
    cuts.reverse();
    cuts
}

/// The time of requests in order of length as one batch.
fn seconds(cost: &CostModel, lengths: &LengthCost, sorted: &[WaitingRows]) -> f64 {
    let rows: u32 = sorted.iter().map(|request| request.rows).sum();
    batch_seconds(cost, lengths, rows, sorted.last().map_or(0, |longest| longest.length))
}

fn batch_seconds(cost: &CostModel, lengths: &LengthCost, rows: u32, length: u64) -> f64 {
    cost.seconds(whole(f64::from(rows) * lengths.units(length)))
}

fn whole(units: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let whole = (units - 1e-6).ceil() as u32;
    whole.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::LengthSample;

    const ANY: LargestBatch = LargestBatch { rows: 64, units: 1e9 };

    /// A batch takes `fixed` milliseconds and 0.1 for each unit, of eight positions.
    fn cost(fixed: f64) -> CostModel {
        let took = |units: u32| Duration::from_secs_f64((fixed + 0.1 * f64::from(units)) / 1e3);
        CostModel::from_profile(&[1, 2, 10_000].map(|units| (units, took(units)))).unwrap()
    }

    /// Rows cost as many units as they are longer than eight positions.
    fn lengths() -> LengthCost {
        let sample = |(rows, length)| {
            let took = Duration::from_millis(1) + Duration::from_micros(10) * rows * length;
            LengthSample { rows, length: length.into(), took }
        };
        LengthCost::fit(&[(1, 8), (4, 8), (1, 1024), (4, 1024)].map(sample))
    }

    fn single_rows(lengths: &[u64]) -> Vec<WaitingRows> {
        lengths.iter().map(|&length| WaitingRows { rows: 1, length, left: Duration::MAX }).collect()
    }

    #[test]
    fn lengths_are_mixed_only_while_padding_is_cheaper_than_another_batch() {
        let waiting = single_rows(&[16, 512, 24, 480, 16]);
        let with = |fixed, lead| companions(&cost(fixed), &lengths(), ANY, &waiting, lead);
        // Two short rows of 64 units instead of three would cost 18 ms more.
        assert_eq!(with(4.0, 0), [0, 2, 4]);
        assert_eq!(with(4.0, 3), [1, 3]);
        assert_eq!(with(100.0, 0), [0, 1, 2, 3, 4], "launches dominate");
        assert_eq!(with(0.0, 2), [2], "padding is all that costs");
    }

    #[test]
    fn a_batch_stays_within_its_limit_unless_one_request_exceeds_it() {
        let waiting = single_rows(&[8; 10]);
        let few = LargestBatch { rows: 4, units: 1e9 };
        let batch = companions(&cost(4.0), &lengths(), few, &waiting, 9);
        assert!(batch.len() <= 4 && batch.contains(&9), "{batch:?}");
        let small = LargestBatch { rows: 64, units: 3.0 };
        assert!(companions(&cost(4.0), &lengths(), small, &waiting, 0).len() <= 3);
        let long = single_rows(&[800, 8]);
        assert_eq!(companions(&cost(4.0), &lengths(), small, &long, 0), [0]);
    }

    #[test]
    fn a_batch_ends_before_the_deadlines_that_can_be_kept() {
        let mut waiting = single_rows(&[16, 16, 512, 480]);
        let with = |waiting: &[WaitingRows], lead| {
            companions(&cost(100.0), &lengths(), ANY, waiting, lead)
        };
        assert_eq!(with(&waiting, 0), [0, 1, 2, 3], "256 units take 126 ms");
        waiting[0].left = Duration::from_millis(115);
        assert_eq!(with(&waiting, 0), [0, 1]);
        assert_eq!(with(&waiting, 2), [0, 2]);
        waiting[0].left = Duration::from_millis(108);
        assert_eq!(with(&waiting, 2), [1, 2, 3], "beside the lead, the first would be late");
        waiting[0].left = Duration::from_millis(50);
        assert_eq!(with(&waiting, 0), [0, 1, 2, 3], "too late anyway");
    }

    /// The least time of all ways to cut.
    fn exhaustive(cost: &CostModel, lengths: &LengthCost, sorted: &[WaitingRows]) -> f64 {
        (1..=sorted.len())
            .map(|end| {
                let (first, rest) = sorted.split_at(end);
                seconds(cost, lengths, first) + exhaustive(cost, lengths, rest)
            })
            .reduce(f64::min)
            .unwrap_or_default()
    }

    proptest! {
        #[test]
        fn no_other_cuts_take_less_time(
            requests in prop::collection::vec((1_u32..4, 1_u64..600), 1..9),
            fixed in 0.0..8.0,
        ) {
            let (cost, lengths) = (cost(fixed), lengths());
            let waiting: Vec<WaitingRows> =
                requests.iter().map(|&(rows, length)| WaitingRows { rows, length, left: Duration::MAX }).collect();
            let found = composed_time(&cost, &lengths, ANY, &waiting).as_secs_f64();
            let mut sorted = waiting.clone();
            sorted.sort_by_key(|request| request.length);
            let best = exhaustive(&cost, &lengths, &sorted);
            prop_assert!((found - best).abs() < 1e-6, "{found} instead of {best}");
            let fewer = fewer_cuts(&cost, &lengths, ANY, &sorted);
            prop_assert!(fewer.len() <= cuts(&cost, &lengths, ANY, &sorted, 0.0).len());
            let takes = seconds_of_cuts(&cost, &lengths, &sorted, &fewer);
            prop_assert!(takes <= best * (1.0 + SLACK) + 1e-6, "{takes} instead of {best}");
            for lead in 0..waiting.len() {
                let batch = companions(&cost, &lengths, ANY, &waiting, lead);
                prop_assert!(batch.contains(&lead) && batch.is_sorted());
            }
        }
    }
}
