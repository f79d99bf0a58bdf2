use batchfleet_broker::QueueName;
use serde_json::{Value, json};

use super::*;
use crate::{
    meter::{CountsAt, Reading},
    sample,
};

/// Returns the smallest valid spec, extended by `changes`.
fn spec(changes: &Value) -> ModelFleetSpec {
    let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
    let mut spec = json!({"model": {"source": source}});
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

fn worker(id: u128, slower: f64) -> ObservedWorker {
    ObservedWorker::live(sample::measured(id, QueueName::new("m", 1), slower))
}

/// A fleet under load, with a decision every tick.
struct LoadedFleet {
    memory: ScaleMemory,
    spec: ModelFleetSpec,
    now: Duration,
    offered: u64,
    input: FleetInput,
}

impl LoadedFleet {
    fn new(changes: &Value, ordered: u32) -> Self {
        let workers = (0..ordered.max(1)).map(|id| worker(id.into(), 1.0)).collect();
        let input = FleetInput {
            reading: None,
            waiting: 0,
            workers,
            ready: ordered,
            ordered,
            cold_start: None,
            is_new: false,
            redis_error: None,
        };
        let (spec, now) = (spec(changes), Duration::from_secs(100));
        Self { memory: ScaleMemory::default(), spec, now, offered: 1_000, input }
    }

    /// Returns the decision after some seconds with `rate` requests per second.
    fn under(&mut self, rate: u64, seconds: u64) -> Decision {
        let (began, before) = (self.now, self.offered);
        loop {
            self.now += TICK;
            let lasted = self.now.saturating_sub(began);
            self.offered = before + rate * u64::try_from(lasted.as_millis()).unwrap() / 1_000;
            let counts = CountsAt { at: self.now, offered: self.offered, missed: 0 };
            self.input.reading = Some(Reading { counts, rows_per_request: 1.0, p99: Some(0.05) });
            let decision = self.decide();
            if lasted >= Duration::from_secs(seconds) {
                return decision;
            }
        }
    }

    /// Returns the decision after some seconds without a traffic report.
    fn without_reports(&mut self, seconds: u64) -> Decision {
        self.now += Duration::from_secs(seconds);
        self.input.reading = None;
        self.decide()
    }

    fn decide(&mut self) -> Decision {
        let decision = self.memory.decide(&self.spec, self.now, &self.input);
        self.input.ordered = decision.size.floor;
        self.input.ready = decision.size.floor;
        decision
    }
}

#[test]
fn the_load_decides_the_size_and_the_explanation_says_so() {
    let mut fleet = LoadedFleet::new(&json!({"scaling": {"max": 24}}), 1);
    let decision = fleet.under(1_500, 35);
    // Each of 4 workers serves 28 rows in 64 ms: 4 · 437 · 0.88 = 1,540 rows per second.
    assert_eq!((decision.size.floor, decision.reason), (4, Reason::Scaled(ScaleBound::Load)));
    assert!(
        decision.explanation.starts_with("4 workers: 1500 rows per second are offered"),
        "{}",
        decision.explanation
    );
}

#[test]
fn a_pod_with_two_instances_of_the_model_counts_for_both() {
    let mut fleet = LoadedFleet::new(&json!({"scaling": {"max": 24}}), 1);
    fleet.input.workers = (0..4_u32)
        .map(|id| {
            let mut worker = worker(id.into(), 1.0);
            worker.announcement.host = format!("pod-{}", id / 2);
            worker
        })
        .collect();
    let decision = fleet.under(1_500, 35);
    assert_eq!((decision.size.floor, decision.reason), (2, Reason::Scaled(ScaleBound::Load)));
}

#[test]
fn capacity_in_rows_is_compared_with_requests_times_their_rows() {
    let mut fleet = LoadedFleet::new(&json!({"scaling": {"max": 24}}), 1);
    fleet.under(1_500, 35);
    fleet.now += Duration::from_secs(5);
    fleet.offered += 7_500;
    let counts = CountsAt { at: fleet.now, offered: fleet.offered, missed: 0 };
    fleet.input.reading = Some(Reading { counts, rows_per_request: 2.0, p99: None });
    let decision = fleet.decide();
    assert!((decision.offered.unwrap() - 3_000.0).abs() < 1.0);
    assert_eq!(decision.size.floor, 8);
}

#[test]
fn a_load_beyond_the_bounds_is_the_reason() {
    let mut fleet = LoadedFleet::new(&json!({"scaling": {"min": 2, "max": 3}}), 2);
    let most = fleet.under(9_000, 35);
    assert_eq!((most.size.floor, most.reason), (3, Reason::Scaled(ScaleBound::Max)));
    let mut fleet = LoadedFleet::new(&json!({"scaling": {"min": 2, "max": 3}}), 2);
    let least = fleet.under(1, 450);
    assert_eq!((least.size.floor, least.reason), (2, Reason::Scaled(ScaleBound::Min)));
}

#[test]
fn no_worker_is_removed_while_no_gateway_reports() {
    let mut fleet = LoadedFleet::new(&json!({"scaling": {"max": 24, "holdSeconds": 0}}), 1);
    assert_eq!(fleet.under(1_500, 35).size.floor, 4);
    let decision = fleet.without_reports(1000);
    assert_eq!((decision.size.floor, decision.reason), (4, Reason::Scaled(ScaleBound::Stale)));
}

#[test]
fn no_worker_is_removed_while_no_batch_times_are_announced() {
    let mut fleet = LoadedFleet::new(&json!({}), 4);
    fleet.input.workers.clear();
    let decision = fleet.under(1, 450);
    assert_eq!((decision.size.floor, decision.reason, decision.n), (4, Reason::NoSpeed, None));
}

#[test]
fn a_fixed_number_of_workers_stays() {
    let mut fleet = LoadedFleet::new(&json!({"replicas": 7}), 1);
    let decision = fleet.under(1, 15);
    assert_eq!((decision.size.floor, decision.reason), (7, Reason::Pinned));
    assert_eq!(decision.explanation, "7 workers: set by spec.replicas");
}

#[test]
fn the_last_worker_stops_after_an_idle_time_and_starts_at_the_next_request() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 600}});
    let mut fleet = LoadedFleet::new(&scaling, 1);
    assert_eq!(fleet.under(10, 40).size.floor, 1);
    assert_eq!(fleet.under(0, 595).size.floor, 1);
    assert_eq!(fleet.under(0, 10).size.floor, 0);
    // The worker has stopped, but its capacity is remembered.
    fleet.input.workers[0].live = false;
    assert_eq!(fleet.under(0, 5).explanation, "0 workers: no requests");
    assert_eq!(fleet.under(1, 5).size.floor, 1);
}

#[test]
fn the_hold_time_does_not_delay_scaling_to_zero() {
    let scaling =
        json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 60, "holdSeconds": 3600}});
    let mut fleet = LoadedFleet::new(&scaling, 1);
    assert_eq!(fleet.under(2000, 60).size.floor, 6);
    assert_eq!(fleet.under(0, 55).size.floor, 6);
    let empty = fleet.under(0, 10);
    assert_eq!((empty.size.floor, empty.explanation.as_str()), (0, "0 workers: no requests"));
}

#[test]
fn a_starting_controller_does_not_start_workers_of_a_fleet_at_zero() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 600}});
    let mut fleet = LoadedFleet::new(&scaling, 0);
    fleet.input.workers.clear();
    assert_eq!(fleet.under(0, 15).size.floor, 0);
    assert_eq!(fleet.under(2, 5).size.floor, 1);
}

#[test]
fn capacity_follows_the_slowest_living_worker() {
    let mut fleet = LoadedFleet::new(&json!({}), 2);
    fleet.input.workers =
        vec![worker(1, 1.0), worker(2, 2.0), ObservedWorker { live: false, ..worker(3, 4.0) }];
    let mut alone = LoadedFleet::new(&json!({}), 2);
    alone.input.workers = vec![worker(1, 2.0), worker(2, 2.0)];
    assert_eq!(fleet.under(10, 15).capacity, alone.under(10, 15).capacity);
}

#[test]
fn the_autoscaler_adds_workers_when_more_waits_than_two_targets_of_work() {
    let mut fleet = LoadedFleet::new(&json!({}), 1);
    // A worker serves 421 rows per second, so 84 rows in 0.2 s: 128 as a power of two.
    assert_eq!(fleet.under(10, 15).size.depth_per_worker, 128);
}

#[test]
fn the_wish_has_the_target_and_n_only_in_mode_fixed() {
    let wish_of = |changes| wish(&spec(&changes));
    assert_eq!(wish_of(json!({})), Wish { batch: BatchWish::Auto, slo_ms: Some(100.0) });
    let fixed = json!({"batch": {"mode": "fixed", "rows": 8}, "slo": {"p99Ms": 20}});
    assert_eq!(wish_of(fixed), Wish { batch: BatchWish::Rows(8), slo_ms: Some(20.0) });
}

#[test]
fn a_target_that_no_batch_meets_is_infeasible() {
    let mut fleet = LoadedFleet::new(&json!({}), 1);
    assert!(!fleet.under(10, 15).is_infeasible);
    fleet.input.workers = vec![worker(1, 20.0)];
    let decision = fleet.under(10, 15);
    assert!(decision.is_infeasible && !decision.size.may_grow);
    assert!(
        decision.explanation.contains(", although not one of them within 100 ms"),
        "{decision:?}"
    );
}

#[test]
fn figures_are_rounded_to_two_digits() {
    for (number, expected) in
        [(1_487.3, 1_500.0), (0.0, 0.0), (98.7, 99.0), (0.123, 0.12), (7.0, 7.0)]
    {
        assert!((explain::rounded(number) - expected).abs() < 1e-12, "{number}");
    }
}

#[test]
fn a_new_model_gets_a_worker_so_that_gateways_learn_it() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 600}});
    let mut fleet = LoadedFleet::new(&scaling, 0);
    fleet.input.workers.clear();
    fleet.input.is_new = true;
    let decision = fleet.without_reports(5);
    assert_eq!((decision.size.floor, decision.reason), (1, Reason::NoSpeed));
}

#[test]
fn a_worker_is_promised_while_one_will_start_or_should_have_started() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 600}});
    let mut fleet = LoadedFleet::new(&scaling, 0);
    fleet.input.workers[0].live = false;
    fleet.input.cold_start = Some(Duration::from_secs(30));
    assert!(fleet.under(0, 15).promises);
    // The worker is ordered but does not start.
    assert!(fleet.under(2, 5).promises);
    fleet.input.ready = 0;
    assert!(fleet.under(2, 80).promises);
    assert!(!fleet.under(2, 15).promises);
    // The last worker is still alive, but will stop.
    let mut fleet = LoadedFleet::new(&scaling, 1);
    assert!(!fleet.under(0, 595).promises);
    assert!(fleet.under(0, 10).promises);
    // No worker is promised while workers are ordered, whether or not they are alive.
    let mut fleet = LoadedFleet::new(&scaling, 2);
    assert!(!fleet.under(2, 15).promises);
    fleet.input.workers.iter_mut().for_each(|worker| worker.live = false);
    assert!(!fleet.under(2, 5).promises);
}

#[test]
fn a_worker_is_promised_to_an_external_fleet_for_as_long_as_its_start_may_take() {
    let scaling =
        json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 600, "mode": "external"}});
    let mut fleet = LoadedFleet::new(&scaling, 0);
    fleet.input.workers[0].live = false;
    fleet.input.cold_start = Some(Duration::from_secs(30));
    assert!(fleet.under(0, 15).promises);
    // A request arrives, but the other autoscaler starts no worker.
    let mut waited = Duration::ZERO;
    while waited < Duration::from_secs(200) {
        let decision = fleet.under(2, 1);
        assert_eq!(decision.size.floor, 1);
        fleet.input.ordered = 0;
        fleet.input.ready = 0;
        waited += TICK;
        if !decision.promises {
            break;
        }
    }
    // Three times the cold start of 30 s.
    assert_eq!(waited, Duration::from_secs(90));
}
