use proptest::prelude::*;

use super::*;

fn millis(pairs: &[(u32, u64)]) -> CostModel {
    let profile: Vec<_> =
        pairs.iter().map(|&(rows, ms)| (rows, Duration::from_millis(ms))).collect();
    CostModel::from_profile(&profile).unwrap()
}

/// L(b) = 8 + 2b milliseconds.
fn affine() -> CostModel {
    millis(&[(1, 10), (2, 12), (4, 16), (8, 24), (16, 40), (32, 72), (64, 136)])
}

#[test]
fn an_empty_profile_gives_no_model() {
    assert!(CostModel::from_profile(&[]).is_none());
}

#[test]
fn interpolates_between_sizes_and_extends_the_last_slope() {
    let model = millis(&[(1, 10), (4, 16), (8, 24)]);
    for (rows, ms) in [(1, 10), (2, 12), (4, 16), (6, 20), (8, 24), (16, 40)] {
        assert_eq!(model.latency(rows), Duration::from_millis(ms), "{rows} rows");
    }
}

#[test]
fn batches_are_padded_to_fixed_sizes() {
    let model = millis(&[(1, 10), (4, 16), (8, 24)]).with_fixed_sizes();
    for (rows, padded, ms) in [(1, 1, 10), (2, 4, 16), (4, 4, 16), (5, 8, 24), (8, 8, 24)] {
        assert_eq!(model.padded(rows), padded, "{rows} rows");
        assert_eq!(model.latency(rows), Duration::from_millis(ms), "{rows} rows");
    }
}

#[test]
fn a_larger_size_is_never_faster() {
    let model = millis(&[(1, 10), (2, 7), (4, 20)]);
    assert_eq!(
        [1, 2, 4].map(|rows| model.latency(rows)),
        [8500, 8500, 20_000].map(Duration::from_micros)
    );
    // Two sizes after a stall count as much as the two stalled ones.
    let model = millis(&[(1, 10), (2, 30), (4, 30), (8, 18), (16, 18)]);
    assert_eq!(model.latency(2), Duration::from_millis(24));
}

#[test]
fn the_sizes_that_ran_more_often_decide_about_one_that_seems_slower() {
    // 32 rows were measured during a stall, and seem slower than 64.
    let mut model = millis(&[(1, 10), (8, 24), (16, 40), (32, 200), (64, 136)]);
    assert_eq!(model.latency(32), Duration::from_millis(168));
    for _ in 0..30 {
        for rows in [64, 16, 8] {
            model.observe(rows, Duration::from_millis(8 + 2 * u64::from(rows)));
        }
    }
    let known = |rows| model.latency(rows).as_secs_f64() / (0.008 + 0.002 * f64::from(rows));
    assert!((0.95..1.1).contains(&known(64)), "{}", known(64));
    for rows in [8, 16] {
        assert!((0.95..1.05).contains(&known(rows)), "{rows} rows: {}", known(rows));
    }
    // Once batches of 32 rows run, a few are enough.
    for _ in 0..15 {
        for rows in [32, 16, 8] {
            model.observe(rows, Duration::from_millis(8 + 2 * u64::from(rows)));
        }
    }
    let known = model.latency(32).as_secs_f64();
    assert!((0.068..0.080).contains(&known), "{known}");
}

#[test]
fn two_sizes_that_contradict_each_other_meet_in_the_middle_without_swinging() {
    let mut model = millis(&[(8, 24), (32, 144)]);
    for _ in 0..100 {
        model.observe(8, Duration::from_millis(24));
        model.observe(32, Duration::from_millis(72));
    }
    for (rows, ms) in [(8, 24.0), (32, 72.0)] {
        let known = model.latency(rows).as_secs_f64() * 1e3;
        assert!((known / ms - 1.0).abs() < 0.08, "{rows} rows: {known} ms");
    }
}

#[test]
fn a_long_tail_is_not_taken_for_a_wrong_size() {
    // Every third batch of either size takes twice as long, as on a shared machine.
    let mut model = affine();
    for batch in 0..10_000_u32 {
        let rows = if batch % 2 == 0 { 8 } else { 32 };
        let slower = if batch % 3 == 0 { 2.0 } else { 1.0 };
        model.observe(rows, affine().latency(rows).mul_f64(slower));
    }
    let ratio = model.rate(32) / model.rate(8) / (affine().rate(32) / affine().rate(8));
    assert!((ratio - 1.0).abs() < 0.05, "{ratio}");
}

#[test]
fn sizes_in_use_keep_their_ratio_to_sizes_that_are_not() {
    // Times vary by a few percent and have a long tail: 30 % take up to 1.5 times.
    for (smaller, larger) in [(15, 17), (8, 24), (10, 22), (4, 60), (8, 16)] {
        let mut model = affine();
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1_u32 << 24)
        };
        for batch in 0..20_000_u32 {
            let rows = if batch.is_multiple_of(2) { smaller } else { larger };
            let tail = if random() < 0.3 { 0.5 * random() } else { 0.0 };
            model.observe(rows, affine().latency(rows).mul_f64(0.98 + 0.04 * random() + tail));
        }
        for rows in [1, 8, 32, 64] {
            let ratio =
                model.rate(rows) / model.rate(16) / (affine().rate(rows) / affine().rate(16));
            assert!((0.9..1.1).contains(&ratio), "{smaller} and {larger}: {rows} rows: {ratio}");
        }
    }
}

#[test]
fn larger_batches_than_were_measured_double_the_table() {
    let mut model = millis(&[(1, 100), (2, 101), (4, 103)]);
    assert_eq!(model.reach(), 8);
    // 107 ms were expected.
    model.observe(8, Duration::from_millis(140));
    assert_eq!((model.largest(), model.reach()), (8, 16));
    assert_eq!(model.latency(8), Duration::from_millis(140));
    model.observe(9, Duration::from_millis(150));
    assert_eq!((model.largest(), model.reach()), (16, 18));
    // An engine with fixed sizes has no larger ones.
    let mut fixed = millis(&[(1, 100), (4, 103)]).with_fixed_sizes();
    fixed.observe(8, Duration::from_millis(140));
    assert_eq!((fixed.largest(), fixed.reach()), (4, 4));
}

#[test]
fn larger_sizes_follow_a_size_that_became_slower_until_they_run_themselves() {
    // Beside other work, batches of more than 8 rows take twice as long. No more than 16 rows wait.
    let slow = |rows: u32| affine().latency(rows).mul_f64(if rows > 8 { 2.0 } else { 1.0 });
    let truth = |model: &CostModel, rows: u32| model.latency(rows).div_duration_f64(slow(rows));
    let mut model = affine();
    for batch in 0..300_u32 {
        let rows = if batch.is_multiple_of(3) { 8 } else { 16 };
        model.observe(rows, slow(rows));
    }
    for rows in [8, 16, 32, 64] {
        assert!((0.9..1.1).contains(&truth(&model, rows)), "{rows}: {}", truth(&model, rows));
    }
    // Once larger batches run, their own times count: they are as fast as before.
    for batch in 0..600_u32 {
        let rows = [8, 32, 64][batch as usize % 3];
        model.observe(rows, affine().latency(rows));
    }
    for rows in [8, 32, 64] {
        let ratio = model.latency(rows).div_duration_f64(affine().latency(rows));
        assert!((0.9..1.1).contains(&ratio), "{rows}: {ratio}");
    }
}

#[test]
fn a_size_that_ran_once_in_a_stall_is_tried_again_until_it_is_sure() {
    let ms = Duration::from_millis;
    let mut model = millis(&[(1, 10), (2, 12), (4, 16)]);
    let rest = |model: &mut CostModel| (0..200).for_each(|_| model.observe(4, ms(16)));
    // 24 ms are expected. N avoids 8 rows from now on, because they seem four times as slow.
    model.observe(8, ms(120));
    assert_eq!(model.latency(8), ms(96));
    rest(&mut model);
    assert_eq!(model.latency(8), ms(24));
    model.observe(8, ms(26));
    assert_eq!(model.latency(8), ms(26));
    rest(&mut model);
    assert_eq!(model.latency(8), ms(24));
    // The third batch makes it sure, and its fastest batch counts.
    model.observe(8, ms(40));
    assert_eq!(model.latency(8), ms(26));
    rest(&mut model);
    assert_eq!(model.latency(8), ms(26));
}

#[test]
fn the_size_that_keeps_up_agrees_with_the_closed_form() {
    // b = rate · a / (1 − rate · c) with a = 8 ms, c = 2 ms. At 50 rows per second the worker is
    // half idle.
    for (rate, rows) in [(50.0, Some(0.5)), (250.0, Some(4.0)), (400.0, Some(16.0)), (480.0, None)]
    {
        let found = affine().keeping_up(rate, 64);
        assert_eq!(found.is_some(), rows.is_some(), "{rate} per second: {found:?}");
        let (found, rows) = (found.unwrap_or_default(), rows.unwrap_or_default());
        assert!((found - rows).abs() < 1e-9, "{rate} per second: {found}");
    }
}

#[test]
fn a_fixed_size_keeps_up_as_soon_as_it_is_full_enough() {
    // Up to four rows take 16 ms. At 200 rows per second, 3.2 rows arrive in this time.
    let model = millis(&[(1, 10), (4, 16), (8, 24)]).with_fixed_sizes();
    assert!((model.keeping_up(200.0, 8).unwrap() - 3.2).abs() < 1e-9);
    assert!((model.keeping_up(260.0, 8).unwrap() - 6.24).abs() < 1e-9);
    assert_eq!(model.keeping_up(260.0, 4), None);
}

#[test]
fn the_gain_follows_a_model_that_became_twice_as_slow_within_20_batches() {
    let mut model = affine();
    (0..20).for_each(|_| model.observe(8, Duration::from_millis(48)));
    for (rows, ms) in [(1, 20.0), (8, 48.0), (64, 272.0)] {
        let known = model.latency(rows).as_secs_f64() * 1e3;
        assert!((known / ms - 1.0).abs() < 0.04, "{rows} rows: {known} ms");
    }
}

#[test]
fn one_stalled_batch_hardly_moves_the_model() {
    let mut model = affine();
    (0..8).for_each(|_| model.observe(8, Duration::from_millis(24)));
    model.observe(8, Duration::from_mins(1));
    (0..8).for_each(|_| model.observe(8, Duration::from_millis(24)));
    let known = model.latency(8);
    assert!(known < Duration::from_micros(24_150), "{known:?}");
}

#[test]
fn a_size_that_was_measured_wrong_is_corrected_by_comparison_with_the_others() {
    let mut model = millis(&[(1, 10), (2, 12), (4, 16), (8, 48), (16, 50)]);
    (0..1000).for_each(|batch| {
        let rows = [2, 8, 4][batch % 3];
        model.observe(rows, Duration::from_millis(8 + 2 * u64::from(rows)));
    });
    let known = model.latency(8).as_secs_f64();
    assert!((0.0235..0.0255).contains(&known), "{known}");
}

#[test]
fn the_only_size_in_use_keeps_its_ratio_to_the_others() {
    let mut model = affine();
    let before = model.rate(64) / model.rate(32);
    // Every fourth batch takes 20 % longer, as on a shared machine.
    (0..10_000).for_each(|batch| {
        let slower = if batch % 4 == 0 { 1.2 } else { 1.0 };
        model.observe(50, affine().latency(50).mul_f64(slower));
    });
    let after = model.rate(64) / model.rate(32);
    assert!((after / before - 1.0).abs() < 0.01, "{before} and {after}");
    assert!((0.99..1.02).contains(&model.gain()), "{}", model.gain());
}

proptest! {
    #[test]
    fn the_model_stays_monotone_and_finite_for_any_observations(
        profile in prop::collection::vec((1_u32..512, 0_u64..100_000), 1..10),
        seen in prop::collection::vec((1_u32..2000, 0_u64..10_000_000), 0..200),
        fixed in any::<bool>(),
    ) {
        let profile: Vec<_> =
            profile.into_iter().map(|(b, us)| (b, Duration::from_micros(us))).collect();
        let mut model = CostModel::from_profile(&profile).unwrap();
        if fixed {
            model = model.with_fixed_sizes();
        }
        for (rows, us) in seen {
            model.observe(rows, Duration::from_micros(us));
        }
        prop_assert!(model.gain().is_finite() && model.gain() > 0.0);
        for rows in 1..600 {
            prop_assert!(model.latency(rows) <= model.latency(rows + 1));
        }
    }

    #[test]
    fn the_model_is_within_5_percent_20_noisy_batches_after_a_lasting_change(
        factor in 0.4_f64..2.5,
        sizes in prop::collection::vec(1_u32..64, 20),
        noise in prop::collection::vec(-0.03_f64..0.03, 20),
    ) {
        let (before, mut model) = (affine(), affine());
        for (&rows, noise) in sizes.iter().zip(noise) {
            model.observe(rows, before.latency(rows).mul_f64(factor * (1.0 + noise)));
        }
        for rows in [1, 8, 64] {
            let known = model.latency(rows).as_secs_f64();
            let truth = before.latency(rows).as_secs_f64() * factor;
            prop_assert!((known / truth - 1.0).abs() < 0.05, "{rows} rows: {known} for {truth}");
        }
    }

    #[test]
    fn one_stalled_batch_moves_no_size_by_more_than_one_percent(
        sizes in prop::collection::vec(1_u32..64, 12),
        at in 0_usize..12,
        stall in 1.0_f64..10_000.0,
    ) {
        let (before, mut model) = (affine(), affine());
        for (index, &rows) in sizes.iter().enumerate() {
            let slower = if index == at { stall } else { 1.0 };
            model.observe(rows, before.latency(rows).mul_f64(slower));
        }
        for rows in [1, 8, 64] {
            let known = model.latency(rows).as_secs_f64();
            prop_assert!((known / before.latency(rows).as_secs_f64() - 1.0).abs() < 0.01);
        }
    }

    #[test]
    fn the_size_that_keeps_up_is_the_smallest_that_does(
        steps in prop::collection::vec(0_u64..50_000, 1..8),
        rate in 1.0_f64..2000.0,
        most in 1_u32..300,
        fixed in any::<bool>(),
    ) {
        let mut total = 1000;
        let profile: Vec<_> = steps.iter().enumerate().map(|(power, step)| {
            total += step;
            (1 << power, Duration::from_micros(total))
        }).collect();
        let model = CostModel::from_profile(&profile).unwrap();
        let model = if fixed { model.with_fixed_sizes() } else { model };
        let found = model.keeping_up(rate, most);
        let slowest_enough = (1..=most).find(|&rows| model.rate(rows) >= rate * (1.0 - 1e-9));
        match (found, slowest_enough) {
            (Some(found), Some(rows)) => {
                prop_assert!(found <= f64::from(rows) + 1e-6, "{found} {rows}");
                prop_assert!(found > f64::from(rows) - 1.0 - 1e-6 || rows == 1, "{found} {rows}");
            }
            (found, rows) => prop_assert_eq!(found.is_some(), rows.is_some()),
        }
    }
}

#[test]
fn the_fewest_rows_that_take_a_time_are_found_up_to_a_limit() {
    let ms = Duration::from_millis;
    let profile = |times: &[(u32, u64)]| {
        let times: Vec<_> = times.iter().map(|&(rows, took)| (rows, ms(took))).collect();
        CostModel::from_profile(&times).unwrap()
    };
    let sloped = profile(&[(1, 10), (11, 110)]);
    assert_eq!([9, 50, 10_000].map(|took| sloped.rows_in(ms(took))), [1, 5, 22]);
    // A little more than the time of all sizes is noise.
    assert_eq!(profile(&[(1, 500), (64, 500)]).rows_in(ms(540)), 1);
}
