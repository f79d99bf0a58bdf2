//! Decides the size of a fleet and the batch target of its workers. Pure.

mod decision;
mod explain;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use batchfleet_broker::{BatchWish, ObservedWorker, Wish};
use batchfleet_policy::{Observation, ScaleBound, ScalePolicy, Scaler, Speed};

use crate::crd::{BatchMode, ModelFleetSpec, ScalingMode};

pub(crate) use self::{
    decision::{Decision, FleetInput, FleetSize, Reason, SILENT_GATEWAYS, TICK},
    explain::rounded,
};

/// Jobs that may wait per worker while the speed of the workers is unknown.
const DEPTH_PER_WORKER: u32 = 128;

/// A start slower than 3x the expected cold start counts as failed.
const LATE_STARTS: u32 = 3;
/// Lower bound of the expected cold start when the controller looks for failed starts.
const SHORT_START: Duration = Duration::from_secs(20);

/// State that a fleet keeps between decisions.
#[derive(Debug, Default)]
pub(crate) struct ScaleMemory {
    scaler: Scaler,
    /// The count of offered requests, and the last time at which the count changed or requests were
    /// waiting.
    asked: Option<(u64, Duration)>,
    /// The last time at which the Deployment had no replicas; in mode `external`, at which none were
    /// wanted either.
    empty: Option<Duration>,
}

impl ScaleMemory {
    /// Decides the size and the batch target of a fleet at `now`.
    pub(crate) fn decide(
        &mut self,
        spec: &ModelFleetSpec,
        now: Duration,
        input: &FleetInput,
    ) -> Decision {
        let policy = self.policy(spec, now, input);
        let speed = slowest(&input.workers);
        let rows_per_request =
            input.reading.as_ref().map_or(1.0, |reading| reading.rows_per_request);
        let instances = instances(&input.workers);
        // The capacity of one of `pods` pods, in rows per second.
        let capacity_of_pod = |known: &Speed, pods: u32| {
            known.capacity(pods.saturating_mul(instances)) * f64::from(instances)
        };
        let scaled = self.scaler.decide(&policy, now, &observation(spec, input), |pods| {
            speed.as_ref().map_or(0.0, |known| capacity_of_pod(known, pods) / rows_per_request)
        });
        let held = input.ordered.clamp(policy.min, policy.max);
        let (floor, reason) = match (spec.replicas, &speed) {
            (Some(pinned), _) => (pinned, Reason::Pinned),
            (None, None) if input.is_new => (held, Reason::NoSpeed),
            // Missing reports do not mean that there is no load: never remove workers for lack of
            // data.
            _ if input.reading.is_none() => (held, Reason::Scaled(ScaleBound::Stale)),
            (None, None) => (held, Reason::NoSpeed),
            // The fleet has been idle for `scaleToZeroAfterSeconds`: no hold for an earlier load.
            (None, Some(_)) if policy.min == 0 => (0, Reason::Scaled(ScaleBound::Load)),
            (None, Some(_)) => (scaled.replicas, Reason::Scaled(scaled.bound)),
        };
        let live = input.workers.iter().filter(|worker| worker.live).count();
        let live = u32::try_from(live).unwrap_or(u32::MAX);
        let offered = scaled.offered.map(|requests| requests * rows_per_request);
        let each = speed.as_ref().map(|known| capacity_of_pod(known, floor.max(1)));
        let is_infeasible = speed.as_ref().is_some_and(|known| known.is_infeasible(live));
        let mut decision = Decision {
            size: FleetSize {
                floor,
                may_grow: !is_infeasible,
                depth_per_worker: each
                    .map_or(DEPTH_PER_WORKER, |rows| depth(spec, rows / rows_per_request)),
            },
            wish: wish(spec),
            reason,
            n: speed.as_ref().map(|known| known.n(live, offered.unwrap_or(0.0))),
            offered,
            capacity: speed.as_ref().map(|known| known.capacity(live) * f64::from(live)),
            trust: scaled.trust,
            p99: input.reading.as_ref().and_then(|reading| reading.p99),
            is_infeasible,
            promises: self.promises(spec, now, input, floor),
            explanation: String::new(),
        };
        decision.explanation = explain::size(spec, input, &decision, each, scaled.wanted);
        decision
    }

    /// Returns whether gateways may let requests wait for a worker: from just before the last
    /// worker stops until the next worker is alive. A start that takes too long counts as failed,
    /// and gateways then refuse requests immediately.
    fn promises(
        &mut self,
        spec: &ModelFleetSpec,
        now: Duration,
        input: &FleetInput,
        floor: u32,
    ) -> bool {
        let scaling = &spec.scaling;
        // Another autoscaler may never start the wanted worker.
        if input.ordered == 0 && (scaling.mode != ScalingMode::External || floor == 0) {
            self.empty = Some(now);
        }
        let wakes = scaling.min == 0 && spec.replicas.is_none();
        let patience = LATE_STARTS * cold_start(spec, input).max(SHORT_START);
        let starts = self.empty.is_some_and(|empty| now.saturating_sub(empty) < patience);
        wakes && (floor == 0 || starts && !input.workers.iter().any(|worker| worker.live))
    }

    /// Returns the bounds of the fleet's size. A fleet scales to zero only after
    /// `scaleToZeroAfterSeconds` without a request. A fleet at zero workers stays at zero until a
    /// request arrives, unless the model is new: gateways refuse requests for a model that no
    /// worker has ever served.
    fn policy(&mut self, spec: &ModelFleetSpec, now: Duration, input: &FleetInput) -> ScalePolicy {
        let scaling = &spec.scaling;
        let offered = input.reading.as_ref().map(|reading| reading.counts.offered);
        let first = self.asked.is_none();
        let (count, at) = self.asked.get_or_insert((offered.unwrap_or(0), now));
        let mut asked_now = input.waiting > 0;
        if let Some(offered) = offered.filter(|offered| offered != count) {
            // The first count does not tell when its requests arrived.
            asked_now |= !first;
            *count = offered;
        }
        if asked_now {
            *at = now;
        }
        let patience = scaling.scale_to_zero_after_seconds.map(seconds);
        let is_idle = now.saturating_sub(*at) >= patience.unwrap_or(Duration::MAX);
        let stays_empty = input.ordered == 0 && !asked_now && !input.is_new;
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

fn observation(spec: &ModelFleetSpec, input: &FleetInput) -> Observation {
    let reading = input.reading.as_ref();
    Observation {
        // A missing reading is treated like a stale one.
        counts: reading.map_or_else(Default::default, |reading| reading.counts.into()),
        waiting: input.waiting,
        ready: input.ready,
        ordered: input.ordered,
        cold_start: cold_start(spec, input),
    }
}

/// Returns the cold start of a worker: the measured one, or the estimate in the spec.
fn cold_start(spec: &ModelFleetSpec, input: &FleetInput) -> Duration {
    input.cold_start.unwrap_or_else(|| seconds(spec.scaling.cold_start_seconds))
}

/// Returns the latency target.
pub(crate) fn slo(spec: &ModelFleetSpec) -> Duration {
    Duration::from_millis(spec.slo.p99_ms.into())
}

/// Returns the batch target of the workers. In mode `auto`, each worker chooses N before every
/// batch, with the functions of the `policy` crate and its own measurements.
fn wish(spec: &ModelFleetSpec) -> Wish {
    let batch = match (spec.batch.mode, spec.batch.rows) {
        (BatchMode::Fixed, Some(rows)) => BatchWish::Rows(rows),
        _ => BatchWish::Auto,
    };
    Wish { batch, slo_ms: Some(f64::from(spec.slo.p99_ms)) }
}

/// Returns the speed of the slowest living worker, or of the slowest dead worker if none is alive.
fn slowest(workers: &[ObservedWorker]) -> Option<Speed> {
    let any = workers.iter().any(|worker| worker.live);
    let counted = workers.iter().filter(|worker| worker.live || !any);
    let slowest = counted
        .map(|worker| &worker.announcement)
        .filter(|announcement| announcement.batching.is_some() && announcement.capacity > 0.0)
        .min_by(|a, b| a.capacity.total_cmp(&b.capacity))?;
    let batching = slowest.batching.as_ref()?;
    let by_hand = batching.by_hand();
    let profile = batching.profile();
    Speed::new(&profile, batching.fixed_sizes, by_hand, batching.slo(), batching.overhead())
}

/// Returns the number of instances of the model in each pod. A worker announces each instance as a
/// worker of its own, with the name of the same pod.
fn instances(workers: &[ObservedWorker]) -> u32 {
    let mut by_host: BTreeMap<&str, u32> = BTreeMap::new();
    let live = workers.iter().filter(|worker| worker.live).map(|worker| &worker.announcement);
    for announcement in live.filter(|announcement| !announcement.host.is_empty()) {
        *by_host.entry(&announcement.host).or_default() += 1;
    }
    // While pods start or stop, some of them announce fewer instances.
    by_host.into_values().max().unwrap_or(1)
}

/// Returns how many jobs may wait per worker before the autoscaler adds workers: the number that a
/// worker serves in twice the latency target, rounded up to a power of two so that small changes in
/// speed do not change the autoscaler object.
fn depth(spec: &ModelFleetSpec, requests_per_second: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let jobs = (2.0 * slo(spec).as_secs_f64() * requests_per_second) as u32;
    jobs.clamp(1, 1 << 20).next_power_of_two()
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}
