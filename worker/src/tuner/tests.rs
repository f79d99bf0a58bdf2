use batchfleet_broker::{Release, Target, Wish};

use super::*;
use crate::{
    batch::examples::{delivery, held_job, spec},
    job::HeldJob,
};

const SLO: Duration = Duration::from_millis(100);

/// L(b) = 8 + 2 b milliseconds; a lone worker's N is at most 19 within a target of 100 ms.
fn tuner(mode: BatchMode) -> Tuner {
    let profile: Vec<_> = (0..8)
        .map(|power| 1_u32 << power)
        .map(|rows| (rows, Duration::from_millis(8 + 2 * u64::from(rows))))
        .collect();
    let cost = CostModel::from_profile(&profile).unwrap();
    Tuner::new(BatchPolicy::new(mode, 128, SLO), cost, RowLengths::default())
}

/// A batch of one job of `rows` rows.
fn batch(rows: u32, release: Release) -> Batch {
    Batch::new(vec![held_job(delivery(0, rows, 1))], release)
}

/// The rows of a batch of this limit, of one unit each.
fn rows(limit: BatchLimit) -> u32 {
    limit.rows_of(1.0)
}

/// N of the next batch.
fn chosen(tuner: &mut Tuner) -> u32 {
    rows(tuner.limit(Duration::ZERO))
}

fn target(epoch: u64, batch: BatchWish, slo_ms: Option<f64>) -> Guidance {
    let target = Some(Target { epoch, wish: Wish { batch, slo_ms } });
    Guidance { workers: None, target }
}

#[tokio::test(start_paused = true)]
async fn adopts_the_latest_target_and_returns_to_its_own_setting() {
    let mut tuner = tuner(BatchMode::Fixed(32));
    assert_eq!(chosen(&mut tuner), 32);
    let mut published = |epoch, batch, slo_ms| {
        tuner.adopt(target(epoch, batch, slo_ms));
        (chosen(&mut tuner), tuner.report().bound)
    };
    let alone = published(5, BatchWish::Auto, None);
    assert!((17..=19).contains(&alone.0) && alone.1 == BatchBound::Slo, "{alone:?}");
    assert_eq!(published(6, BatchWish::Rows(7), None), (7, BatchBound::Published));
    assert_eq!(
        published(6, BatchWish::Rows(9), None),
        (7, BatchBound::Published),
        "an older target"
    );
    assert_eq!(published(7, BatchWish::Rows(9999), None), (128, BatchBound::Published));
    let hurried = published(8, BatchWish::Auto, Some(50.0));
    assert!(hurried.0 < alone.0 / 2, "{hurried:?}");
    assert_eq!(published(9, BatchWish::Own, None), (32, BatchBound::Fixed));
}

#[tokio::test(start_paused = true)]
async fn shares_a_light_load_with_other_workers() {
    let mut tuner = tuner(BatchMode::Auto);
    tuner.adopt(Guidance { workers: Some(4), target: None });
    let full_load = chosen(&mut tuner);
    assert!((23..=28).contains(&full_load), "{full_load}");
    for _ in 0..100 {
        tokio::time::advance(Duration::from_millis(10)).await;
        tuner.load.add_units(1);
        chosen(&mut tuner);
    }
    // 400 rows per second for four workers: each worker gets a row every 10 ms and runs it in
    // 10 ms.
    let report = tuner.report();
    assert!(report.n < full_load / 2 && report.bound == BatchBound::RateMatched, "{report:?}");
    assert!((390.0..410.0).contains(&report.rows_per_second.unwrap()), "{report:?}");
    assert!((1..=2).contains(&report.interval.0), "{report:?}");
    assert_eq!(report.full_load_n, full_load);
    assert!(tuner.capacity() > 400.0, "{}", tuner.capacity());
    // A large request is not shared with other workers.
    assert_eq!((rows(tuner.most()), rows(tuner.take(64, SLO, true))), (full_load, full_load));
    assert_eq!(rows(tuner.take(64, SLO, false)), report.n);
}

/// Runs batches of `clients` that send their next request after the answer to the last, for ten
/// seconds. Returns each N and its bound.
async fn closed_loop(
    tuner: &mut Tuner,
    clients: u32,
    deadline: Duration,
) -> Vec<(u32, BatchBound)> {
    let (mut choices, began) = (Vec::new(), Instant::now());
    while began.elapsed() < Duration::from_secs(10) {
        let n = chosen(tuner);
        choices.push((n, tuner.report().bound));
        let rows = n.min(clients);
        let takes = tuner.expected(rows);
        let waited = (takes * clients / rows).saturating_sub(takes).min(deadline);
        let job = |index: u32| {
            let job = delivery(index as usize, 1, 1);
            Delivery { waited, deadline: job.claimed_at + deadline.saturating_sub(waited), ..job }
        };
        tuner.claimed(&(0..rows).map(job).collect::<Vec<_>>(), rows == n);
        tokio::time::advance(takes).await;
        tuner.ran(&batch(rows, Release::Full), 0, takes);
    }
    choices
}

#[tokio::test(start_paused = true)]
async fn favours_throughput_while_too_many_clients_wait_and_returns_without_swinging() {
    let mut tuner = tuner(BatchMode::Auto);
    let minute = Duration::from_mins(1);
    let few = closed_loop(&mut tuner, 10, minute).await;
    assert!(few.iter().all(|(n, bound)| *n < 20 && *bound == BatchBound::Slo), "{few:?}");
    // 17 rows take 42 ms, so that 200 clients would wait for half a second.
    let many = closed_loop(&mut tuner, 200, minute).await;
    let changes = many.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(many.last().unwrap().1, BatchBound::Backlog);
    assert!(changes == 1 && many.last().unwrap().0 > 40, "{many:?}");
    let few = closed_loop(&mut tuner, 10, minute).await;
    let changes = few.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!((few.last().unwrap().1.clone(), changes), (BatchBound::Slo, 1), "{few:?}");
    // Requests with a deadline of 100 ms are worth nothing later.
    let strict = closed_loop(&mut tuner, 200, SLO).await;
    assert!(strict.iter().all(|(n, _)| *n < 20), "{strict:?}");
}

#[tokio::test(start_paused = true)]
async fn remembers_the_last_batches_and_learns_from_them() {
    let mut tuner = tuner(BatchMode::Auto);
    let before = chosen(&mut tuner);
    for _ in 0..20 {
        let took = tuner.expected(1) * 2;
        tuner.ran(&batch(1, Release::Drained), 0, took.min(Duration::from_millis(20)));
    }
    let report = tuner.report();
    assert_eq!(report.recent.len(), RECENT);
    assert_eq!(report.recent[0].release, "drained");
    assert!((1.9..2.1).contains(&report.gain), "{}", report.gain);
    assert!(chosen(&mut tuner) < before);
}

#[tokio::test(start_paused = true)]
async fn refuses_jobs_that_cannot_be_in_time_but_spares_one_if_nothing_ran_lately() {
    let mut tuner = tuner(BatchMode::Auto);
    chosen(&mut tuner);
    // Four rows take 16 ms, three 14, two 12, one 10.
    let left = |millis: [u64; 4]| millis.map(Duration::from_millis).into_iter();
    let doomed = |tuner: &Tuner, millis| tuner.doomed(4, left(millis));
    assert_eq!(doomed(&tuner, [15, 13, 30, 30]), 2);
    assert_eq!(doomed(&tuner, [17, 13, 30, 30]), 0);
    assert_eq!(doomed(&tuner, [1, 1, 1, 1]), 3, "one must run: L(b) was never corrected");
    tuner.ran(&batch(4, Release::Full), 0, Duration::from_millis(16));
    assert_eq!(doomed(&tuner, [1, 1, 1, 1]), 4);
    tokio::time::advance(BLIND).await;
    assert_eq!(doomed(&tuner, [1, 1, 1, 1]), 3);
}

#[tokio::test(start_paused = true)]
async fn parts_of_large_requests_may_be_short_batches_although_batches_gain_nothing() {
    let linear = |micros: u64| {
        let profile =
            [1, 4, 16, 64].map(|rows| (rows, Duration::from_micros(micros * u64::from(rows))));
        let cost = CostModel::from_profile(&profile).unwrap();
        let mut tuner =
            Tuner::new(BatchPolicy::new(BatchMode::Auto, 64, SLO), cost, RowLengths::default());
        (chosen(&mut tuner), rows(tuner.most()))
    };
    assert_eq!(linear(10_000), (1, 1));
    assert_eq!(linear(300), (1, 16));
    assert_eq!(linear(20), (1, 64));
    let mut fixed = tuner(BatchMode::Fixed(1));
    assert_eq!((chosen(&mut fixed), rows(fixed.most())), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn memory_bounds_n_before_all_else() {
    let mut tuner = tuner(BatchMode::Fixed(64));
    assert_eq!(tuner.out_of_memory(64), 32);
    assert_eq!((chosen(&mut tuner), tuner.report().bound), (32, BatchBound::Memory));
    assert_eq!(tuner.report().full_load_n, 32);
}

#[tokio::test(start_paused = true)]
async fn rows_that_influence_each_other_end_batching_for_good() {
    let mut tuner = tuner(BatchMode::Fixed(64));
    tuner.end_batching();
    tuner.adopt(target(1, BatchWish::Rows(32), None));
    assert_eq!((chosen(&mut tuner), tuner.report().bound), (1, BatchBound::Mismatch));
    assert_eq!(tuner.report().full_load_n, 1);
}

/// Rows of 8 bytes cost one unit, and longer rows as many as they are longer.
fn by_length() -> RowLengths {
    let sample = |(rows, length)| {
        let took = Duration::from_millis(1) + Duration::from_micros(100) * rows * length;
        LengthSample { rows, length: length.into(), took }
    };
    let measured = [(1, 8), (4, 8), (1, 512), (4, 512)].map(sample);
    RowLengths::of(&spec(128)).with_cost(&measured, 32)
}

#[tokio::test(start_paused = true)]
async fn corrects_what_rows_cost_if_the_start_up_was_delayed() {
    // Each batch of the start-up waited for a second, so that lengths seem to cost nothing.
    let delayed = [(1, 8), (4, 8), (1, 512), (4, 512)].map(|(rows, length)| {
        let took = Duration::from_millis(1000 + u64::from(rows));
        LengthSample { rows, length, took }
    });
    let lengths = RowLengths::of(&spec(128)).with_cost(&delayed, 32);
    let plain = tuner(BatchMode::Auto);
    let mut tuner = Tuner::new(plain.own, plain.cost.clone(), lengths.clone());
    let takes =
        |rows: u32, length: u32| Duration::from_micros(1000 + u64::from(100 * rows * length));
    assert!(lengths.are_free());
    for index in 0..64_u32 {
        let (rows, length) = (1 + index % 7, 64 << (index % 3));
        let jobs = vec![HeldJob::new(delivery(0, rows, length.into()), &lengths)];
        tuner.claimed(&[delivery(0, rows, length.into())], false);
        tuner.ran(&Batch::new(jobs, Release::Drained), 0, takes(rows, length));
    }
    let row = |length| lengths.row_units(&delivery(0, 1, length).job);
    assert!((3.5..4.5).contains(&(row(256) / row(64))), "{lengths:?}");
    let expected = tuner.expected(whole_units(4.0 * row(128))).as_secs_f64();
    assert!((expected / takes(4, 128).as_secs_f64() - 1.0).abs() < 0.15, "{expected}");
    // The capacity is of rows of the usual length, about 150 bytes.
    assert!((50.0..110.0).contains(&tuner.capacity()), "{}", tuner.capacity());
}

#[tokio::test(start_paused = true)]
async fn announces_rows_of_the_usual_length_and_limits_what_they_cost() {
    let plain = tuner(BatchMode::Auto);
    let mut tuner = Tuner::new(plain.own, plain.cost.clone(), by_length());
    let n = tuner.limit(Duration::ZERO);
    // A row of 32 bytes costs four units.
    assert_eq!(n.rows_of(4.0), tuner.report().n);
    let (short, long) = (n.rows_of(1.0) / 4, n.rows_of(64.0));
    assert_eq!((short, long), (tuner.report().n, 1));
    let before = tuner.capacity();
    for _ in 0..50 {
        let long: Vec<_> = (0..32).map(|index| delivery(index, 1, 64)).collect();
        tuner.claimed(&long, true);
    }
    let ratio = before / tuner.capacity();
    assert!((1.9..2.1).contains(&ratio), "a row of 64 bytes costs twice as much: {ratio}");
}

#[tokio::test(start_paused = true)]
async fn rows_set_by_hand_hold_for_any_length_and_no_more_are_claimed() {
    let plain = tuner(BatchMode::Fixed(16));
    let mut tuner = Tuner::new(plain.own, plain.cost.clone(), by_length());
    let limit = tuner.limit(Duration::ZERO);
    assert_eq!([1.0, 4.0, 64.0].map(|row_units| limit.rows_of(row_units)), [16; 3]);
    assert!((tuner.full(limit) - 64.0).abs() < 1e-6, "{limit:?}");
    tuner.end_batching();
    let limit = tuner.limit(Duration::ZERO);
    assert_eq!([1.0, 64.0].map(|row_units| limit.rows_of(row_units)), [1; 2]);
    assert!(tuner.full(limit) <= 1.0, "{limit:?}");
}

#[tokio::test(start_paused = true)]
async fn announces_the_rate_of_padded_rows() {
    let plain = tuner(BatchMode::Fixed(4));
    let lengths = by_length();
    let mut tuner = Tuner::new(plain.own, plain.cost.clone(), lengths.clone());
    tuner.limit(Duration::ZERO);
    let before = tuner.capacity();
    let jobs = |widths: &[u64]| {
        let job = |&width: &u64| HeldJob::new(delivery(0, 1, width), &lengths);
        let batch = Batch::new(widths.iter().map(job).collect(), Release::Full);
        Batch { chosen_from: batch.units, ..batch }
    };
    for _ in 0..100 {
        // Six units instead of four, three times in a batch of nearly N.
        let padded = jobs(&[8, 24, 8, 24, 8, 24]);
        let takes = tuner.expected(padded.units);
        tuner.ran(&padded, 0, takes);
        // A small batch that needs no padding tells nothing about full ones.
        let takes = tuner.expected(1);
        tuner.ran(&jobs(&[8]), 0, takes);
    }
    let ratio = before / tuner.capacity();
    assert!((1.45..1.51).contains(&ratio), "{ratio}");
    let share = tuner.report().padding_share;
    assert!((0.31..0.34).contains(&share), "{share}");
}
