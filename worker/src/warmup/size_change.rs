//! Measures how much longer a batch takes if the batch before had another size.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::rehearsal::Rehearsal;
use crate::engine::Engine;

/// Changes to measure, if time allows.
const CHANGES: usize = 8;
/// Fewer tell nothing.
const FEWEST: usize = 4;
/// The time for all of them.
const BUDGET: Duration = Duration::from_secs(1);
/// Nothing is measured if a run takes longer.
const LONG: Duration = Duration::from_millis(250);
/// Differences up to this time, or up to this share of a batch's time, are noise.
const NOISE: Duration = Duration::from_micros(500);
const NOISE_SHARE: f64 = 0.1;

/// Alternates between two sizes, and runs each twice. Returns the lower quartile of the differences
/// between the first and the second run, or zero if it may be noise, or if runs are long.
pub(super) fn measure_size_change(
    engine: &mut dyn Engine,
    rehearsal: &dyn Rehearsal,
    sizes: [u32; 2],
) -> Duration {
    let inputs = sizes.map(|rows| (rows, rehearsal.inputs(rows)));
    let mut run = |at: usize| {
        let (rows, inputs) = &inputs[at % 2];
        let began = Instant::now();
        let took = engine.run(inputs.clone(), *rows).is_ok().then(|| began.elapsed());
        took.filter(|took| *took <= LONG)
    };
    let (began, mut differences, mut longest) = (Instant::now(), Vec::new(), Duration::ZERO);
    for at in 0..CHANGES {
        if began.elapsed() > BUDGET {
            break;
        }
        let (Some(first), Some(second)) = (run(at), run(at)) else { return Duration::ZERO };
        differences.push(first.saturating_sub(second));
        longest = longest.max(second);
    }
    if differences.len() < FEWEST {
        return Duration::ZERO;
    }
    differences.sort_unstable();
    let change = differences[differences.len() / 4];
    if change <= NOISE.max(longest.mul_f64(NOISE_SHARE)) {
        return Duration::ZERO;
    }
    info!(model = %engine.spec().queue, ?change, "batches take longer when their size changes");
    change
}
