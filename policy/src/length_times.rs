//! Corrects what rows cost by their length while a model serves: start-up may have measured while
//! the machine was busy, and a wrong cost makes wrong batches for as long as the worker lives.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    CostModel, LengthCost, LengthSample,
    lengths::{LengthFit, fit},
};

/// Recent batches that are kept of each kind: of rows and length within a factor of two.
const KEPT: usize = 5;
/// A batch is forgotten after so many others. Batches of the start-up stay until others of their kind
/// have run.
const AGE: u64 = 500;
/// The costs are compared with the times after so many batches.
const EVERY: u64 = 16;
/// Times that differ this much from what is expected, on average, contradict the costs.
const CONTRADICTION: f64 = 0.1;
/// A batch of the start-up that took this multiple of the time that is expected was delayed.
const DELAYED: f64 = 1.5;
/// New costs must explain the times at least this much better.
const BETTER: f64 = 0.6;

/// The times of recent batches by their rows and length.
#[derive(Clone, Debug, Default)]
pub struct LengthTimes {
    /// By the logarithms of rows and length; with the number of the batch, 0 at start-up.
    kinds: BTreeMap<(u32, u32), VecDeque<(u64, LengthSample)>>,
    batches: u64,
}

/// Costs that explain the times of recent batches better.
#[derive(Clone, Debug)]
pub struct CorrectedCosts {
    /// u(S).
    pub lengths: LengthCost,
    /// L of these units.
    pub cost: CostModel,
    /// How many of the new units cost as much as one unit before, for recent rows.
    pub per_unit: f64,
}

impl LengthTimes {
    /// Begins with the batches of the start-up.
    pub fn new(measured: &[LengthSample]) -> Self {
        let mut times = Self::default();
        for &sample in measured {
            times.keep(0, sample);
        }
        times
    }

    /// Adds a batch. If recent batches contradict the costs, and other costs explain their times much
    /// better, returns those.
    pub fn add(
        &mut self,
        sample: LengthSample,
        cost: &CostModel,
        lengths: &LengthCost,
    ) -> Option<CorrectedCosts> {
        self.batches += 1;
        self.keep(self.batches, sample);
        if !self.batches.is_multiple_of(EVERY) {
            return None;
        }
        let forgotten = self.batches.saturating_sub(AGE);
        self.kinds.retain(|_, samples| {
            samples.retain(|&(at, _)| at == 0 || at > forgotten);
            !samples.is_empty()
        });
        self.corrected(cost, lengths)
    }

    fn keep(&mut self, at: u64, sample: LengthSample) {
        let kind = (sample.rows.max(1).ilog2(), sample.length.max(1).ilog2());
        let samples = self.kinds.entry(kind).or_default();
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back((at, sample));
    }

    fn corrected(&self, cost: &CostModel, lengths: &LengthCost) -> Option<CorrectedCosts> {
        let served: Vec<LengthSample> = self.samples(|at| at > 0).collect();
        let expected = |sample: &LengthSample| cost.seconds(whole(sample.units_of(lengths)));
        let error = deviation(&served, expected);
        if error < CONTRADICTION {
            return None;
        }
        let (found, all) = self.undelayed_fit(&served);
        if deviation(&served, |sample| found.seconds(sample)) > BETTER * error {
            return None;
        }
        let units =
            |cost: &LengthCost| -> f64 { served.iter().map(|sample| sample.units_of(cost)).sum() };
        let per_unit = units(&found.lengths) / units(lengths);
        let ran = f64::from(cost.ran()) * per_unit;
        let cost = table(&found, &all)?.having_run(whole(ran));
        Some(CorrectedCosts { lengths: found.lengths, cost, per_unit })
    }

    /// Fits the costs to the `served` batches and to those of the start-up that were not delayed:
    /// no batch takes longer than one of more and longer rows, or much longer than the others
    /// suggest. Returns these batches, too.
    fn undelayed_fit(&self, served: &[LengthSample]) -> (LengthFit, Vec<LengthSample>) {
        let was_delayed = |sample: &LengthSample| {
            served.iter().any(|larger| {
                larger.rows >= sample.rows
                    && larger.length >= sample.length
                    && larger.took < sample.took
            })
        };
        let mut measured: Vec<LengthSample> =
            self.samples(|at| at == 0).filter(|sample| !was_delayed(sample)).collect();
        let rough = fit(&[&measured, served].concat());
        measured.retain(|sample| sample.took.as_secs_f64() < DELAYED * rough.seconds(sample));
        let all = [&measured, served].concat();
        (fit(&all), all)
    }

    fn samples(&self, of: impl Fn(u64) -> bool) -> impl Iterator<Item = LengthSample> {
        let samples = self.kinds.values().flatten();
        samples.filter(move |&&(at, _)| of(at)).map(|&(_, sample)| sample)
    }
}

/// L at the powers of two: by the fit, corrected by the median of the batches of about this size.
fn table(fit: &LengthFit, samples: &[LengthSample]) -> Option<CostModel> {
    let units = |sample: &LengthSample| sample.units_of(&fit.lengths);
    let largest = samples.iter().map(|sample| whole(units(sample))).max()?;
    let powers = std::iter::successors(Some(1_u32), |size| size.checked_mul(2));
    let sizes = powers.take_while(|&size| size < largest).chain([largest]);
    let profile: Vec<(u32, Duration)> = sizes
        .map(|size| {
            let near =
                |sample: &&LengthSample| (0.7..1.4).contains(&(units(sample) / f64::from(size)));
            let ratio = |sample: &LengthSample| sample.took.as_secs_f64() / fit.seconds(sample);
            let mut ratios: Vec<f64> = samples.iter().filter(near).map(ratio).collect();
            let ratio = median(&mut ratios).unwrap_or(1.0);
            let seconds = fit.of_units(f64::from(size)) * ratio;
            (size, Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
        })
        .collect();
    CostModel::from_profile(&profile)
}

/// The mean difference of the times from what is expected, in logarithms. A factor that all batches
/// have in common does not count, because the gain corrects it.
fn deviation(samples: &[LengthSample], seconds: impl Fn(&LengthSample) -> f64) -> f64 {
    let ratio =
        |sample: &LengthSample| (sample.took.as_secs_f64().max(1e-9) / seconds(sample)).ln();
    let mut ratios: Vec<f64> = samples.iter().map(ratio).collect();
    let Some(common) = median(&mut ratios) else { return 0.0 };
    let sum: f64 = ratios.iter().map(|ratio| (ratio - common).abs()).sum();
    #[expect(clippy::cast_precision_loss, reason = "a count of at most a few hundred batches")]
    let count = ratios.len() as f64;
    sum / count
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get((values.len().max(1) - 1) / 2).copied()
}

fn whole(units: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let whole = units.round() as u32;
    whole.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T = 4 + 0.02 · b · S milliseconds.
    fn truth(rows: u32, length: u64) -> LengthSample {
        let seconds = 0.004 + 2e-5 * f64::from(rows) * f64::from(u32::try_from(length).unwrap());
        LengthSample { rows, length, took: Duration::from_secs_f64(seconds) }
    }

    fn start_up(stalled: impl Fn(&LengthSample) -> f64) -> Vec<LengthSample> {
        let lengths = [8, 32, 128, 512];
        let all = lengths.into_iter().flat_map(|length| [1, 4, 16].map(|rows| truth(rows, length)));
        all.map(|sample| LengthSample { took: sample.took.mul_f64(stalled(&sample)), ..sample })
            .collect()
    }

    fn costs(samples: &[LengthSample]) -> (CostModel, LengthCost) {
        let found = fit(samples);
        (table(&found, samples).unwrap(), found.lengths)
    }

    /// Serves batches until the costs are corrected, at most `batches`.
    fn serve(
        times: &mut LengthTimes,
        costs: &(CostModel, LengthCost),
        batches: u64,
    ) -> Option<CorrectedCosts> {
        (0..batches).find_map(|batch| {
            let rows = [3, 9, 20, 40][usize::try_from(batch % 4).unwrap()];
            times.add(truth(rows, 260 + 37 * (batch % 7)), &costs.0, &costs.1)
        })
    }

    #[test]
    fn costs_from_a_stalled_start_up_are_corrected_by_what_runs() {
        // Each short batch waited for the processor, so that lengths seem to cost nothing.
        let stalled = start_up(|sample| 0.2 / sample.took.as_secs_f64());
        let wrong = costs(&stalled);
        assert!(wrong.1.is_flat(), "{wrong:?}");
        let right = serve(&mut LengthTimes::new(&stalled), &wrong, 64).unwrap();
        for (rows, length) in [(1_u32, 300), (8, 300), (40, 500)] {
            let units = f64::from(rows) * right.lengths.units(length);
            let found = right.cost.latency(whole(units)).as_secs_f64();
            let ratio = found / truth(rows, length).took.as_secs_f64();
            assert!((0.8..1.25).contains(&ratio), "{rows} rows of {length}: {ratio}");
        }
    }

    #[test]
    fn costs_that_explain_the_times_stay_even_if_the_machine_becomes_slow() {
        let samples = start_up(|_| 1.0);
        let costs = costs(&samples);
        let mut times = LengthTimes::new(&samples);
        assert!(serve(&mut times, &costs, 100).is_none());
        let slow = |batch: u64| {
            let sample = truth(1 + u32::try_from(batch % 30).unwrap(), 100 + 50 * (batch % 9));
            LengthSample { took: sample.took * 2, ..sample }
        };
        let mut times = LengthTimes::new(&samples);
        let found = (0..200).find_map(|batch| times.add(slow(batch), &costs.0, &costs.1));
        assert!(found.is_none(), "{found:?}");
    }

    #[test]
    fn few_batches_are_kept_and_old_ones_are_forgotten() {
        let samples = start_up(|_| 1.0);
        let (cost, lengths) = costs(&samples);
        let mut times = LengthTimes::new(&samples);
        for batch in 0..10_000_u64 {
            times.add(truth(1 + u32::try_from(batch % 64).unwrap(), 1 + batch), &cost, &lengths);
        }
        let kept = times.samples(|at| at > 0).count();
        assert!(kept <= 7 * 2 * KEPT, "{kept}");
        assert!(times.samples(|at| at == 0).count() <= samples.len());
    }
}
