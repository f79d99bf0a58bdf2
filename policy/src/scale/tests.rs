use proptest::prelude::*;

use super::*;

const SLO: Duration = Duration::from_millis(100);
const COLD: Duration = Duration::from_mins(1);
/// μ: requests per second of one worker.
const MU: f64 = 100.0;

/// Seconds between two decisions.
const TICK: f64 = 2.5;

/// A fleet that is observed at every decision, and whose workers start immediately.
struct Fleet {
    policy: ScalePolicy,
    scaler: Scaler,
    seen: Observation,
}

impl Fleet {
    fn new(workers: u32) -> Self {
        let counts = RequestCounts::default();
        let seen =
            Observation { counts, waiting: 0, ready: workers, ordered: workers, cold_start: COLD };
        let policy = ScalePolicy::new(1, 24, SLO);
        let mut fleet = Self { policy, scaler: Scaler::default(), seen };
        fleet.decide(Duration::ZERO);
        fleet
    }

    fn decide(&mut self, now: Duration) -> ScaleDecision {
        let decision = self.scaler.decide(&self.policy, now, &self.seen, |_| MU);
        self.seen.ordered = decision.replicas;
        self.seen.ready = decision.replicas;
        decision
    }

    /// Decides for some seconds at `rate` requests per second, of which `missed` are missed. Returns
    /// the last decision.
    fn run(&mut self, seconds: f64, rate: u64, missed: u64) -> ScaleDecision {
        assert_eq!(self.policy.tick, Duration::from_secs_f64(TICK));
        let (since, mut ticks) = (self.seen.counts, 0);
        let end = since.at + Duration::from_secs_f64(seconds);
        loop {
            ticks += 1;
            let counts = &mut self.seen.counts;
            counts.at += self.policy.tick;
            counts.offered = since.offered + ticks * rate * 5 / 2;
            counts.missed = since.missed + ticks * missed * 5 / 2;
            let decision = self.decide(self.seen.counts.at);
            if self.seen.counts.at >= end {
                return decision;
            }
        }
    }
}

#[test]
fn the_offered_rate_determines_the_number_of_workers() {
    // 1000 / (0.88 · 100) = 11.4.
    let decision = Fleet::new(1).run(50.0, 1000, 0);
    assert_eq!((decision.replicas, decision.bound), (12, ScaleBound::Load));
    assert_eq!(decision.offered, Some(1000.0));
}

#[test]
fn a_step_of_the_rate_counts_at_once_less_one_standard_deviation() {
    let mut fleet = Fleet::new(2);
    fleet.run(100.0, 100, 0);
    let decision = fleet.run(5.0, 1000, 0);
    // 1000 − √200 = 985.9.
    assert!((decision.offered.unwrap() - 985.86).abs() < 0.01);
    assert_eq!((decision.replicas, decision.bound), (12, ScaleBound::Load));
}

#[test]
fn a_backlog_is_drained_within_a_cold_start() {
    let mut fleet = Fleet::new(12);
    fleet.run(100.0, 1000, 0);
    // 50 requests always wait for a batch. 12,000 more in 60 s are 200 per second: 1200 / 88 =
    // 13.6.
    fleet.seen.waiting = 12_050;
    let decision = fleet.run(TICK, 1000, 0);
    assert_eq!((decision.replicas, decision.bound), (14, ScaleBound::Backlog));
    // The workers are kept for 70 s after the backlog is gone.
    fleet.seen.waiting = 0;
    assert_eq!(fleet.run(70.0, 1000, 0).bound, ScaleBound::Hold);
    assert_eq!(fleet.run(TICK, 1000, 0).replicas, 12);
}

#[test]
fn workers_are_kept_for_five_minutes_after_they_were_needed() {
    let mut fleet = Fleet::new(12);
    fleet.run(300.0, 1000, 0);
    let decision = fleet.run(300.0, 100, 0);
    assert_eq!((decision.replicas, decision.wanted, decision.bound), (12, 2, ScaleBound::Hold));
    assert_eq!(fleet.run(40.0, 100, 0).replicas, 2);
}

#[test]
fn a_controller_that_has_just_started_removes_no_workers() {
    let decision = Fleet::new(12).run(295.0, 100, 0);
    assert_eq!((decision.replicas, decision.bound), (12, ScaleBound::Hold));
}

#[test]
fn the_number_stays_within_its_bounds_and_reports_them() {
    let decision = Fleet::new(1).run(50.0, 1_000_000, 0);
    assert_eq!((decision.replicas, decision.bound), (24, ScaleBound::Max));
    let mut fleet = Fleet::new(3);
    fleet.policy.min = 3;
    assert_eq!(fleet.run(500.0, 1, 0).bound, ScaleBound::Min);
}

#[test]
fn a_minimum_of_zero_allows_no_workers_without_load_and_one_with_any() {
    let mut fleet = Fleet::new(1);
    fleet.policy.min = 0;
    assert_eq!(fleet.run(500.0, 0, 0).replicas, 0);
    assert_eq!(fleet.run(TICK, 1, 0).replicas, 1);
}

#[test]
fn stale_observations_change_nothing() {
    let mut fleet = Fleet::new(12);
    fleet.run(300.0, 1000, 0);
    let later = fleet.seen.counts.at + Duration::from_mins(15);
    let decision = fleet.decide(later);
    assert_eq!((decision.replicas, decision.bound), (12, ScaleBound::Stale));
    // The first observation after a gap gives no rate: the requests in between are unknown.
    fleet.seen.counts.at = later;
    assert_eq!(fleet.decide(later).bound, ScaleBound::Unknown);
    assert_eq!(fleet.run(TICK, 2000, 0).replicas, 23);
}

#[test]
fn a_counter_reset_is_not_a_rate() {
    let mut fleet = Fleet::new(12);
    fleet.run(300.0, 1000, 0);
    fleet.seen.counts.offered = 0;
    assert_eq!(fleet.run(TICK, 0, 0).bound, ScaleBound::Unknown);
}

#[test]
fn trust_falls_while_a_fleet_misses_requests_and_recovers_afterwards() {
    let mut fleet = Fleet::new(12);
    fleet.run(100.0, 1000, 0);
    let decision = fleet.run(20.0, 1000, 50);
    assert!(decision.trust < 1.0 && decision.replicas > 12, "{decision:?}");
    let distrusted = fleet.run(500.0, 1000, 50);
    assert_eq!((distrusted.trust, distrusted.replicas), (0.6, 19));
    let trusted = fleet.run(7000.0, 1000, 0);
    assert_eq!((trusted.trust, trusted.replicas), (1.0, 12));
}

#[test]
fn workers_are_ordered_for_the_rate_that_a_trend_leads_to() {
    let mut fleet = Fleet::new(5);
    fleet.policy.trend = true;
    fleet.run(100.0, 400, 0);
    // The rate over 30 s is 450: 700 + 250 / 12.5 · 20 s = 1100.
    let decision = fleet.run(5.0, 700, 0);
    assert!((decision.offered.unwrap() - 1100.0).abs() < 1e-6, "{decision:?}");
}

proptest! {
    #[test]
    fn the_number_is_within_its_bounds_and_covers_the_load_for_any_load(
        rates in prop::collection::vec(0_u64..4000, 1..100),
        missed in 0_u64..100,
        waiting in 0_u64..100_000,
        min in 0_u32..5,
    ) {
        let mut fleet = Fleet::new(3);
        fleet.policy.min = min;
        fleet.seen.waiting = waiting;
        for rate in rates {
            let decision = fleet.run(TICK, rate, missed);
            prop_assert!((min..=24).contains(&decision.replicas));
            prop_assert!((0.6..=1.0).contains(&decision.trust));
            if let Some(offered) = decision.offered && decision.bound != ScaleBound::Max {
                prop_assert!(0.88 * f64::from(decision.replicas) * MU >= offered);
            }
        }
    }
}
