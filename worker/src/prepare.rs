//! Makes a loaded model ready to serve: warms it up, checks what it computes, and plans how it is
//! served.

use std::{num::NonZeroU32, sync::Arc};

use batchfleet_policy::{BatchMode, BatchPolicy, QueueLoad};
use batchfleet_service::{InvalidSettings, trace::Tracer};
use tracing::{info, warn};

use crate::{
    engine::Engine,
    error::WorkerError,
    golden::GoldenCheck,
    labels,
    plan::ServingPlan,
    repository::ModelSource,
    settings::ModelSettings,
    warmup::{Climb, Profile, warm_up},
};

/// `--max-batch-time` must be at least this multiple of the longest expected batch time, because
/// batches take longer on a busy machine.
const WATCHDOG_MARGIN: u32 = 3;

/// Warms up the engine, and makes the plan from the measured batch times.
pub(crate) fn plan(
    settings: &ModelSettings,
    source: &ModelSource,
    engine: &mut dyn Engine,
) -> Result<ServingPlan, WorkerError> {
    let sizes = settings.batch_sizes.iter().map(|rows| rows.get()).collect();
    let climb = match settings.batch {
        BatchMode::Auto => Climb { sizes, up_to: u32::MAX, patience: Some(settings.slo_p99 * 2) },
        // A fixed N takes precedence over the latency target.
        BatchMode::Fixed(rows) => Climb { sizes, up_to: rows, patience: None },
    };
    let model = source.queue.clone();
    let mut golden = GoldenCheck::new(engine.spec(), &source.config.warmup);
    let Profile { cost, usable } = warm_up(engine, &mut golden, &climb)
        .map_err(|error| WorkerError::WarmUp { model: model.clone(), error })?;
    let checked = source.config.parameters.get("golden_check").is_none_or(|check| check != "off");
    if let Some(mismatch) = golden.mismatch().filter(|_| checked) {
        return Err(WorkerError::Golden { model, mismatch });
    }
    let policy = BatchPolicy::new(settings.batch, usable, settings.slo_p99);
    let limit = policy.choose(&cost, &QueueLoad::unknown(1)).n;
    let provider = engine.provider();
    info!(%model, provider, limit, "loaded and warmed up");
    let mut spec = engine.spec().clone();
    if cost.has_fixed_sizes() {
        let largest = NonZeroU32::new(cost.largest());
        spec.max_batch = spec.max_batch.min(largest);
    }
    let plan = ServingPlan {
        spec: Arc::new(spec),
        provider,
        labels: Arc::new(labels::read(source)?),
        cost,
        policy,
        linger: source.config.linger.unwrap_or(settings.linger),
        max_batch_time: settings.max_batch_time,
        tracer: Tracer::default(),
    };
    check_watchdog(&plan, limit)?;
    Ok(plan)
}

/// Rejects settings with which the watchdog would mistake a slow batch for a hang.
fn check_watchdog(plan: &ServingPlan, limit: u32) -> Result<(), InvalidSettings> {
    let (model, max_batch_time) = (&plan.spec.queue, plan.max_batch_time);
    let takes = plan.cost.latency(limit);
    if takes >= max_batch_time {
        return Err(InvalidSettings::new(format_args!(
            "model {model} takes {takes:?} for a batch of {limit} rows, which --max-batch-time \
             {max_batch_time:?} takes for a hang: raise it to {:?} or more",
            takes * WATCHDOG_MARGIN
        )));
    }
    // N may rise to the largest size that the warm-up found usable.
    let largest = plan.policy.max_batch;
    let longest = plan.cost.latency(largest);
    if longest * WATCHDOG_MARGIN > max_batch_time {
        warn!(
            %model, largest, ?longest, ?max_batch_time,
            "--max-batch-time may take the largest batch for a hang"
        );
    }
    Ok(())
}
