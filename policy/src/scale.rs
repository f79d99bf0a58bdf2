//! Decides how many workers a fleet needs.
//!
//! The number follows from the *offered* rate (refused requests included) and the measured capacity
//! at the latency target, not from queue depth or requests in flight. In a server that batches, the
//! number of requests in flight I(W) falls faster than 1/W. A rule W′ = I(W) / target has the slope
//! −ρ/(1−ρ) at its fixed point, so the number of workers oscillates between its bounds if the
//! utilization ρ exceeds ½.

mod history;

use std::time::Duration;

use history::{History, Peaks};

pub use history::RequestCounts;

/// ρ: the default utilization that fleets are planned for, as a share of a worker's capacity.
pub const UTILIZATION: f64 = 0.88;
/// Windows over which the offered rates `fast` and `slow` are measured.
const FAST: Duration = Duration::from_secs(5);
const SLOW: Duration = Duration::from_secs(30);
/// Time to drain a backlog, or a cold start if a cold start takes longer. Also how far a trend is
/// extrapolated at most.
const DRAIN: Duration = Duration::from_secs(20);
/// Time for which workers ordered for a backlog are kept, in addition to a cold start.
const BACKLOG_HOLD: Duration = Duration::from_secs(10);
/// κ is adjusted only while the number of workers has been constant and all have been ready for
/// this time.
const SETTLED: Duration = Duration::from_secs(15);
/// An observation older than this number of ticks is stale.
const STALE_TICKS: u32 = 3;
/// For each second of a tick in which more than `MANY` of the requests are missed, κ is multiplied by
/// `DISTRUST`, down to `LEAST_TRUST`. For each second of a tick in which fewer than `FEW` are missed, κ
/// rises by `TRUST`.
const DISTRUST: f64 = 0.98;
const LEAST_TRUST: f64 = 0.6;
const TRUST: f64 = 0.00006;
const MANY: f64 = 0.01;
const FEW: f64 = 0.002;
/// Seconds between the centres of the two windows.
const APART: f64 = 12.5;
/// Upper bound of an extrapolated rate, as a multiple of the current rate.
const STEEPEST: f64 = 2.5;
/// Number of standard deviations beyond which a difference is significant.
const SURELY: f64 = 3.0;

/// Scaling settings of one fleet.
#[derive(Clone, Copy, Debug)]
pub struct ScalePolicy {
    /// The fewest workers.
    pub min: u32,
    /// The most workers.
    pub max: u32,
    /// The latency target.
    pub slo: Duration,
    /// ρ: the planned utilization.
    pub utilization: f64,
    /// How long workers are kept after the load last needed them.
    pub hold: Duration,
    /// Time between decisions.
    pub tick: Duration,
    /// Whether to order workers for the rate that a rising load will have after a cold start.
    /// Useful where requests queue instead of being refused.
    pub trend: bool,
}

impl ScalePolicy {
    /// Returns a policy with a decision every 2.5 s, a utilization of 88 %, a hold of 5 minutes, and
    /// no trend.
    pub const fn new(min: u32, max: u32, slo: Duration) -> Self {
        let (hold, tick) = (Duration::from_mins(5), Duration::from_millis(2_500));
        Self { min, max, slo, utilization: UTILIZATION, hold, tick, trend: false }
    }
}

/// State of a fleet at a point in time.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Request counters, and the time of the observation.
    pub counts: RequestCounts,
    /// Waiting requests.
    pub waiting: u64,
    /// Workers that serve.
    pub ready: u32,
    /// Workers that serve or are starting.
    pub ordered: u32,
    /// Time from the order of a worker to its first batch.
    pub cold_start: Duration,
}

/// The number of workers that a fleet should have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScaleDecision {
    /// The number, within the bounds of the policy.
    pub replicas: u32,
    /// The number that the current load needs, before hold and bounds are applied.
    pub wanted: u32,
    /// λ: the offered rate on which the decision is based, per second; `None` while unknown.
    pub offered: Option<f64>,
    /// κ: the confirmed share of the measured capacity.
    pub trust: f64,
    /// The reason for `replicas`.
    pub bound: ScaleBound,
}

/// The reason for a number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum ScaleBound {
    /// The offered rate.
    Load,
    /// The backlog in addition to the offered rate.
    Backlog,
    /// The hold: the load needed more workers recently.
    Hold,
    /// The minimum of the policy.
    Min,
    /// The maximum of the policy: requests will be late or refused.
    Max,
    /// No rate is known yet, so the number stays unchanged.
    Unknown,
    /// The observation is too old, so the number stays unchanged.
    Stale,
}

impl ScaleBound {
    /// All variants.
    pub const ALL: &[Self] = <Self as strum::VariantArray>::VARIANTS;

    /// Returns the variant's name in snake case: a metric label, and the reason of a condition.
    pub fn code(self) -> &'static str {
        self.into()
    }
}

/// Decides how many workers a fleet needs, and keeps state between decisions.
#[derive(Clone, Debug)]
pub struct Scaler {
    history: History,
    /// Peak of `W_base` over the hold.
    base: Peaks,
    /// Peak of `W_full` over a cold start + 10 s.
    full: Peaks,
    /// κ.
    trust: f64,
    /// The number of workers, and the time since which all of them have been ready.
    settled: Option<(u32, Duration)>,
}

impl Default for Scaler {
    fn default() -> Self {
        let (history, base, full) = (History::default(), Peaks::default(), Peaks::default());
        Self { history, base, full, trust: 1.0, settled: None }
    }
}

impl Scaler {
    /// Decides how many workers the fleet should have at `now`, from the latest observation.
    /// `capacity(W)` is μ(W), the requests per second that one of W workers can do within the
    /// latency target.
    ///
    /// λ is the offered rate: the rate over 30 s, or the rate over 5 s less one standard deviation,
    /// whichever is higher. Q is the number of waiting requests beyond λ · SLO/2, and `T_drain` =
    /// max(20 s, cold start).
    ///
    /// - `W_base` = min W : ρ · κ · W · μ(W) ≥ λ
    /// - `W_full` = min W : ρ · κ · W · μ(W) ≥ λ + Q / `T_drain`
    /// - W = max(`W_full`, min(ordered, max(peak of `W_base`, peak of `W_full`))), within the
    ///   bounds of the policy. The peak of `W_base` is taken over the hold, the peak of `W_full`
    ///   over a cold start + 10 s.
    ///
    /// κ corrects a capacity that was measured too high. κ falls by 2 % per second, down to 0.6,
    /// while a fleet of constant size under a steady rate misses more than 1 % of the requests, and
    /// rises by 0.00006 per second while the fleet misses fewer than 0.2 %.
    ///
    /// Starting workers count as present. Before the second observation, and while the latest
    /// observation is older than three ticks, the number stays unchanged.
    pub fn decide(
        &mut self,
        policy: &ScalePolicy,
        now: Duration,
        seen: &Observation,
        capacity: impl Fn(u32) -> f64,
    ) -> ScaleDecision {
        let freshest = policy.tick * STALE_TICKS;
        if now.saturating_sub(seen.counts.at) > freshest {
            return self.keep(policy, seen, ScaleBound::Stale);
        }
        self.history.observe(seen.counts, freshest, SLOW);
        let (Some(fast), Some(slow)) = (self.history.rate(FAST), self.history.rate(SLOW)) else {
            self.base.observe(now, seen.ordered, policy.hold);
            return self.keep(policy, seen, ScaleBound::Unknown);
        };
        // At the maximum, requests are missed for lack of workers, so the misses say nothing about
        // κ.
        let limited = seen.ordered >= policy.max;
        self.judge(policy.tick, now, seen, is_steady(fast, slow) && !limited);
        let rate = planned_rate(fast, slow, seen.cold_start, policy.trend);
        let needed = |load: f64| {
            fewest(load, policy.utilization * self.trust, policy.max, &capacity)
                .unwrap_or(policy.max.saturating_add(1))
        };
        let base = needed(rate);
        let full = needed(rate + excess(seen.waiting, fast, policy.slo) / drain(seen.cold_start));
        let held = self.base.observe(now, base, policy.hold);
        let held = held.max(self.full.observe(now, full, seen.cold_start + BACKLOG_HOLD));
        let unbounded = full.max(held.min(seen.ordered));
        let bound = match unbounded {
            workers if workers > policy.max => ScaleBound::Max,
            workers if workers < policy.min => ScaleBound::Min,
            workers if workers > full => ScaleBound::Hold,
            workers if workers > base => ScaleBound::Backlog,
            _ => ScaleBound::Load,
        };
        let replicas = unbounded.clamp(policy.min, policy.max.max(policy.min));
        ScaleDecision { replicas, wanted: full, offered: Some(rate), trust: self.trust, bound }
    }

    /// Leaves the number of workers unchanged, within the bounds of the policy.
    fn keep(&self, policy: &ScalePolicy, seen: &Observation, bound: ScaleBound) -> ScaleDecision {
        let replicas = seen.ordered.clamp(policy.min, policy.max.max(policy.min));
        let wanted = seen.ordered;
        ScaleDecision { replicas, wanted, offered: None, trust: self.trust, bound }
    }

    /// Adjusts κ by the share of requests that a settled fleet misses.
    fn judge(&mut self, tick: Duration, now: Duration, seen: &Observation, is_steady: bool) {
        let complete = (seen.ready == seen.ordered).then_some(seen.ready);
        let same = self.settled.filter(|&(workers, _)| Some(workers) == complete);
        self.settled = same.or_else(|| complete.map(|workers| (workers, now)));
        let is_settled = same.is_some_and(|(_, since)| now.saturating_sub(since) >= SETTLED);
        if !is_settled || !is_steady {
            return;
        }
        let (seconds, missed) = (tick.as_secs_f64(), self.history.missed_share());
        if missed > MANY {
            self.trust = (self.trust * DISTRUST.powf(seconds)).max(LEAST_TRUST);
        } else if missed < FEW {
            self.trust = (self.trust + TRUST * seconds).min(1.0);
        }
    }
}

/// Returns the fewest workers for a load at a utilization of `share`: min W : share · W · μ(W) ≥
/// load, where `capacity(W)` = μ(W) in the unit of `load`. Returns `None` if more than `most`
/// workers are needed.
pub fn fewest(load: f64, share: f64, most: u32, capacity: impl Fn(u32) -> f64) -> Option<u32> {
    let copes = |&workers: &u32| {
        workers == 0 && load <= 0.0
            || workers > 0 && share * f64::from(workers) * capacity(workers) >= load
    };
    (0..=most).find(copes)
}

/// Returns the standard deviation of a rate counted over the fast window, for Poisson arrivals.
fn deviation(rate: f64) -> f64 {
    (rate / FAST.as_secs_f64()).sqrt()
}

fn is_steady(fast: f64, slow: f64) -> bool {
    (fast - slow).abs() <= SURELY * deviation(slow)
}

/// Returns λ, computed from the rates of the two windows.
fn planned_rate(fast: f64, slow: f64, cold_start: Duration, trend: bool) -> f64 {
    if trend && fast - slow > SURELY * deviation(slow) {
        let ahead = cold_start.min(DRAIN).as_secs_f64();
        return (fast + (fast - slow) / APART * ahead).min(STEEPEST * fast);
    }
    slow.max(fast - deviation(fast))
}

/// Returns Q: the waiting requests in excess of the requests that normally wait for a batch.
fn excess(waiting: u64, rate: f64, slo: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a number of jobs in a queue")]
    let waiting = waiting as f64;
    (waiting - rate * slo.as_secs_f64() / 2.0).max(0.0)
}

/// Returns `T_drain` in seconds.
fn drain(cold_start: Duration) -> f64 {
    cold_start.max(DRAIN).as_secs_f64()
}

#[cfg(test)]
mod tests;
