use proptest::prelude::*;

use super::*;

/// Powers of two up to 512, at so many milliseconds.
fn curve(ms: impl Fn(f64) -> f64) -> CostModel {
    let profile: Vec<_> = (0..10)
        .map(|power| 1_u32 << power)
        .map(|rows| (rows, Duration::from_secs_f64(ms(f64::from(rows)) / 1000.0)))
        .collect();
    CostModel::from_profile(&profile).unwrap()
}

/// L(b) = a + c·b milliseconds.
fn affine(a: f64, c: f64) -> CostModel {
    curve(|rows| a + c * rows)
}

fn auto(slo_ms: u64) -> BatchPolicy {
    BatchPolicy::new(BatchMode::Auto, 512, Duration::from_millis(slo_ms))
}

fn load(workers: u32, rate: f64) -> Demand {
    Demand { rate: Some(rate), ..Demand::unknown(workers) }
}

#[test]
fn n_star_fills_the_latency_target_and_no_more() {
    // L = 8 + 2b. One worker: 0.95 · 100 ms / 2 = 47.5 ms, so 19 rows. Four: 0.8 · 80 ms = 64 ms, 28.
    for (workers, rows) in [(1, 19), (4, 28)] {
        let choice = auto(100).choose(&affine(8.0, 2.0), &Demand::unknown(workers));
        assert_eq!(choice.n_star, Some(rows));
        assert_eq!(choice.bound, Bound::Slo);
    }
    // A fifth of the target is the network's: 64 ms, 51.2 ms, 21 rows.
    let policy = BatchPolicy { overhead: Duration::from_millis(20), ..auto(100) };
    assert_eq!(policy.choose(&affine(8.0, 2.0), &Demand::unknown(4)).n_star, Some(21));
}

#[test]
fn rows_that_bring_nothing_are_not_waited_for() {
    // Milliseconds per row rise: nothing is gained by a second one, whatever the load.
    let magika = [(1, 5160), (8, 43_300), (32, 190_000), (64, 348_000), (128, 739_000)];
    let magika = magika.map(|(rows, us)| (rows, Duration::from_micros(us)));
    let cost = CostModel::from_profile(&magika).unwrap();
    for demand in [Demand::unknown(1), Demand::unknown(4), load(2, 300.0), load(2, 3000.0)] {
        let choice = auto(100).choose(&cost, &demand);
        assert_eq!((choice.n, choice.bound), (1, Bound::NoGain), "{demand:?}");
    }
}

#[test]
fn several_workers_share_the_load_instead_of_one_taking_it_all() {
    // 1,000 a second for four: b = 0.25 · 8 / (1 − 0.5) = 4, times 1.3 + 1.2/4 is 6.4.
    let choice = auto(100).choose(&affine(8.0, 2.0), &load(4, 1000.0));
    assert!((choice.b_eq.unwrap() - 4.0).abs() < 1e-9);
    assert_eq!((choice.n, choice.interval.0, choice.bound), (7, 4, Bound::RateMatched));
    // What waits is shared too.
    let waiting = Demand { waiting: 48, ..load(4, 1000.0) };
    assert_eq!(auto(100).choose(&affine(8.0, 2.0), &waiting).n, 12);
    // One worker has nobody to share with.
    assert!(auto(100).choose(&affine(8.0, 2.0), &load(1, 250.0)).n > 15);
}

#[test]
fn never_exceeds_what_the_model_may_run() {
    let policy = BatchPolicy { max_batch: 100, ..auto(10_000) };
    let choice = policy.choose(&affine(10.0, 0.01), &Demand::unknown(1));
    assert_eq!((choice.n_star, choice.bound), (Some(100), Bound::MaxBatch));
    assert!((96..=100).contains(&choice.n), "{choice:?}");
}

#[test]
fn prefers_throughput_when_the_target_is_out_of_reach_and_says_so() {
    // L = 60 + 10.7b cannot answer in 50 ms: 90 % of the best rate.
    let choice = auto(50).choose(&affine(60.0, 10.7), &Demand::unknown(1));
    assert_eq!((choice.n_star, choice.bound), (None, Bound::SloInfeasible));
    assert!((45..=50).contains(&choice.n), "{choice:?}");
    // One row that just meets it is enough to try.
    let choice = auto(150).choose(&affine(60.0, 10.7), &Demand::unknown(1));
    assert_eq!((choice.n, choice.n_star), (1, Some(1)));
}

#[test]
fn says_when_the_load_is_more_than_the_target_allows() {
    let cost = affine(8.0, 2.0);
    assert!(!auto(100).choose(&cost, &load(4, 1500.0)).overloaded);
    assert!(auto(100).choose(&cost, &load(4, 1800.0)).overloaded);
}

#[test]
fn throughput_goes_first_once_all_are_late() {
    let late = Demand { waiting: 4000, oldest: Duration::from_secs(1), ..load(4, 1800.0) };
    let choice = auto(100).choose(&affine(8.0, 2.0), &late);
    // 90 % of 512 / 1032 ms is reached by 8 · 0.4465 / (1 − 0.893) = 33.4 rows.
    assert_eq!((choice.n, choice.bound), (34, Bound::Backlog));
}

#[test]
fn a_number_by_hand_is_kept_within_bounds_and_a_published_one_goes_first() {
    let cost = affine(8.0, 2.0);
    for (asked, rows) in [(1, 1), (32, 32), (9999, 512)] {
        let fixed = BatchPolicy { mode: BatchMode::Fixed(asked), ..auto(100) };
        let choice = fixed.choose(&cost, &load(4, 100.0));
        assert_eq!((choice.n, choice.bound), (rows, Bound::Fixed));
        let published = BatchPolicy { published: Some(7), ..fixed };
        let choice = published.choose(&cost, &load(4, 100.0));
        assert_eq!((choice.n, choice.bound), (7, Bound::Published));
    }
}

#[test]
fn a_fixed_size_that_waiting_rows_fill_beats_a_larger_one_padded() {
    // 100 ms per 32 rows, whatever is in them.
    let tiles: Vec<_> =
        (1..=4).map(|tiles| (32 * tiles, Duration::from_millis(100 * u64::from(tiles)))).collect();
    let cost = CostModel::from_profile(&tiles).unwrap().with_fixed_sizes();
    let take =
        |waiting, oldest_ms| auto(1000).take(&cost, 128, waiting, Duration::from_millis(oldest_ms));
    assert_eq!([take(33, 0), take(64, 0), take(63, 0), take(500, 0)], [32, 64, 63, 128]);
    // Whoever is left over would be late.
    assert_eq!(take(33, 700), 33);
}

#[test]
fn n_is_a_size_that_the_engine_runs() {
    let cost = affine(8.0, 2.0).with_fixed_sizes();
    for rate in [10.0, 500.0, 1000.0, 1500.0, 5000.0] {
        let n = auto(100).choose(&cost, &load(4, rate)).n;
        assert_eq!(cost.padded(n), n, "{rate} a second");
    }
}

#[test]
fn reads_auto_or_a_number_of_rows() {
    assert_eq!("auto".parse(), Ok(BatchMode::Auto));
    assert_eq!("32".parse(), Ok(BatchMode::Fixed(32)));
    assert!("0".parse::<BatchMode>().is_err());
    assert!("many".parse::<BatchMode>().is_err());
}

proptest! {
    #[test]
    fn n_is_within_its_bounds_and_costs_at_most_3_percent_of_the_best_rate(
        steps in prop::collection::vec(0_u64..200_000, 1..10),
        max_batch in 1_u32..600,
        slo_ms in 1_u64..2000,
        workers in 0_u32..10,
    ) {
        let mut total = 1000;
        let profile: Vec<_> = steps.iter().enumerate().map(|(power, step)| {
            total += step;
            (1 << power, Duration::from_micros(total))
        }).collect();
        let cost = CostModel::from_profile(&profile).unwrap();
        let policy = BatchPolicy { max_batch, ..auto(slo_ms) };
        let choice = policy.choose(&cost, &Demand::unknown(workers));
        prop_assert!((1..=max_batch).contains(&choice.n));
        prop_assert!(choice.interval.0 <= choice.interval.1);
        if let Some(n_star) = choice.n_star {
            prop_assert!(choice.n <= n_star);
            prop_assert!(cost.latency(n_star) <= policy.slo);
            let best = (1..=n_star).map(|rows| cost.rate(rows)).fold(0.0, f64::max);
            prop_assert!(cost.rate(choice.n) >= 0.97 * best * (1.0 - 1e-9));
        }
    }

    #[test]
    fn noise_in_the_profile_does_not_make_a_flat_curve_worth_batching(
        noise in prop::collection::vec(-0.03_f64..0.03, 5),
        workers in 1_u32..9,
        slo_ms in 20_u64..5000,
    ) {
        let magika = [(1, 5.16), (8, 43.3), (32, 190.0), (64, 348.0), (128, 739.0)];
        let profile: Vec<_> = magika.iter().zip(noise).map(|(&(rows, ms), noise)| {
            (rows, Duration::from_secs_f64(ms / 1e3 * (1.0 + noise)))
        }).collect();
        let cost = CostModel::from_profile(&profile).unwrap();
        let choice = auto(slo_ms).choose(&cost, &Demand::unknown(workers));
        prop_assert_eq!(choice.n, 1, "{:?}", choice);
    }

    #[test]
    fn n_never_falls_when_the_load_rises(
        a in 1.0_f64..20.0, c in 0.1_f64..3.0, workers in 2_u32..9, rate in 1.0_f64..5000.0,
    ) {
        let n = |rate| auto(100).choose(&affine(a, c), &load(workers, rate)).n;
        prop_assert!(n(rate) <= n(rate * 1.1));
    }
}
