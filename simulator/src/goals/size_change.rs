//! Models whose batches take longer when their size changes, as convolutions do that cuDNN plans anew.

use std::time::Duration;

use batchfleet_policy::{BatchMode, BatchPolicy, QueueLoad, SizeChange};

use super::{Goal, SLO};
use crate::{curve::Curve, trace::ArrivalPattern};

const CURVE: Curve = Curve::affine(0.9, 0.06);
const MAX_BATCH: u32 = 64;
/// What a change of size takes, in milliseconds, and requests per second.
const CASES: [(u64, f64); 6] =
    [(20, 200.0), (20, 1000.0), (20, 8000.0), (53, 200.0), (53, 1000.0), (53, 8000.0)];
const SECONDS: f64 = 20.0;

/// The 99th percentile as a multiple of L(N), the gain, and the announced capacity as a share of the
/// truth, of a worker that has measured what a change takes.
pub fn costly() -> Vec<Goal> {
    CASES.iter().flat_map(|&(change_ms, rate)| worker(change_ms, rate)).collect()
}

fn worker(change_ms: u64, rate: f64) -> Vec<Goal> {
    let takes = Duration::from_millis(change_ms);
    let (policy, load) = (BatchPolicy::new(BatchMode::Auto, MAX_BATCH, SLO), QueueLoad::unknown(1));
    // The curve has sizes, so there is a model of it.
    let fresh = CURVE.cost(MAX_BATCH).unwrap_or_else(|| unreachable!());
    let n = policy.choose(&fresh, &load).n;
    let mut change = SizeChange::new(takes);
    let mut cost = if change.needs_one_size(&fresh, n) { fresh.at_one_size(n) } else { fresh };
    let arrivals = ArrivalPattern::steady(rate).arrivals(SECONDS, 1);
    let (mut now, mut head, mut before, mut latencies) = (0.0_f64, 0, 0, Vec::new());
    while head < arrivals.len() {
        now = now.max(arrivals[head]);
        let waiting = arrivals[head..].partition_point(|&at| at <= now).min(n as usize);
        let rows = u32::try_from(waiting).unwrap_or(n);
        let size = change.size(&cost, rows, n);
        let extra = if size == before { Duration::ZERO } else { takes };
        before = size;
        let took = Duration::from_secs_f64(CURVE.seconds(size)) + extra;
        cost.observe(size, change.without(size, 1, took));
        now += took.as_secs_f64();
        latencies.extend(arrivals[head..head + waiting].iter().map(|at| now - at));
        head += waiting;
    }
    latencies.sort_by(f64::total_cmp);
    let p99 = latencies[latencies.len() * 99 / 100] / CURVE.seconds(n);
    let announced = cost.rate(n) * CURVE.seconds(n) / f64::from(n);
    let name = |what: &str| format!("a change of size takes {change_ms} ms, {rate}/s: {what}");
    vec![
        Goal::at_most(name("p99 / L(N)"), 3.0, p99),
        Goal::at_most(name("gain"), 1.5, cost.gain()),
        Goal::at_least(name("capacity / truth"), 0.7, announced),
    ]
}
