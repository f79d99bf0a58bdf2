//! How large a fleet should be, and what its workers are told: pure functions of what was seen.

mod explain;
#[cfg(test)]
mod tests;

use std::time::Duration;

use batchfleet_broker::{BatchWish, ObservedWorker, Wish};
use batchfleet_policy::{Observation, ScaleBound, ScalePolicy, Scaler, Speed};

use crate::{
    crd::{BatchMode, ModelFleetSpec, ScalingMode},
    meter::Reading,
    objects::Plan,
};

pub(crate) use self::explain::rounded;

/// How often is decided.
pub(crate) const TICK: Duration = Duration::from_secs(5);
/// Jobs that may wait for each worker while nobody knows how fast it is.
const DEPTH_PER_WORKER: u32 = 128;

/// A start that takes so many times what it should may never end.
const LATE_STARTS: u32 = 3;
/// Whatever was measured, a start may take so long.
const SHORT_START: Duration = Duration::from_secs(20);

/// A look at a fleet.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// What gateways say; `None` if none says anything.
    pub(crate) reading: Option<Reading>,
    /// Jobs that no worker has claimed.
    pub(crate) waiting: u64,
    /// Its workers, the dead ones included.
    pub(crate) words: Vec<ObservedWorker>,
    /// Workers that are ready.
    pub(crate) ready: u32,
    /// Workers that were ordered.
    pub(crate) ordered: u32,
    /// How long workers take to start, as measured.
    pub(crate) cold_start: Option<Duration>,
    /// Whether nobody knows the model: no worker has ever served it.
    pub(crate) is_new: bool,
}

/// What was decided, and what it was decided from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
    /// For the cluster.
    pub(crate) plan: Plan,
    /// For the workers.
    pub(crate) wish: Wish,
    /// What bounds the number of workers.
    pub(crate) reason: Reason,
    /// N; `None` while no worker's speed is known.
    pub(crate) n: Option<u32>,
    /// Rows per second that are asked for; `None` while unknown.
    pub(crate) offered: Option<f64>,
    /// Rows per second that all workers that live can do within the latency target.
    pub(crate) capacity: Option<f64>,
    /// κ: the share of the measured capacity that the fleet has shown to have.
    pub(crate) trust: f64,
    /// Within how many seconds 99 % were answered of late.
    pub(crate) p99: Option<f64>,
    /// Whether not even one row meets the latency target.
    pub(crate) is_infeasible: bool,
    /// Whether callers may wait for a worker: none lives, but one is started as soon as somebody
    /// asks, or was.
    pub(crate) promises: bool,
    /// Why, in words.
    pub(crate) explanation: String,
}

/// What decided about the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The spec: `replicas` is set.
    Pinned,
    /// No worker has ever said how fast it is.
    NoSpeed,
    /// The load, and what the spec allows.
    Scaled(ScaleBound),
}

/// What must be remembered of a fleet from decision to decision.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    scaler: Scaler,
    /// How many requests there had been when one came for the last time, and when that was.
    asked: Option<(u64, Duration)>,
    /// When there was no worker for the last time.
    empty: Option<Duration>,
}

impl Memory {
    /// What to do at `now` about a fleet that was seen like this.
    pub(crate) fn decide(&mut self, spec: &ModelFleetSpec, now: Duration, seen: &Seen) -> Decision {
        let policy = self.policy(spec, now, seen);
        let speed = slowest(&seen.words);
        let rows_per_request = seen.reading.as_ref().map_or(1.0, |said| said.rows_per_request);
        let scaled = self.scaler.decide(
            &policy,
            now,
            &Observation {
                // Nothing said is what was said too long ago.
                counts: seen
                    .reading
                    .as_ref()
                    .map_or_else(Default::default, |said| said.counts.into()),
                waiting: seen.waiting,
                ready: seen.ready,
                ordered: seen.ordered,
                cold_start: cold_start(spec, seen),
            },
            |workers| {
                speed.as_ref().map_or(0.0, |known| known.capacity(workers) / rows_per_request)
            },
        );
        let held = seen.ordered.clamp(policy.min, policy.max);
        let (floor, reason) = match (spec.replicas, &speed) {
            (Some(pinned), _) => (pinned, Reason::Pinned),
            (None, None) if seen.is_new => (held, Reason::NoSpeed),
            // Silence is no load of zero: nobody goes for lack of data.
            _ if seen.reading.is_none() => (held, Reason::Scaled(ScaleBound::Stale)),
            (None, None) => (held, Reason::NoSpeed),
            // Nobody has asked for as long as it takes: none is held for a load that was.
            (None, Some(_)) if policy.min == 0 => (0, Reason::Scaled(ScaleBound::Load)),
            (None, Some(_)) => (scaled.replicas, Reason::Scaled(scaled.bound)),
        };
        let live = seen.words.iter().filter(|word| word.live).count();
        let live = u32::try_from(live).unwrap_or(u32::MAX);
        let offered = scaled.offered.map(|requests| requests * rows_per_request);
        let each = speed.as_ref().map(|known| known.capacity(floor.max(1)));
        let mut decision = Decision {
            plan: Plan {
                floor,
                depth_per_worker: each
                    .map_or(DEPTH_PER_WORKER, |rows| depth(spec, rows / rows_per_request)),
            },
            wish: wish(spec),
            reason,
            n: speed.as_ref().map(|known| known.n(live, offered.unwrap_or(0.0))),
            offered,
            capacity: speed.as_ref().map(|known| known.capacity(live) * f64::from(live)),
            trust: scaled.trust,
            p99: seen.reading.as_ref().and_then(|said| said.p99),
            is_infeasible: speed.is_some_and(|known| known.is_infeasible(live)),
            promises: self.promises(spec, now, seen, floor),
            explanation: String::new(),
        };
        decision.explanation = explain::size(spec, &decision, each, scaled.wanted);
        decision
    }

    /// Whether callers may wait for a worker: from before the last one goes until the next has come.
    /// Not for ever: one that has not come after three times what it should take may never come, and
    /// whoever asks is better told at once.
    fn promises(&mut self, spec: &ModelFleetSpec, now: Duration, seen: &Seen, floor: u32) -> bool {
        if seen.ordered == 0 {
            self.empty = Some(now);
        }
        let scaling = &spec.scaling;
        let wakes =
            scaling.min == 0 && spec.replicas.is_none() && scaling.mode != ScalingMode::External;
        let patience = LATE_STARTS * cold_start(spec, seen).max(SHORT_START);
        let starts = self.empty.is_some_and(|empty| now.saturating_sub(empty) < patience);
        wakes && (floor == 0 || starts && !seen.words.iter().any(|word| word.live))
    }

    /// The bounds of the fleet's size. Down to nothing it goes only after nobody has asked for as
    /// long as the spec says; where nothing is, nothing is started until somebody asks, unless
    /// nobody can ask: a model that no worker has ever served is not known to gateways.
    fn policy(&mut self, spec: &ModelFleetSpec, now: Duration, seen: &Seen) -> ScalePolicy {
        let scaling = &spec.scaling;
        let offered = seen.reading.as_ref().map(|said| said.counts.offered);
        let first = self.asked.is_none();
        let (count, at) = self.asked.get_or_insert((offered.unwrap_or(0), now));
        let mut asked_now = seen.waiting > 0;
        if let Some(offered) = offered.filter(|offered| offered != count) {
            asked_now |= !first;
            *count = offered;
        }
        if asked_now {
            *at = now;
        }
        let patience = scaling.scale_to_zero_after_seconds.map(seconds);
        let is_idle = now.saturating_sub(*at) >= patience.unwrap_or(Duration::MAX);
        let stays_empty = seen.ordered == 0 && !asked_now && !seen.is_new;
        let min = match scaling.min {
            0 if is_idle || stays_empty => 0,
            min => min.max(1),
        };
        ScalePolicy {
            utilization: f64::from(scaling.utilization_percent) / 100.0,
            hold: seconds(scaling.hold_seconds),
            trend: scaling.trend,
            tick: TICK,
            ..ScalePolicy::new(min, scaling.max.max(min), slo(spec))
        }
    }
}

/// How long workers take to start: as measured, else as the spec guesses.
fn cold_start(spec: &ModelFleetSpec, seen: &Seen) -> Duration {
    seen.cold_start.unwrap_or_else(|| seconds(spec.scaling.cold_start_seconds))
}

/// The latency target.
pub(crate) fn slo(spec: &ModelFleetSpec) -> Duration {
    Duration::from_millis(spec.slo.p99_ms.into())
}

/// What workers are told. With N left to them they follow the load at every batch, by the same
/// functions, with what each has measured.
fn wish(spec: &ModelFleetSpec) -> Wish {
    let batch = match (spec.batch.mode, spec.batch.rows) {
        (BatchMode::Fixed, Some(rows)) => BatchWish::Rows(rows),
        _ => BatchWish::Auto,
    };
    Wish { batch, slo_ms: Some(f64::from(spec.slo.p99_ms)) }
}

/// How fast the slowest worker is, of those that live, or of those that did if none does.
fn slowest(words: &[ObservedWorker]) -> Option<Speed> {
    let any = words.iter().any(|word| word.live);
    let counted = words.iter().filter(|word| word.live || !any).map(|word| &word.announcement);
    let slowest = counted
        .filter(|word| word.batching.is_some() && word.capacity > 0.0)
        .min_by(|a, b| a.capacity.total_cmp(&b.capacity))?;
    let said = slowest.batching.as_ref()?;
    let by_hand = said.by_hand();
    Speed::new(&said.profile(), said.fixed_sizes, by_hand, said.slo(), said.overhead())
}

/// Jobs that may wait for each worker before the autoscaler adds to the floor: what it does in twice
/// its latency target, as a power of two, so that noise does not write.
fn depth(spec: &ModelFleetSpec, requests_per_second: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let jobs = (2.0 * slo(spec).as_secs_f64() * requests_per_second) as u32;
    jobs.clamp(1, 1 << 20).next_power_of_two()
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}
