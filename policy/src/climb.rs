//! The climb of a warm-up: which batch sizes are measured before a model serves, and how often.
//!
//! N needs L(b) of all sizes that keep the latency target, and beyond them of all sizes that still
//! raise the rate: a target that cannot be kept is no reason to serve slowly. The climb is bounded
//! by time, because a model of seconds per batch would keep its worker from serving for minutes.
//! Where time ends it, it goes on while the model serves: N is at most twice the rows that have run
//! ([`CostModel`](crate::CostModel)).
//!
//! A busy machine delays runs for tens of milliseconds at a time, which is all runs of a size. So all
//! sizes run again, one after the other, until each is as fast as before. The lower quartile counts,
//! because delays only add time.

use std::time::Duration;

use crate::batch::longest_batch;

/// Runs of one size.
const RUNS: usize = 3;
/// A size whose runs have taken this long together is not run again.
const LONG: Duration = Duration::from_secs(1);
/// A first run that takes this multiple of the time that smaller sizes suggest has prepared the
/// size (memory, kernels), and is no measurement.
const PREPARING: f64 = 1.5;
/// Sizes beyond the target are measured while the rate rises by this factor over two doublings.
const WORTH: f64 = 1.05;
/// The time for all sizes. Preparing sizes is not counted, because each size must be prepared.
const BUDGET: Duration = Duration::from_secs(20);
/// A size is repeated until a run differs at most by this share from what counts, or it has so many
/// samples. The time for all repetitions.
const AGREES: f64 = 0.2;
const SAMPLES: usize = 6;
const REPETITIONS: Duration = Duration::from_secs(2);
/// Sizes up to this multiple of the latency target are measured, whether they raise the rate or not.
const TARGETS: u32 = 2;

/// Why a climb ends before the largest size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClimbEnd {
    /// Larger sizes exceed the target and hardly raise the rate.
    NoGain,
    /// The time is used up, or the next size would take too long. Larger sizes may raise the rate.
    Time,
}

impl ClimbEnd {
    /// The reason, for logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoGain => "no_gain",
            Self::Time => "time",
        }
    }
}

/// The measurements of a warm-up so far.
#[derive(Clone, Debug)]
pub struct Climb {
    /// Sizes that take up to this time are measured in any case.
    patience: Duration,
    /// A batch that takes this time counts as hung, so that N stays below.
    hung_after: Duration,
    /// (rows, L(b)), in order of rows.
    measured: Vec<(u32, Duration)>,
    /// The samples behind each L(b), oldest first.
    samples: Vec<Vec<Duration>>,
    spent: Duration,
    /// Time of all repetitions.
    repeated: Duration,
}

impl Climb {
    /// Begins a climb for the latency target `slo`. Batches that take `hung_after` count as hung.
    pub fn new(slo: Duration, hung_after: Duration) -> Self {
        let patience = slo.saturating_mul(TARGETS);
        let (measured, samples) = (Vec::new(), Vec::new());
        let (spent, repeated) = (Duration::ZERO, Duration::ZERO);
        Self { patience, hung_after, measured, samples, spent, repeated }
    }

    /// Decides whether to measure `next`, a size above all sizes so far.
    ///
    /// # Errors
    ///
    /// Why the climb ends below this size.
    pub fn goes_on(&self, next: u32) -> Result<(), ClimbEnd> {
        let [(_, one), ..] = *self.measured else { return Ok(()) };
        let last = self.measured.last().map_or(one, |&(_, took)| took);
        if last > self.patience && !self.gains() {
            return Err(ClimbEnd::NoGain);
        }
        let takes = self.predicted(next);
        let is_hung = takes > longest_batch(one, self.hung_after);
        if is_hung || self.spent.saturating_add(takes) > BUDGET {
            return Err(ClimbEnd::Time);
        }
        Ok(())
    }

    /// Returns whether `runs`, the times of a size in the order of its runs, suffice. A size runs
    /// three times, or once or twice if it takes long. The first size, and a size that is much
    /// slower than the smaller sizes suggest, runs at least twice.
    pub fn suffice(&self, rows: u32, runs: &[Duration]) -> bool {
        let is_long = runs.iter().sum::<Duration>() >= LONG;
        match (runs, self.measured.last()) {
            ([], _) | ([_], None) => false,
            ([first], Some(&(before, took))) => {
                let at_most = took.mul_f64(PREPARING * f64::from(rows) / f64::from(before));
                is_long && *first <= at_most
            }
            _ => is_long || runs.len() >= RUNS,
        }
    }

    /// Adds a size; returns L(b), the median of its runs, or the lower of two.
    pub fn add(&mut self, rows: u32, mut runs: Vec<Duration>) -> Duration {
        runs.sort_unstable();
        let took = runs.get((runs.len().max(1) - 1) / 2).copied().unwrap_or_default();
        self.spent += took * u32::try_from(runs.len()).unwrap_or(u32::MAX);
        self.measured.push((rows, took));
        self.samples.push(vec![took]);
        took
    }

    /// Whether all sizes should run once more, each followed by [`Self::repeat`].
    pub fn needs_repetition(&self) -> bool {
        let pass: Duration = self.measured.iter().map(|&(_, took)| took).sum();
        let mut sizes = self.measured.iter().zip(&self.samples);
        self.repeated.saturating_add(pass) <= REPETITIONS
            && sizes.any(|(&(_, took), samples)| !is_settled(took, samples))
    }

    /// Adds another run of the size at `index`.
    pub fn repeat(&mut self, index: usize, took: Duration) {
        let (Some(size), Some(samples)) =
            (self.measured.get_mut(index), self.samples.get_mut(index))
        else {
            return;
        };
        samples.push(took);
        self.repeated += took;
        let mut sorted = samples.clone();
        sorted.sort_unstable();
        size.1 = sorted[sorted.len() / 4];
    }

    /// The sizes and their times.
    pub fn measured(&self) -> &[(u32, Duration)] {
        &self.measured
    }

    /// Whether the rate of the last size is higher than two sizes before.
    fn gains(&self) -> bool {
        let rate = |&(rows, took): &(u32, Duration)| f64::from(rows) / took.as_secs_f64();
        let [before @ .., _, last] = &*self.measured else { return true };
        let best = before.iter().map(rate).fold(0.0, f64::max);
        rate(last) > WORTH * best
    }

    /// The time of `next`, along the last slope; with one size, at least its time.
    fn predicted(&self, next: u32) -> Duration {
        match *self.measured {
            [] => Duration::ZERO,
            [(_, took)] => took,
            [.., (from, short), (to, long)] => {
                let slope = long.saturating_sub(short) / to.saturating_sub(from).max(1);
                long.saturating_add(slope.saturating_mul(next.saturating_sub(to)))
            }
        }
    }
}

/// Whether a size with these samples needs no more of them.
fn is_settled(took: Duration, samples: &[Duration]) -> bool {
    let agrees = |last: Duration| last.abs_diff(took) <= took.mul_f64(AGREES);
    match samples {
        [_, .., last] => samples.len() >= SAMPLES || agrees(*last),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Climbs to 64 rows with exact times in milliseconds; the first run of a size takes
    /// `preparing` longer. Returns the sizes, the runs, the end, and the time that all runs took.
    fn climb(
        slo_ms: u64,
        preparing: u64,
        ms: impl Fn(u32) -> u64,
    ) -> (Vec<u32>, usize, Option<ClimbEnd>, Duration) {
        let mut climb = Climb::new(Duration::from_millis(slo_ms), Duration::from_secs(10));
        let (mut count, mut took, mut end) = (0, Duration::ZERO, None);
        for rows in [1, 2, 4, 8, 16, 32, 64] {
            end = climb.goes_on(rows).err();
            if end.is_some() {
                break;
            }
            let mut runs = Vec::new();
            while !climb.suffice(rows, &runs) {
                let extra = if runs.is_empty() { preparing } else { 0 };
                runs.push(Duration::from_millis(ms(rows) + extra));
            }
            count += runs.len();
            took += runs.iter().sum::<Duration>();
            let known = climb.add(rows, runs);
            assert_eq!(known, Duration::from_millis(ms(rows)), "{rows} rows");
        }
        (climb.measured().iter().map(|&(rows, _)| rows).collect(), count, end, took)
    }

    #[test]
    fn climbs_beyond_the_target_while_the_rate_rises() {
        let (sizes, _, end, took) = climb(100, 0, |rows| 90 + 10 * u64::from(rows));
        assert_eq!((sizes.last(), end), (Some(&64), None));
        assert!(took < Duration::from_secs(6), "{took:?}");
        // Even a target that no size keeps is no reason to end.
        assert_eq!(climb(1, 0, |rows| 90 + 10 * u64::from(rows)).0.last(), Some(&64));
    }

    #[test]
    fn ends_beyond_the_target_where_larger_sizes_gain_nothing() {
        // 5 ms per row: 32 rows take 160 ms, 64 take 320.
        let (sizes, _, end, _) = climb(50, 0, |rows| 5 * u64::from(rows));
        assert_eq!((sizes.last(), end), (Some(&32), Some(ClimbEnd::NoGain)));
        // Tiles of 16 rows: two sizes without gain end the climb, one does not.
        let tiles = |rows: u32| 100 * u64::from(rows.div_ceil(16));
        assert_eq!(climb(50, 0, tiles).0.last(), Some(&64));
        let steep = |rows| if rows < 4 { 110 } else { 40 * u64::from(rows) };
        let (sizes, _, end, _) = climb(50, 0, steep);
        assert_eq!((sizes.last(), end), (Some(&16), Some(ClimbEnd::NoGain)));
    }

    #[test]
    fn long_runs_are_repeated_less_and_end_the_climb_for_now() {
        // 12 s for a single row, and 6 s for two.
        let (sizes, runs, end, took) = climb(100, 0, |rows| 6000 + 5 * u64::from(rows));
        assert_eq!((&*sizes, runs, end), (&[1, 2][..], 3, Some(ClimbEnd::Time)));
        assert!(took <= Duration::from_secs(20), "{took:?}");
        let (sizes, runs, end, took) = climb(10_000, 0, |rows| 1500 + 5 * u64::from(rows));
        assert_eq!((sizes.last(), runs, end), (Some(&64), 8, None));
        assert!(took <= Duration::from_secs(20), "{took:?}");
    }

    #[test]
    fn ends_below_sizes_that_would_count_as_hung() {
        // A third of 10 s allows 6 rows, or 8 by the slope.
        let (sizes, _, end, _) = climb(100, 0, |rows| 10 + 500 * u64::from(rows));
        assert_eq!(sizes.last(), Some(&4), "{end:?}");
        assert_eq!(climb(100, 0, |rows| 300 + 400 * u64::from(rows)).0.last(), Some(&4));
    }

    #[test]
    fn a_run_that_prepares_a_size_is_no_measurement_and_not_counted() {
        let (sizes, _, end, _) = climb(100, 30_000, |rows| 5 + u64::from(rows));
        assert_eq!((sizes.last(), end), (Some(&64), None));
        // Runs of half a second, of which the first takes four more.
        let (sizes, ..) = climb(100, 4000, |rows| 500 + u64::from(rows));
        assert_eq!(sizes.last(), Some(&64));
    }

    /// Runs 1, 2, 4, ... 64 rows of 2 + 0.4 b ms three times each, and then repeats them. The machine
    /// stalls for `stall` ms out of each `period` ms, beginning at `phase`. Returns the measured times
    /// relative to the truth.
    fn measured_with_stalls(stall: f64, period: f64, phase: f64) -> Vec<f64> {
        let truth = |rows: u32| 2.0 + 0.4 * f64::from(rows);
        let mut now = phase;
        let mut run = |rows: u32| {
            let (began, mut left) = (now, truth(rows));
            while left > 0.0 {
                let at = now % period;
                let step = if at < stall { stall - at } else { left.min(period - at) };
                left -= if at < stall { 0.0 } else { step };
                now += step;
            }
            Duration::from_secs_f64((now - began) / 1e3)
        };
        let mut climb = Climb::new(Duration::from_millis(100), Duration::from_secs(10));
        let sizes = [1, 2, 4, 8, 16, 32, 64];
        for rows in sizes {
            let mut runs = Vec::new();
            while !climb.suffice(rows, &runs) {
                runs.push(run(rows));
            }
            climb.add(rows, runs);
        }
        while climb.needs_repetition() {
            for (index, rows) in sizes.into_iter().enumerate() {
                climb.repeat(index, run(rows));
            }
        }
        let relative = |&(rows, took): &(u32, Duration)| took.as_secs_f64() * 1e3 / truth(rows);
        climb.measured().iter().map(relative).collect()
    }

    #[test]
    fn repetitions_find_the_times_between_stalls() {
        for phase in 0..40 {
            let phase = f64::from(phase) * 10.0;
            for times in [
                measured_with_stalls(30.0, 200.0, phase),
                measured_with_stalls(100.0, 400.0, phase),
            ] {
                assert!(times.iter().all(|&time| time < 1.3), "phase {phase}: {times:?}");
            }
        }
        assert!(measured_with_stalls(0.0, 100.0, 0.0).iter().all(|&time| time < 1.01));
    }

    #[test]
    fn a_quiet_machine_repeats_each_size_once_and_slow_models_not_at_all() {
        let repetitions = |ms: u64| {
            let mut climb = Climb::new(Duration::from_millis(100), Duration::from_secs(10));
            let took = Duration::from_millis(ms);
            climb.add(1, vec![took; 3]);
            climb.add(2, vec![took; 3]);
            let mut passes = 0;
            while climb.needs_repetition() {
                climb.repeat(0, took);
                climb.repeat(1, took);
                passes += 1;
            }
            passes
        };
        assert_eq!([10, 900, 1100].map(repetitions), [1, 1, 0]);
    }
}
