use proptest::prelude::*;

use super::*;

/// Returns a profile of the sizes 1, 2, 4 … 512 with L(b) in milliseconds.
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

fn load(workers: u32, rate: f64) -> QueueLoad {
    QueueLoad { rate: Some(rate), ..QueueLoad::unknown(workers) }
}

#[test]
fn n_star_fills_the_latency_target_and_no_more() {
    // L = 8 + 2b. One worker: 0.95 · 100 ms / 2 = 47.5 ms, so 19 rows. Four workers: 0.8 · 80 ms =
    // 64 ms, so 28 rows.
    for (workers, rows) in [(1, 19), (4, 28)] {
        let choice = auto(100).choose(&affine(8.0, 2.0), &QueueLoad::unknown(workers));
        assert_eq!(choice.n_star, Some(rows));
        assert_eq!(choice.bound, Bound::Slo);
    }
    // 20 ms of the target are overhead: 0.8 · 64 ms = 51.2 ms, so 21 rows.
    let policy = BatchPolicy { overhead: Duration::from_millis(20), ..auto(100) };
    assert_eq!(policy.choose(&affine(8.0, 2.0), &QueueLoad::unknown(4)).n_star, Some(21));
}

#[test]
fn n_is_1_where_batching_gains_nothing() {
    // Milliseconds per row rise with the size.
    let magika = [(1, 5160), (8, 43_300), (32, 190_000), (64, 348_000), (128, 739_000)];
    let magika = magika.map(|(rows, us)| (rows, Duration::from_micros(us)));
    let cost = CostModel::from_profile(&magika).unwrap();
    for load in [QueueLoad::unknown(1), QueueLoad::unknown(4), load(2, 300.0), load(2, 3000.0)] {
        let choice = auto(100).choose(&cost, &load);
        assert_eq!((choice.n, choice.bound), (1, Bound::NoGain), "{load:?}");
    }
}

#[test]
fn a_model_that_runs_one_row_at_a_time_is_not_said_to_gain_nothing() {
    let cost = CostModel::from_profile(&[(1, Duration::from_millis(5))]).unwrap();
    let n = |max_batch| {
        let policy = BatchPolicy { max_batch, ..auto(100) };
        let choice = policy.choose(&cost, &QueueLoad::unknown(1));
        (choice.n, choice.bound)
    };
    assert_eq!(n(1), (1, Bound::MaxBatch));
    assert_eq!(n(64), (1, Bound::Untried));
}

#[test]
fn several_workers_share_the_load() {
    // 1,000 rows per second for four workers: b = 0.25 · 8 / (1 − 0.5) = 4, times 1.3 + 1.2/4 is
    // 6.4.
    let choice = auto(100).choose(&affine(8.0, 2.0), &load(4, 1000.0));
    assert!((choice.b_eq.unwrap() - 4.0).abs() < 1e-9);
    assert_eq!((choice.n, choice.interval.0, choice.bound), (7, 4, Bound::RateMatched));
    // The backlog is also shared: 48 / 4.
    let waiting = QueueLoad { waiting: 48, ..load(4, 1000.0) };
    assert_eq!(auto(100).choose(&affine(8.0, 2.0), &waiting).n, 12);
    // A single worker claims all rows.
    assert!(auto(100).choose(&affine(8.0, 2.0), &load(1, 250.0)).n > 15);
}

#[test]
fn never_exceeds_the_maximum_of_the_model() {
    let policy = BatchPolicy { max_batch: 100, ..auto(10_000) };
    let choice = policy.choose(&affine(10.0, 0.01), &QueueLoad::unknown(1));
    assert_eq!((choice.n_star, choice.bound), (Some(100), Bound::MaxBatch));
    assert!((96..=100).contains(&choice.n), "{choice:?}");
}

#[test]
fn n_is_larger_where_larger_batches_also_save_padding() {
    // The target is kept by up to 23 rows, which run at the rate 0.489.
    let cost = CostModel::from_profile(
        &[1, 64].map(|rows| (rows, Duration::from_millis(1 + 2 * u64::from(rows)))),
    )
    .unwrap();
    let n = |pads, slo| {
        let policy = BatchPolicy { max_batch: 64, pads, ..auto(slo) };
        policy.choose(&cost, &QueueLoad::unknown(1)).n
    };
    assert_eq!((n(false, 100), n(true, 100)), (10, 16));
    // No size keeps the target.
    assert_eq!((n(false, 1), n(true, 1)), (11, 28));
}

#[test]
fn a_model_that_does_not_batch_is_bound_by_its_maximum_whatever_a_row_costs() {
    for row_units in [1.0, 7.5] {
        let policy = BatchPolicy { max_batch: 1, ..auto(10_000) }.in_units(row_units);
        let choice = policy.choose(&affine(1.0, 1.0), &QueueLoad::unknown(1));
        assert_eq!((choice.n, choice.bound), (policy.row, Bound::MaxBatch), "{row_units}");
    }
}

#[test]
fn units_are_counted_wherever_rows_were() {
    // A row of the usual length costs 8 units: two rows take 8 + 2 · 16 = 40 ms of 50.
    let policy = BatchPolicy { max_batch: 64, ..auto(100) }.in_units(8.0);
    assert_eq!((policy.max_batch, policy.row), (512, 8));
    let choice = policy.choose(&affine(8.0, 2.0), &QueueLoad::unknown(1));
    assert!((16..24).contains(&choice.n) && choice.bound == Bound::Slo, "{choice:?}");
    // No row fits into 15 ms, so that throughput takes precedence; N is at least one row.
    let short = BatchPolicy { slo: Duration::from_millis(15), ..policy };
    let choice = short.choose(&affine(8.0, 2.0), &QueueLoad::unknown(1));
    assert_eq!(choice.bound, Bound::SloInfeasible);
    assert!(choice.n >= 8, "{choice:?}");
    let fixed = BatchPolicy { mode: BatchMode::Fixed(3), ..auto(100) }.in_units(2.5);
    assert_eq!(fixed.choose(&affine(8.0, 2.0), &QueueLoad::unknown(1)).n, 8);
}

#[test]
fn prefers_throughput_if_the_target_is_infeasible() {
    // L = 60 + 10.7b misses 50 ms even with one row: 96 % of the best rate of 64 rows.
    let policy = BatchPolicy { max_batch: 64, ..auto(50) };
    let choice = policy.choose(&affine(60.0, 10.7), &QueueLoad::unknown(1));
    assert_eq!((choice.n_star, choice.bound), (None, Bound::SloInfeasible));
    assert!((42..=45).contains(&choice.n), "{choice:?}");
    // One row meets the target, but only without headroom.
    let choice = auto(150).choose(&affine(60.0, 10.7), &QueueLoad::unknown(1));
    assert_eq!((choice.n, choice.n_star), (1, Some(1)));
}

#[test]
fn reports_overload_if_the_load_exceeds_the_capacity_within_the_target() {
    let cost = affine(8.0, 2.0);
    assert!(!auto(100).choose(&cost, &load(4, 1500.0)).overloaded);
    assert!(auto(100).choose(&cost, &load(4, 1800.0)).overloaded);
}

/// The load of `clients`, each of which waits for its answer before it sends the next request.
fn closed(clients: f64, catching_up: bool) -> QueueLoad {
    QueueLoad { standing: clients, catching_up, ..QueueLoad::unknown(1) }
}

#[test]
fn prefers_throughput_while_the_target_is_too_short_for_the_rows_in_the_system() {
    // L = 90 + 10b: five rows keep 300 ms, at 35.7 per second, and answer 6.4 rows in 180 ms while
    // one more runs.
    let cost = affine(90.0, 10.0);
    let policy = BatchPolicy { max_batch: 64, ..auto(300) };
    let n = |load| {
        let choice = policy.choose(&cost, &load);
        (choice.n, choice.bound)
    };
    assert_eq!(n(closed(7.0, false)), (5, Bound::Slo));
    // 96 % of the rate of 64 rows.
    assert_eq!(n(closed(8.0, false)), (48, Bound::Backlog));
    assert_eq!(n(closed(100.0, false)), (48, Bound::Backlog));
    // N comes back at half of the limit.
    assert_eq!(n(closed(5.0, true)), (48, Bound::Backlog));
    assert_eq!(n(closed(4.0, true)), (5, Bound::Slo));
    // Each of two workers claims half of them.
    let two = QueueLoad { workers: 2, ..closed(60.0, false) };
    assert_eq!(n(two), (30, Bound::Backlog));
}

#[test]
fn one_client_is_no_backlog_however_long_its_row_takes() {
    // One row takes 12 ms of 25, which leaves no headroom.
    let policy = BatchPolicy { max_batch: 64, ..auto(25) };
    let bound = |load| policy.choose(&affine(10.0, 2.0), &load).bound;
    for catching_up in [false, true] {
        assert_eq!(bound(closed(1.05, catching_up)), Bound::Slo, "{catching_up}");
    }
    assert_eq!(bound(closed(3.0, false)), Bound::Backlog);
    assert_eq!(bound(QueueLoad { workers: 2, ..closed(2.1, true) }), Bound::Slo);
}

#[test]
fn a_backlog_of_requests_with_a_deadline_is_answered_before_it() {
    let cost = affine(90.0, 10.0);
    let policy = BatchPolicy { max_batch: 64, ..auto(300) };
    for (deadline_ms, rows, bound) in
        [(300, 5, Bound::Slo), (600, 17, Bound::Backlog), (30_000, 48, Bound::Backlog)]
    {
        let allowance = Duration::from_millis(deadline_ms);
        let choice = policy.choose(&cost, &QueueLoad { allowance, ..closed(100.0, false) });
        assert_eq!(choice.bound, bound, "{deadline_ms} ms");
        assert!(choice.n.abs_diff(rows) <= 1, "{deadline_ms} ms: {choice:?}");
    }
}

#[test]
fn stays_far_below_the_time_that_counts_as_hung() {
    let hung_after = Duration::from_secs(10);
    let policy = BatchPolicy { max_batch: 64, hung_after, ..auto(60_000) };
    let n = |a, c| {
        let choice = policy.choose(&affine(a, c), &QueueLoad::unknown(1));
        (choice.n, choice.bound)
    };
    // A third of 10 s allows 28 rows of 500 + 100b, and 24 have nearly their rate.
    assert_eq!(n(500.0, 100.0), (24, Bound::MaxBatchTime));
    // One row takes 6 s, so that a batch may take 7.2 s: 61 rows.
    assert_eq!(n(5980.0, 20.0), (59, Bound::MaxBatchTime));
    // One row takes 9 s: nothing longer is safe.
    assert_eq!(n(8980.0, 20.0).0, 1);
    // The same where the target cannot be kept.
    let hurried = BatchPolicy { slo: Duration::from_millis(100), ..policy };
    assert!(hurried.choose(&affine(500.0, 100.0), &QueueLoad::unknown(1)).n <= 28);
}

#[test]
fn n_grows_with_what_has_run_if_the_warm_up_was_short() {
    let mut cost = CostModel::from_profile(
        &[(1, 600), (2, 601), (4, 603)].map(|(rows, ms)| (rows, Duration::from_millis(ms))),
    )
    .unwrap();
    let policy = BatchPolicy { max_batch: 64, ..auto(5000) };
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let choice = policy.choose(&cost, &QueueLoad::unknown(1));
        sizes.push((choice.n, choice.bound));
        cost.observe(choice.n, Duration::from_millis(600 + u64::from(choice.n) * 2));
    }
    // 97 % of the rate are enough.
    let expected = [(8, Bound::Untried), (16, Bound::Untried), (31, Bound::Untried)];
    assert_eq!(sizes[..3], expected);
    assert!(sizes[3].0 >= 58 && cost.reach() >= 64, "{sizes:?}");
    // The times were learned from one batch each.
    let known = cost.latency(64).as_secs_f64();
    assert!((0.71..0.74).contains(&known), "{known}");
}

/// L(b) = 0.1 + 0.08b milliseconds: batches of 16 rows reach 93 % of the best rate, and more if each batch
/// costs time outside of the engine.
#[test]
fn n_rises_to_the_best_rate_in_a_backlog_and_falls_back_when_it_is_gone() {
    let times = [1, 4, 16, 64, 128].map(|rows| (rows, Duration::from_micros(100 + 80 * rows)));
    let times = times.map(|(rows, took)| (u32::try_from(rows).unwrap(), took));
    let cost = CostModel::from_profile(&times).unwrap();
    let policy = BatchPolicy { max_batch: 128, ..auto(100) };
    let usual = policy.choose(&cost, &QueueLoad::unknown(1)).n;
    let n = |standing: f64, outside_us: u64, catching_up: bool| {
        let outside = Duration::from_micros(outside_us);
        let load = QueueLoad { standing, catching_up, outside, ..QueueLoad::unknown(1) };
        policy.choose(&cost, &load).n
    };
    assert!(usual < 64, "{usual}");
    // 1,000 rows take 80 ms, 500 take 40 ms and 200 take 16 ms.
    assert_eq!([n(500.0, 200, false), n(200.0, 200, true)], [usual; 2]);
    assert!(n(1000.0, 200, false) >= 64);
    assert_eq!(n(500.0, 200, true), n(1000.0, 200, false), "it lasts");
    assert_eq!(n(1000.0, 0, false), usual, "the engine never waits");
}

#[test]
fn a_fixed_n_is_clamped_and_a_published_one_takes_precedence() {
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
fn a_full_fixed_size_is_preferred_to_a_larger_padded_one() {
    // 100 ms per 32 rows, padding included.
    let tiles: Vec<_> =
        (1..=4).map(|tiles| (32 * tiles, Duration::from_millis(100 * u64::from(tiles)))).collect();
    let cost = CostModel::from_profile(&tiles).unwrap().with_fixed_sizes();
    let take =
        |waiting, oldest_ms| auto(1000).take(&cost, 128, waiting, Duration::from_millis(oldest_ms));
    assert_eq!([take(33, 0), take(64, 0), take(63, 0), take(500, 0)], [32, 64, 63, 128]);
    // The remaining row would be late.
    assert_eq!(take(33, 700), 33);
}

#[test]
fn n_is_one_of_the_fixed_sizes() {
    let cost = affine(8.0, 2.0).with_fixed_sizes();
    for rate in [10.0, 500.0, 1000.0, 1500.0, 5000.0] {
        let n = auto(100).choose(&cost, &load(4, rate)).n;
        assert_eq!(cost.padded(n), n, "{rate} per second");
    }
}

#[test]
fn parses_auto_or_a_number_of_rows() {
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
        let choice = policy.choose(&cost, &QueueLoad::unknown(workers));
        prop_assert!((1..=max_batch).contains(&choice.n));
        prop_assert!(choice.interval.0 <= choice.interval.1);
        if let Some(n_star) = choice.n_star {
            prop_assert!(choice.n <= n_star && n_star <= max_batch);
            prop_assert!(cost.latency(n_star) <= policy.slo);
            let best = (1..=n_star).map(|rows| cost.rate(rows)).fold(0.0, f64::max);
            prop_assert!(cost.rate(choice.n) >= 0.97 * best * (1.0 - 1e-9));
        }
    }

    #[test]
    fn noise_in_the_profile_does_not_raise_n_where_batching_gains_nothing(
        noise in prop::collection::vec(-0.03_f64..0.03, 5),
        workers in 1_u32..9,
        slo_ms in 20_u64..5000,
    ) {
        let magika = [(1, 5.16), (8, 43.3), (32, 190.0), (64, 348.0), (128, 739.0)];
        let profile: Vec<_> = magika.iter().zip(noise).map(|(&(rows, ms), noise)| {
            (rows, Duration::from_secs_f64(ms / 1e3 * (1.0 + noise)))
        }).collect();
        let cost = CostModel::from_profile(&profile).unwrap();
        let choice = auto(slo_ms).choose(&cost, &QueueLoad::unknown(workers));
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
