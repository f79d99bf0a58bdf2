//! Goals of the decisions: figures that are measured in simulation, each with a bound.

pub mod batches;
pub mod capacity;
pub mod fleet;
pub mod follow_ups;
mod goal;
pub mod lengths;
mod optimum;
pub mod shards;
pub mod size_change;
pub mod slow;

pub use goal::{Bar, Candidate, Goal, InProcess, MAX_BATCH, SLO};

/// Measures all goals and returns whether all were reached. `report` is called after each goal and
/// returns whether to continue.
pub fn all(mut report: impl FnMut(&Goal) -> bool) -> bool {
    let groups: [fn() -> Vec<Goal>; 16] = [
        || capacity::cases().iter().map(|case| case.goal(&InProcess)).collect(),
        || batches::latency(&InProcess),
        || batches::on_time(&InProcess),
        slow::closed,
        slow::open,
        slow::recovery,
        follow_ups::waits,
        batches::learning,
        lengths::composition,
        lengths::deadlines,
        lengths::capacity,
        size_change::costly,
        shards::spread,
        batches::cost_of_a_decision,
        || fleet::cases().iter().flat_map(|case| case.goals(&InProcess)).collect(),
        || fleet::steadiness(&InProcess),
    ];
    let mut reached = true;
    for goal in groups.into_iter().flat_map(|group| group()) {
        reached &= goal.is_reached();
        if !report(&goal) {
            break;
        }
    }
    reached
}
