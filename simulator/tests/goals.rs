//! Measures the goals of the decisions in simulation, like `batchfleet simulate --goals`.

use batchfleet_simulator::goals::{
    Goal, InProcess, batches, capacity, fleet, follow_ups, lengths, shards, size_change, slow,
};

fn all_reached(goals: &[Goal]) -> bool {
    for goal in goals {
        eprintln!("{goal}");
    }
    !goals.is_empty() && goals.iter().all(Goal::is_reached)
}

#[test]
fn the_capacity_is_at_least_95_percent_of_that_of_the_best_fixed_n() {
    assert!(all_reached(&capacity::cases().map(|case| case.goal(&InProcess))));
}

#[test]
fn latency_is_low_at_low_load_and_better_than_claiming_all_at_70_percent() {
    assert!(all_reached(&batches::latency(&InProcess)));
}

#[test]
fn requests_on_time_under_overload_are_close_to_the_exact_optimum() {
    assert!(all_reached(&batches::on_time(&InProcess)));
}

#[test]
fn models_slower_than_their_target_reach_95_percent_of_the_rate_of_the_best_fixed_n() {
    assert!(all_reached(&slow::closed()));
}

#[test]
fn n_does_not_swing_near_the_capacity_within_the_target_and_returns_after_a_crowd() {
    assert!(all_reached(&slow::open()) && all_reached(&slow::recovery()));
}

#[test]
fn clients_that_wait_for_answers_run_together_and_other_requests_do_not_wait() {
    assert!(all_reached(&follow_ups::waits()));
}

#[test]
fn n_is_right_again_20_batches_after_the_model_became_twice_as_slow() {
    assert!(all_reached(&batches::learning()));
}

#[test]
fn requests_of_different_lengths_run_at_95_percent_of_the_optimum() {
    assert!(all_reached(&lengths::composition()));
}

#[test]
fn padding_makes_no_request_late_that_would_have_been_in_time() {
    assert!(all_reached(&lengths::deadlines()));
}

#[test]
fn workers_announce_what_they_serve_at_any_lengths() {
    assert!(all_reached(&lengths::capacity()));
}

#[test]
fn a_costly_change_of_size_is_avoided_and_not_taken_for_a_slower_model() {
    assert!(all_reached(&size_change::costly()));
}

#[test]
fn several_shards_make_as_large_batches_as_one() {
    assert!(all_reached(&shards::spread()));
}

#[test]
fn choosing_n_takes_less_than_10_microseconds() {
    assert!(all_reached(&batches::cost_of_a_decision()));
}

/// Returns whether scaling under this load reaches its goals for missed requests and worker-hours.
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
fn workers_follow_an_on_off_load() {
    assert!(follows("on and off"));
}

#[test]
fn workers_are_constant_under_a_steady_load_and_a_wrong_capacity_is_corrected() {
    assert!(all_reached(&fleet::steadiness(&InProcess)));
}
