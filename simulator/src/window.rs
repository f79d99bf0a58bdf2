//! Which of the waiting requests an idle worker runs together if their lengths differ.

use std::{collections::BTreeMap, fmt, time::Duration};

use batchfleet_policy::{
    ComposedBatch, CostModel, LargestBatch, LengthCost, LengthSample, WaitingRows, companions,
};

/// Batches of N that are claimed to choose from, as by a worker.
const WINDOW: f64 = 4.0;
/// The most batches in a row that overtake the oldest request, if only equal lengths run together.
const MOST_OVERTAKEN: u32 = 3;

/// How requests of different lengths become batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Shorter rows are padded to the longest of their batch.
    Padded,
    /// Only rows of one length run together.
    EqualLengths,
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Padded => "padded to run together",
            Self::EqualLengths => "only equal lengths run together",
        })
    }
}

/// What the rows of a model cost by their length, and how they run together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) lengths: LengthCost,
    pub(crate) mix: Mix,
}

/// The requests that run together.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// Their indices among the waiting requests, in ascending order.
    pub(crate) run: Vec<usize>,
    /// What they cost.
    pub(crate) batch: ComposedBatch,
}

impl Window {
    /// Returns the oldest of the `waiting` requests, up to a window of batches of `full` units each;
    /// up to one batch if nothing is padded.
    pub(crate) fn claim(
        &self,
        full: f64,
        waiting: impl Iterator<Item = WaitingRows>,
    ) -> Vec<WaitingRows> {
        let batches = if self.mix == Mix::Padded { WINDOW } else { 1.0 };
        let mut room = batches * full;
        let fits = |request: &WaitingRows| {
            let had_room = room > 0.0;
            room -= self.units(request);
            had_room
        };
        waiting.take_while(fits).collect()
    }

    /// Chooses from these requests for a batch of at most `largest`. The oldest has been overtaken by
    /// so many batches in a row. `None` if there are none.
    pub(crate) fn choose(
        &self,
        cost: &CostModel,
        largest: LargestBatch,
        held: &[WaitingRows],
        overtaken: u32,
    ) -> Option<Chosen> {
        let run = match self.mix {
            _ if held.is_empty() => return None,
            Mix::Padded => companions(cost, &self.lengths, largest, held, 0),
            Mix::EqualLengths => self.equal_lengths(cost, largest, held, overtaken),
        };
        let chosen = || run.iter().map(|&at| &held[at]);
        let rows: u32 = chosen().map(|request| request.rows).sum();
        let length = chosen().map(|request| request.length).max().unwrap_or(1);
        let batch = ComposedBatch {
            units: whole(f64::from(rows) * self.lengths.units(length)),
            own_units: chosen().map(|request| self.units(request)).sum(),
            chosen_from: whole(held.iter().map(|request| self.units(request)).sum()),
        };
        Some(Chosen { run, batch })
    }

    /// The requests of the length with the most rows, or of the oldest request if this has been
    /// overtaken often or has no time for another batch.
    fn equal_lengths(
        &self,
        cost: &CostModel,
        largest: LargestBatch,
        held: &[WaitingRows],
        overtaken: u32,
    ) -> Vec<usize> {
        let mut rows = BTreeMap::<u64, u32>::new();
        for request in held {
            *rows.entry(request.length).or_default() += request.rows;
        }
        let oldest = held[0];
        let soon = cost.latency(whole(largest.units)) * 2;
        // Of lengths with equally many rows, that of the older request.
        let most = held.iter().rev().max_by_key(|request| rows[&request.length]);
        let length = match most {
            Some(most) if overtaken < MOST_OVERTAKEN && oldest.left > soon => most.length,
            _ => oldest.length,
        };
        let most = largest.units / self.lengths.units(length);
        let most = usize::try_from(largest.rows.min(whole(most.floor()))).unwrap_or(usize::MAX);
        let equal = held.iter().enumerate().filter(|(_, request)| request.length == length);
        equal.map(|(at, _)| at).take(most).collect()
    }

    /// What the rows of a request cost without padding, in units.
    pub(crate) fn units(&self, request: &WaitingRows) -> f64 {
        f64::from(request.rows) * self.lengths.units(request.length)
    }
}

/// Returns L of units and the units of rows from the batches measured at start-up; `None` without
/// any.
pub(crate) fn costs(measured: &[LengthSample]) -> Option<(CostModel, LengthCost)> {
    let lengths = LengthCost::fit(measured);
    let mut profile = BTreeMap::<u32, Vec<Duration>>::new();
    for sample in measured {
        let units = whole(f64::from(sample.rows) * lengths.units(sample.length));
        profile.entry(units).or_default().push(sample.took);
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let profile: Vec<(u32, Duration)> =
        profile.into_iter().map(|(units, times)| (units, median(times))).collect();
    Some((CostModel::from_profile(&profile)?, lengths))
}

/// `units`, rounded up to whole units, at least 1.
pub(crate) fn whole(units: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let whole = (units - 1e-6).ceil() as u32;
    whole.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch takes 4 ms, and 0.02 ms for each position of a row.
    fn window(mix: Mix) -> (CostModel, Window) {
        let sample = |(rows, length): (u32, u32)| {
            let took = Duration::from_micros(4000 + u64::from(20 * rows * length));
            LengthSample { rows, length: length.into(), took }
        };
        let (cost, lengths) =
            costs(&[(1, 8), (8, 8), (1, 64), (8, 64), (1, 512), (8, 512)].map(sample)).unwrap();
        (cost, Window { lengths, mix })
    }

    fn single_rows(lengths: &[u64]) -> Vec<WaitingRows> {
        let left = Duration::from_secs(9);
        lengths.iter().map(|&length| WaitingRows { rows: 1, length, left }).collect()
    }

    fn choose(mix: Mix, lengths: &[u64], overtaken: u32) -> Vec<usize> {
        let (cost, window) = window(mix);
        let largest = LargestBatch { rows: 64, units: 200.0 };
        let chosen = window.choose(&cost, largest, &single_rows(lengths), overtaken);
        chosen.map_or(Vec::new(), |chosen| chosen.run)
    }

    #[test]
    fn padded_rows_of_about_one_length_run_with_the_oldest() {
        assert_eq!(choose(Mix::Padded, &[16, 500, 17, 480, 20], 0), [0, 2, 4]);
        assert!(choose(Mix::Padded, &[], 0).is_empty());
    }

    #[test]
    fn without_padding_the_most_frequent_length_runs_unless_the_oldest_has_waited() {
        let waiting = [16, 8, 9, 8, 16, 8];
        assert_eq!(choose(Mix::EqualLengths, &waiting, 2), [1, 3, 5]);
        assert_eq!(choose(Mix::EqualLengths, &waiting, 3), [0, 4]);
    }

    #[test]
    fn a_window_is_four_batches_and_one_long_request_always_fits() {
        let (cost, window) = window(Mix::Padded);
        let held = window.claim(8.0, single_rows(&[8; 100]).into_iter());
        let largest = LargestBatch { rows: 64, units: 8.0 };
        let chosen = window.choose(&cost, largest, &held, 0).unwrap();
        let ComposedBatch { units, own_units, chosen_from } = chosen.batch;
        assert_eq!((chosen.run.len(), units, chosen_from), (8, 8, 32));
        assert!((own_units - 8.0).abs() < 1e-6, "{own_units}");
        assert_eq!(window.claim(8.0, single_rows(&[512, 512]).into_iter()).len(), 1);
    }
}
