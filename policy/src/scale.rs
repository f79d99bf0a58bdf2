//! How many workers a fleet needs, and why.
//!
//! From the *offered* rate and the measured capacity at the latency target. Not from what waits or
//! is in flight: for a server that batches, both fall faster than 1/W, so that a rule W' = I(W) /
//! target has the slope −ρ/(1−ρ) at its fixed point, and swings from end to end once workers are
//! busy for more than half of their best rate.

mod history;

use std::time::Duration;

use history::{History, Peaks};

pub use history::Counts;

/// ρ, unless somebody wants another: the share of its capacity that a worker is to be busy with.
pub const UTILIZATION: f64 = 0.88;
/// Windows of the offered rate.
const FAST: Duration = Duration::from_secs(5);
const SLOW: Duration = Duration::from_secs(30);
/// A backlog is to be gone after so long, or after a cold start if that takes longer. The trend
/// looks no farther ahead either.
const DRAIN: Duration = Duration::from_secs(20);
/// How long, beyond a cold start, workers are kept that were ordered for a backlog.
const BACKLOG_HOLD: Duration = Duration::from_secs(10);
/// A fleet that has not changed for so long shows what it can do.
const SETTLED: Duration = Duration::from_secs(15);
/// What is older than so many ticks is not acted on.
const STALE_TICKS: u32 = 3;
/// Trust falls to this share where more than `MANY` of the requests are missed, not below `LEAST`;
/// it rises by so much a tick where fewer than `FEW` are.
const DISTRUST: f64 = 0.95;
const LEAST_TRUST: f64 = 0.6;
const TRUST: f64 = 0.0003;
const MANY: f64 = 0.01;
const FEW: f64 = 0.002;
/// Seconds between the middles of the two windows.
const APART: f64 = 12.5;
/// A trend is followed up to so many times the rate of now.
const STEEPEST: f64 = 2.5;
/// Standard deviations that are no chance.
const SURELY: f64 = 3.0;

/// What bounds the number of workers.
#[derive(Clone, Copy, Debug)]
pub struct ScalePolicy {
    /// The fewest workers.
    pub min: u32,
    /// The most.
    pub max: u32,
    /// The latency target.
    pub slo: Duration,
    /// ρ: the share of its capacity that a worker is to be busy with.
    pub utilization: f64,
    /// How long a number of workers is kept that was needed.
    pub hold: Duration,
    /// How often it is decided.
    pub tick: Duration,
    /// Whether to order for where a rising rate will be after a cold start. Pays where requests
    /// queue instead of being refused.
    pub trend: bool,
}

impl ScalePolicy {
    /// Decided every 5 s, workers busy for 88 % of the time, kept for 5 minutes.
    pub const fn new(min: u32, max: u32, slo: Duration) -> Self {
        let (hold, tick) = (Duration::from_mins(5), Duration::from_secs(5));
        Self { min, max, slo, utilization: UTILIZATION, hold, tick, trend: false }
    }
}

/// A look at a fleet.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// What was counted since ever, and when.
    pub counts: Counts,
    /// Requests that wait.
    pub waiting: u64,
    /// Workers that serve.
    pub ready: u32,
    /// Workers that were ordered: those that serve, and those that are on their way.
    pub ordered: u32,
    /// From the order of a worker to its first batch.
    pub cold_start: Duration,
}

/// How many workers there should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScaleDecision {
    /// That many.
    pub replicas: u32,
    /// What the load of now alone would need, whatever the bounds.
    pub wanted: u32,
    /// The offered rate that was reckoned with, per second; `None` while unknown.
    pub offered: Option<f64>,
    /// κ: the share of the measured capacity that the fleet has shown to have.
    pub trust: f64,
    /// What decided.
    pub bound: ScaleBound,
}

/// What decided about the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleBound {
    /// The offered rate.
    Load,
    /// What waits, on top of it.
    Backlog,
    /// Workers were needed not long ago.
    Hold,
    /// The fewest there may be.
    Min,
    /// The most there may be: requests will be late or refused.
    Max,
    /// No rate is known yet.
    Unknown,
    /// What was seen is too old to act on.
    Stale,
}

impl ScaleBound {
    /// The bounded label of metrics and conditions.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Backlog => "backlog",
            Self::Hold => "hold",
            Self::Min => "min",
            Self::Max => "max",
            Self::Unknown => "unknown",
            Self::Stale => "stale",
        }
    }
}

/// What must be remembered from decision to decision.
#[derive(Clone, Debug)]
pub struct Scaler {
    history: History,
    base: Peaks,
    full: Peaks,
    trust: f64,
    /// The fleet's size, and since when it has been all there.
    settled: Option<(u32, Duration)>,
}

impl Default for Scaler {
    fn default() -> Self {
        let (history, base, full) = (History::default(), Peaks::default(), Peaks::default());
        Self { history, base, full, trust: 1.0, settled: None }
    }
}

impl Scaler {
    /// How many workers there should be at `now`, given the latest look; `capacity(W)` is what one
    /// of W workers can do within the latency target, μ(W) in requests per second.
    ///
    /// With λ the offered rate (over 30 s, or over 5 s less one standard deviation if that is more),
    /// Q what waits beyond λ · SLO/2, and `T_drain` the longer of 20 s and a cold start:
    ///
    /// - `W_base` = min W : ρ · κ · W · μ(W) ≥ λ
    /// - `W_full` = min W : ρ · κ · W · μ(W) ≥ λ + Q / `T_drain`
    /// - W = max(`W_full`, min(W now, max(`W_base` over the hold, `W_full` over a cold start + 10 s)))
    ///
    /// within its bounds. κ falls by 5 % a tick, to 0.6 at least, while a settled fleet under a
    /// steady rate misses more than 1 % of the requests, and recovers by 0.0003 a tick below 0.2 %.
    ///
    /// Workers on their way count as present. Before two looks, and when the latest is older than
    /// three ticks, the number stays as it is.
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
        let limited = seen.ordered >= policy.max;
        self.judge(now, seen, is_steady(fast, slow) && !limited);
        let rate = reckoned(fast, slow, seen.cold_start, policy.trend);
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

    fn keep(&self, policy: &ScalePolicy, seen: &Observation, bound: ScaleBound) -> ScaleDecision {
        let replicas = seen.ordered.clamp(policy.min, policy.max.max(policy.min));
        let wanted = seen.ordered;
        ScaleDecision { replicas, wanted, offered: None, trust: self.trust, bound }
    }

    /// Corrects κ by what a settled fleet misses.
    fn judge(&mut self, now: Duration, seen: &Observation, is_steady: bool) {
        let complete = (seen.ready == seen.ordered).then_some(seen.ready);
        let same = self.settled.filter(|&(workers, _)| Some(workers) == complete);
        self.settled = same.or_else(|| complete.map(|workers| (workers, now)));
        let is_settled = same.is_some_and(|(_, since)| now.saturating_sub(since) >= SETTLED);
        if !is_settled || !is_steady {
            return;
        }
        match self.history.missed_share() {
            share if share > MANY => self.trust = (self.trust * DISTRUST).max(LEAST_TRUST),
            share if share < FEW => self.trust = (self.trust + TRUST).min(1.0),
            _ => {}
        }
    }
}

/// The fewest workers, `most` at most, that cope with a load while each is busy for a `share` of
/// what it can do: min W : share · W · μ(W) ≥ load, with `capacity` μ(W). `None` if not even `most`
/// do. Of load and capacity the unit must be the same.
pub fn fewest(load: f64, share: f64, most: u32, capacity: impl Fn(u32) -> f64) -> Option<u32> {
    let copes = |&workers: &u32| {
        workers == 0 && load <= 0.0
            || workers > 0 && share * f64::from(workers) * capacity(workers) >= load
    };
    (0..=most).find(copes)
}

/// The standard deviation of a rate counted over the fast window: arrivals come by chance.
fn deviation(rate: f64) -> f64 {
    (rate / FAST.as_secs_f64()).sqrt()
}

fn is_steady(fast: f64, slow: f64) -> bool {
    (fast - slow).abs() <= SURELY * deviation(slow)
}

/// λ: what is to be reckoned with, from the rates of the two windows.
fn reckoned(fast: f64, slow: f64, cold_start: Duration, trend: bool) -> f64 {
    if trend && fast - slow > SURELY * deviation(slow) {
        let ahead = cold_start.min(DRAIN).as_secs_f64();
        return (fast + (fast - slow) / APART * ahead).min(STEEPEST * fast);
    }
    slow.max(fast - deviation(fast))
}

/// Requests that wait beyond those that wait anyway.
fn excess(waiting: u64, rate: f64, slo: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a number of jobs in a queue")]
    let waiting = waiting as f64;
    (waiting - rate * slo.as_secs_f64() / 2.0).max(0.0)
}

/// Seconds in which a backlog is to be gone.
fn drain(cold_start: Duration) -> f64 {
    cold_start.max(DRAIN).as_secs_f64()
}

#[cfg(test)]
mod tests;
