//! What the decisions must reach, in simulation. `batchfleet simulate --goals` prints the same.

use batchfleet_simulator::goals::{Goal, InProcess, batches, capacity, fleet};

fn all_reached(goals: &[Goal]) -> bool {
    for goal in goals {
        eprintln!("{goal}");
    }
    !goals.is_empty() && goals.iter().all(Goal::is_reached)
}

#[test]
fn the_target_is_kept_at_95_percent_of_the_load_at_which_the_best_fixed_size_keeps_it() {
    assert!(all_reached(&capacity::cases().map(|case| case.goal(&InProcess))));
}

#[test]
fn batching_costs_nothing_where_it_is_not_needed_and_less_than_taking_all_where_it_is() {
    assert!(all_reached(&batches::latency(&InProcess)));
}

#[test]
fn too_much_load_is_refused_nearly_as_well_as_if_the_future_were_known() {
    assert!(all_reached(&batches::on_time(&InProcess)));
}

#[test]
fn n_is_right_again_20_batches_after_the_model_became_twice_as_slow() {
    assert!(all_reached(&batches::learning()));
}

#[test]
fn choosing_n_takes_less_than_10_microseconds() {
    assert!(all_reached(&batches::cost_of_a_decision()));
}

/// Workers follow this load at a cost near that of knowing the future, and few requests are missed.
fn follows(name: &str) -> bool {
    let case = fleet::cases().into_iter().find(|case| case.name.starts_with(name));
    case.is_some_and(|case| all_reached(&case.goals(&InProcess)))
}

#[test]
fn workers_follow_a_steady_load() {
    assert!(follows("steady"));
}

#[test]
fn workers_follow_a_day() {
    assert!(follows("a day"));
}

#[test]
fn workers_follow_a_ramp() {
    assert!(follows("ramp"));
}

#[test]
fn workers_follow_a_flash_crowd_as_fast_as_a_cold_start_lets_them() {
    assert!(follows("flash"));
}

#[test]
fn workers_follow_a_load_that_goes_on_and_off() {
    assert!(follows("on and off"));
}

#[test]
fn a_steady_load_moves_nothing_and_a_wrong_capacity_is_found_out() {
    assert!(all_reached(&fleet::steadiness(&InProcess)));
}
