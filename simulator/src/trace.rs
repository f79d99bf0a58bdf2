//! Arrival patterns: synthetic loads and recorded ones.

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

/// A rate, and the time from which it applies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Seconds from the start.
    pub from: f64,
    /// Requests per second.
    pub rate: f64,
}

/// The times at which requests arrive.
#[derive(Clone, Debug, PartialEq)]
pub enum ArrivalPattern {
    /// Poisson arrivals (independent clients) at a rate that changes in steps.
    Steps(Vec<Step>),
    /// `size` requests at the same instant; the instants are Poisson arrivals.
    Bulks {
        /// Requests per second.
        rate: f64,
        /// Requests per bulk.
        size: u32,
    },
    /// Recorded arrival times in seconds, in ascending order.
    Recorded(Vec<f64>),
}

impl ArrivalPattern {
    /// Returns a load with a constant rate.
    pub fn steady(rate: f64) -> Self {
        Self::Steps(vec![Step { from: 0.0, rate }])
    }

    /// Returns a day compressed to `period` seconds: a cosine from `low` at midnight to `peak` at
    /// noon.
    pub fn diurnal(low: f64, peak: f64, period: f64, duration: f64) -> Self {
        const STEPS: u32 = 720;
        let rate = |step: u32| {
            let phase = f64::from(step) / f64::from(STEPS) * std::f64::consts::TAU;
            low + (peak - low) * (1.0 - phase.cos()) / 2.0
        };
        let day = (0..STEPS).map(|step| (f64::from(step) * period / f64::from(STEPS), rate(step)));
        Self::repeat(&day.collect::<Vec<_>>(), period, duration)
    }

    /// Returns a ramp: `low` until `from`, rising linearly to `peak` at `to`, then `peak`.
    pub fn ramp(low: f64, peak: f64, from: f64, to: f64) -> Self {
        const STEPS: u32 = 300;
        let rise = (0..=STEPS).map(|step| {
            let part = f64::from(step) / f64::from(STEPS);
            Step { from: from + (to - from) * part, rate: low + (peak - low) * part }
        });
        Self::Steps(std::iter::once(Step { from: 0.0, rate: low }).chain(rise).collect())
    }

    /// Returns a flash crowd: `low`, and `peak` between `from` and `to`.
    pub fn flash(low: f64, peak: f64, from: f64, to: f64) -> Self {
        let step = |from, rate| Step { from, rate };
        Self::Steps(vec![step(0.0, low), step(from, peak), step(to, low)])
    }

    /// Returns a load that alternates between `low` and `peak` every `time` seconds.
    pub fn on_off(low: f64, peak: f64, time: f64, duration: f64) -> Self {
        Self::repeat(&[(0.0, low), (time, peak)], 2.0 * time, duration)
    }

    /// Returns a Markov-modulated Poisson process that alternates between `low` and `peak`
    /// (requests per second, mean length in seconds), with exponentially distributed lengths.
    pub fn bursts(low: (f64, f64), peak: (f64, f64), duration: f64, seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5bd1_e995);
        let (mut steps, mut from, mut is_low) = (Vec::new(), 0.0, true);
        while from < duration {
            let (rate, mean) = if is_low { low } else { peak };
            steps.push(Step { from, rate });
            from += mean * random.exponential();
            is_low = !is_low;
        }
        Self::Steps(steps)
    }

    fn repeat(pattern: &[(f64, f64)], period: f64, duration: f64) -> Self {
        let mut steps = Vec::new();
        let mut start = 0.0;
        while start < duration {
            steps.extend(pattern.iter().map(|&(at, rate)| Step { from: start + at, rate }));
            start += period;
        }
        Self::Steps(steps)
    }

    /// Returns the arrival times up to `duration` seconds, in ascending order. Equal seeds give
    /// equal times.
    pub fn arrivals(&self, duration: f64, seed: u64) -> Vec<f64> {
        let mut random = Random::new(seed);
        match self {
            Self::Steps(steps) => {
                let ends = steps.iter().skip(1).map(|next| next.from).chain([f64::INFINITY]);
                let mut arrivals = Vec::new();
                for (step, end) in steps.iter().zip(ends) {
                    random.poisson(step.rate, step.from..end.min(duration), &mut arrivals);
                }
                arrivals
            }
            Self::Bulks { rate, size } => {
                let mut bulks = Vec::new();
                random.poisson(rate / f64::from(*size), 0.0..duration, &mut bulks);
                let all = |at| std::iter::repeat_n(at, *size as usize);
                bulks.into_iter().flat_map(all).collect()
            }
            Self::Recorded(times) => {
                times.iter().copied().take_while(|&at| at < duration).collect()
            }
        }
    }
}

/// A seeded random number generator.
pub(crate) struct Random(Xoshiro256PlusPlus);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// Returns an exponentially distributed number with mean 1.
    fn exponential(&mut self) -> f64 {
        -(1.0 - self.0.random::<f64>()).ln()
    }

    /// Returns a nearly normally distributed number with mean 0 and variance 1: the sum of twelve
    /// uniform numbers.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.0.random::<f64>()).sum::<f64>() - 6.0
    }

    /// Returns a whole number within these bounds.
    pub(crate) fn whole(&mut self, (least, most): (u64, u64)) -> u64 {
        self.0.random_range(least..=most)
    }

    /// Appends the arrivals of a Poisson process within `times`. The gap at the end may be
    /// truncated, because the exponential distribution is memoryless.
    fn poisson(&mut self, rate: f64, times: std::ops::Range<f64>, arrivals: &mut Vec<f64>) {
        if rate <= 0.0 {
            return;
        }
        let mut at = times.start + self.exponential() / rate;
        while at < times.end {
            arrivals.push(at);
            at += self.exponential() / rate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(arrivals: &[f64], from: f64, to: f64) -> usize {
        arrivals.iter().filter(|&&at| from <= at && at < to).count()
    }

    #[test]
    fn arrivals_rise_and_have_the_rates_of_their_steps() {
        let arrivals = ArrivalPattern::flash(100.0, 1000.0, 100.0, 200.0).arrivals(300.0, 1);
        assert!(arrivals.is_sorted());
        for (from, expected) in [(0.0, 10_000.0), (100.0, 100_000.0), (200.0, 10_000.0)] {
            let counted = f64::from(u32::try_from(between(&arrivals, from, from + 100.0)).unwrap());
            // Five standard deviations.
            assert!((counted - expected).abs() < 5.0 * f64::sqrt(expected), "{from}: {counted}");
        }
    }

    #[test]
    fn equal_seeds_give_equal_arrivals() {
        let load = || ArrivalPattern::bursts((10.0, 6.0), (100.0, 3.0), 60.0, 7).arrivals(60.0, 7);
        assert_eq!(load(), load());
        assert_ne!(
            load(),
            ArrivalPattern::bursts((10.0, 6.0), (100.0, 3.0), 60.0, 8).arrivals(60.0, 8)
        );
    }

    #[test]
    fn a_day_is_low_at_both_ends_and_high_at_noon() {
        let arrivals = ArrivalPattern::diurnal(10.0, 1000.0, 600.0, 600.0).arrivals(600.0, 1);
        let ends = between(&arrivals, 0.0, 30.0) + between(&arrivals, 570.0, 600.0);
        assert!(between(&arrivals, 270.0, 330.0) > 20 * ends);
    }

    #[test]
    fn the_requests_of_a_bulk_arrive_at_one_instant() {
        let arrivals = ArrivalPattern::Bulks { rate: 640.0, size: 64 }.arrivals(100.0, 1);
        assert_eq!(arrivals.len() % 64, 0);
        assert!(arrivals.chunks(64).all(|bulk| bulk[0].total_cmp(&bulk[63]).is_eq()));
    }
}
