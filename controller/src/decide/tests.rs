use batchfleet_broker::QueueName;
use serde_json::{Value, json};

use super::*;
use crate::{meter::CountsAt, sample};

/// A spec with these changes.
fn spec(changes: &Value) -> ModelFleetSpec {
    let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
    let mut spec = json!({"model": {"source": source}});
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

fn word(worker: u128, slower: f64) -> ObservedWorker {
    ObservedWorker::live(sample::measured(worker, QueueName::new("m", 1), slower))
}

/// A fleet under a load, looked at every tick.
struct Fleet {
    memory: Memory,
    spec: ModelFleetSpec,
    now: Duration,
    offered: u64,
    seen: Seen,
}

impl Fleet {
    fn new(changes: &Value, ordered: u32) -> Self {
        let words = (0..ordered.max(1)).map(|worker| word(worker.into(), 1.0)).collect();
        let seen = Seen {
            reading: None,
            waiting: 0,
            words,
            ready: ordered,
            ordered,
            cold_start: None,
            is_new: false,
        };
        let (spec, now) = (spec(changes), Duration::from_secs(100));
        Self { memory: Memory::default(), spec, now, offered: 1_000, seen }
    }

    /// The decision after so many ticks of `rate` requests per second.
    fn under(&mut self, rate: u64, ticks: u32) -> Decision {
        let mut decision = None;
        for _ in 0..ticks {
            self.now += TICK;
            self.offered += rate * TICK.as_secs();
            let counts = CountsAt { at: self.now, offered: self.offered, missed: 0 };
            self.seen.reading = Some(Reading { counts, rows_per_request: 1.0, p99: Some(0.05) });
            decision = Some(self.decide());
        }
        decision.unwrap()
    }

    /// The decision after so many ticks in which no gateway says anything.
    fn in_silence(&mut self, ticks: u32) -> Decision {
        self.now += TICK * ticks;
        self.seen.reading = None;
        self.decide()
    }

    fn decide(&mut self) -> Decision {
        let decision = self.memory.decide(&self.spec, self.now, &self.seen);
        self.seen.ordered = decision.plan.floor;
        self.seen.ready = decision.plan.floor;
        decision
    }
}

#[test]
fn a_fleet_is_as_large_as_its_load_needs_and_says_why() {
    let mut fleet = Fleet::new(&json!({"scaling": {"max": 24}}), 1);
    let decision = fleet.under(1_500, 7);
    // Of four each does 28 rows in 64 ms: 4 · 437 · 0.88 = 1,540.
    assert_eq!((decision.plan.floor, decision.reason), (4, Reason::Scaled(ScaleBound::Load)));
    assert!(
        decision.explanation.starts_with("4 workers: 1500 rows a second are asked for"),
        "{}",
        decision.explanation
    );
}

#[test]
fn rows_are_what_workers_can_do_and_requests_what_gateways_count() {
    let mut fleet = Fleet::new(&json!({"scaling": {"max": 24}}), 1);
    fleet.under(1_500, 7);
    fleet.now += TICK;
    fleet.offered += 7_500;
    let counts = CountsAt { at: fleet.now, offered: fleet.offered, missed: 0 };
    fleet.seen.reading = Some(Reading { counts, rows_per_request: 2.0, p99: None });
    let decision = fleet.decide();
    assert!((decision.offered.unwrap() - 3_000.0).abs() < 1.0);
    assert_eq!(decision.plan.floor, 8);
}

#[test]
fn the_load_beyond_the_bounds_is_told() {
    let mut fleet = Fleet::new(&json!({"scaling": {"min": 2, "max": 3}}), 2);
    let most = fleet.under(9_000, 7);
    assert_eq!((most.plan.floor, most.reason), (3, Reason::Scaled(ScaleBound::Max)));
    let mut fleet = Fleet::new(&json!({"scaling": {"min": 2, "max": 3}}), 2);
    let least = fleet.under(1, 90);
    assert_eq!((least.plan.floor, least.reason), (2, Reason::Scaled(ScaleBound::Min)));
}

#[test]
fn nobody_goes_while_nobody_says_what_is_asked() {
    let mut fleet = Fleet::new(&json!({"scaling": {"max": 24, "holdSeconds": 0}}), 1);
    assert_eq!(fleet.under(1_500, 7).plan.floor, 4);
    let decision = fleet.in_silence(200);
    assert_eq!((decision.plan.floor, decision.reason), (4, Reason::Scaled(ScaleBound::Stale)));
}

#[test]
fn nobody_goes_while_no_worker_says_how_fast_it_is() {
    let mut fleet = Fleet::new(&json!({}), 4);
    fleet.seen.words.clear();
    let decision = fleet.under(1, 90);
    assert_eq!((decision.plan.floor, decision.reason, decision.n), (4, Reason::NoSpeed, None));
}

#[test]
fn a_fleet_of_a_fixed_size_keeps_it() {
    let mut fleet = Fleet::new(&json!({"replicas": 7}), 1);
    let decision = fleet.under(1, 3);
    assert_eq!((decision.plan.floor, decision.reason), (7, Reason::Pinned));
    assert_eq!(decision.explanation, "7 workers: spec.replicas says so");
}

#[test]
fn the_last_worker_goes_when_nobody_has_asked_for_long_and_comes_when_somebody_does() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 600}});
    let mut fleet = Fleet::new(&scaling, 1);
    assert_eq!(fleet.under(10, 8).plan.floor, 1);
    assert_eq!(fleet.under(0, 119).plan.floor, 1);
    assert_eq!(fleet.under(0, 2).plan.floor, 0);
    // Its worker is gone, but what it could do is remembered.
    fleet.seen.words[0].live = false;
    assert_eq!(fleet.under(0, 1).explanation, "0 workers: nobody asks for it");
    assert_eq!(fleet.under(1, 1).plan.floor, 1);
}

#[test]
fn the_last_worker_goes_in_time_however_long_others_are_held() {
    let scaling =
        json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 60, "holdSeconds": 3600}});
    let mut fleet = Fleet::new(&scaling, 1);
    assert_eq!(fleet.under(2000, 12).plan.floor, 6);
    assert_eq!(fleet.under(0, 11).plan.floor, 6);
    let empty = fleet.under(0, 2);
    assert_eq!(
        (empty.plan.floor, empty.explanation.as_str()),
        (0, "0 workers: nobody asks for it")
    );
}

#[test]
fn a_controller_that_starts_does_not_wake_a_fleet_that_sleeps() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 600}});
    let mut fleet = Fleet::new(&scaling, 0);
    fleet.seen.words.clear();
    assert_eq!(fleet.under(0, 3).plan.floor, 0);
    assert_eq!(fleet.under(2, 1).plan.floor, 1);
}

#[test]
fn capacity_is_planned_by_the_slowest_that_lives() {
    let mut fleet = Fleet::new(&json!({}), 2);
    fleet.seen.words =
        vec![word(1, 1.0), word(2, 2.0), ObservedWorker { live: false, ..word(3, 4.0) }];
    let mut alone = Fleet::new(&json!({}), 2);
    alone.seen.words = vec![word(1, 2.0), word(2, 2.0)];
    assert_eq!(fleet.under(10, 3).capacity, alone.under(10, 3).capacity);
}

#[test]
fn the_autoscaler_adds_when_more_waits_than_two_targets_worth() {
    let mut fleet = Fleet::new(&json!({}), 1);
    // 421 a second for 0.2 s are 84: 128 as a power of two.
    assert_eq!(fleet.under(10, 3).plan.depth_per_worker, 128);
}

#[test]
fn workers_are_told_the_target_and_n_only_where_it_is_fixed() {
    let told = |changes| wish(&spec(&changes));
    assert_eq!(told(json!({})), Wish { batch: BatchWish::Auto, slo_ms: Some(100.0) });
    let fixed = json!({"batch": {"mode": "fixed", "rows": 8}, "slo": {"p99Ms": 20}});
    assert_eq!(told(fixed), Wish { batch: BatchWish::Rows(8), slo_ms: Some(20.0) });
}

#[test]
fn a_target_that_no_batch_meets_is_told() {
    let mut fleet = Fleet::new(&json!({}), 1);
    assert!(!fleet.under(10, 3).is_infeasible);
    fleet.seen.words = vec![word(1, 20.0)];
    assert!(fleet.under(10, 3).is_infeasible);
}

#[test]
fn what_is_told_has_two_digits() {
    for (number, told) in [(1_487.3, 1_500.0), (0.0, 0.0), (98.7, 99.0), (0.123, 0.12), (7.0, 7.0)]
    {
        assert!((explain::rounded(number) - told).abs() < 1e-12, "{number}");
    }
}

#[test]
fn a_model_that_nobody_knows_gets_a_worker_to_be_known_by() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 600}});
    let mut fleet = Fleet::new(&scaling, 0);
    fleet.seen.words.clear();
    fleet.seen.is_new = true;
    let decision = fleet.in_silence(1);
    assert_eq!((decision.plan.floor, decision.reason), (1, Reason::NoSpeed));
}

#[test]
fn callers_may_wait_for_a_worker_while_one_will_start_or_should_have_started() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 600}});
    let mut fleet = Fleet::new(&scaling, 0);
    fleet.seen.words[0].live = false;
    fleet.seen.cold_start = Some(Duration::from_secs(30));
    assert!(fleet.under(0, 3).promises);
    // It is ordered, and does not come.
    assert!(fleet.under(2, 1).promises);
    fleet.seen.ready = 0;
    assert!(fleet.under(2, 16).promises);
    assert!(!fleet.under(2, 3).promises);
    // The last worker still lives, but will go.
    let mut fleet = Fleet::new(&scaling, 1);
    assert!(!fleet.under(0, 119).promises);
    assert!(fleet.under(0, 2).promises);
    // Of a fleet that is there nothing is promised, whether its workers live or not.
    let mut fleet = Fleet::new(&scaling, 2);
    assert!(!fleet.under(2, 3).promises);
    fleet.seen.words.iter_mut().for_each(|word| word.live = false);
    assert!(!fleet.under(2, 1).promises);
}

#[test]
fn nothing_is_promised_of_a_fleet_that_somebody_else_starts() {
    let scaling =
        json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 600, "mode": "external"}});
    let mut fleet = Fleet::new(&scaling, 0);
    fleet.seen.words[0].live = false;
    assert!(!fleet.under(0, 3).promises);
}
