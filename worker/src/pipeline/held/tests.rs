use std::{collections::HashMap, sync::Arc, time::Duration};

use batchfleet_broker::{Delivery, RequestId};
use proptest::prelude::*;

use super::*;
use crate::{
    batch::examples::{delivery, held_job, limit_of, spec},
    graph::Graph,
    job::Progress,
    padding::Padding,
};

mod deadlines;

fn layout() -> Layout {
    Layout::of(&spec(64))
}

fn hold(jobs: impl IntoIterator<Item = Delivery>) -> HeldJobs {
    let mut held = HeldJobs::new(layout());
    held.extend(jobs.into_iter().map(held_job));
    held
}

/// Jobs of these rows and widths.
fn held(jobs: &[(u32, u64)]) -> HeldJobs {
    hold(jobs.iter().enumerate().map(|(index, &(rows, width))| delivery(index, rows, width)))
}

fn width(job: &HeldJob) -> u64 {
    job.delivery.job.inputs[0].shape[1]
}

/// Every deadline is near, or none.
fn soon(in_order: bool) -> Urgency {
    let (now, minute) = (Instant::now(), Duration::from_mins(1));
    let soon = if in_order { now + minute } else { now - minute };
    Urgency { soon, unit: Duration::ZERO }
}

/// The first job runs alone; without padding, no job needs companions of another length.
fn alone(_waiting: &[WaitingRows]) -> Vec<usize> {
    vec![0]
}

/// The ids and rows of a batch.
fn parts(batch: &Batch) -> Vec<(u128, u32)> {
    batch.jobs.iter().map(|job| (job.delivery.job.id.0, job.part_rows())).collect()
}

/// Runs a batch: puts the large jobs back into `held` that have rows left.
fn run(held: &mut HeldJobs, batch: Batch) {
    let unfinished = |job: HeldJob| match job.ran(Vec::new(), &layout()) {
        Progress::Unfinished(job) => Some(job),
        Progress::Complete(..) => None,
    };
    held.put_back(batch.jobs.into_iter().filter_map(unfinished).collect());
}

proptest! {
    #[test]
    fn batches_are_of_one_shape_within_the_limit_oldest_first_and_lose_no_job(
        jobs in prop::collection::vec((1_u32..9, 1_u64..4), 0..60),
        limit in 8_u32..17,
        in_order: bool,
    ) {
        let mut held = held(&jobs);
        let mut taken: Vec<Vec<RequestId>> = vec![Vec::new(); 4];
        let oldest = |held: &HeldJobs| held.iter().next().map(|job| job.delivery.job.id);
        while let Some(oldest) = oldest(&held) {
            let of = |shape| held.iter().filter(move |job| width(job) == shape);
            let rows = |shape| of(shape).map(HeldJob::rows_left).sum::<u32>();
            let rows_of = [0, rows(1), rows(2), rows(3)];
            let overtaken = held.overtaken;
            let batch = held.take_batch(limit_of(limit), soon(in_order), alone).unwrap();
            let first = &batch.jobs[0];
            if in_order || overtaken >= MOST_OVERTAKEN {
                prop_assert_eq!(first.delivery.job.id, oldest);
            } else {
                let most = rows_of.into_iter().max();
                prop_assert_eq!(Some(rows_of[usize::try_from(width(first)).unwrap()]), most);
            }
            prop_assert_eq!(batch.rows, batch.jobs.iter().map(HeldJob::rows_left).sum::<u32>());
            prop_assert!(batch.rows <= limit);
            let shape = width(first);
            for job in &batch.jobs {
                prop_assert_eq!(width(job), shape);
                taken[usize::try_from(shape).unwrap()].push(job.delivery.job.id);
            }
        }
        prop_assert_eq!(taken.iter().map(Vec::len).sum::<usize>(), jobs.len());
        prop_assert!(taken.iter().all(|ids| ids.is_sorted()));
    }

    #[test]
    fn every_row_runs_once_and_neither_kind_waits_for_two_batches_of_the_other(
        jobs in prop::collection::vec((1_u32..40, 1_u64..3), 1..30),
        limits in prop::collection::vec(1_u32..12, 1..6),
    ) {
        let mut held = held(&jobs);
        let mut ran: HashMap<u128, u32> = HashMap::new();
        let mut large_led = false;
        let mut large_left_out = false;
        for limit in limits.into_iter().cycle() {
            let (large, whole) = (held.large(limit_of(limit)), held.whole_units(limit_of(limit)));
            let Some(batch) = held.take_batch(limit_of(limit), soon(false), alone) else { break };
            prop_assert!((1..=limit).contains(&batch.rows), "{} of {limit}", batch.rows);
            let leads = batch.jobs[0].is_large(limit_of(limit));
            let has_large = batch.jobs.iter().any(|job| job.is_large(limit_of(limit)));
            prop_assert!(!(large_led && leads && whole > 0), "large jobs lead twice");
            prop_assert!(!(large_left_out && !has_large && large > 0), "large jobs wait twice");
            // The limit of the next batch may make a large job of a whole one.
            (large_led, large_left_out) = (leads, large > 0 && !has_large);
            for (id, rows) in parts(&batch) {
                *ran.entry(id).or_default() += rows;
            }
            run(&mut held, batch);
        }
        let rows = |&(rows, _): &(u32, u64)| rows;
        let expected = (0..).zip(jobs.iter().map(rows)).collect();
        prop_assert_eq!(ran, expected);
    }
}

#[test]
fn a_batch_tells_how_many_rows_of_other_shapes_it_had_room_for_and_how_many_waited() {
    // Three jobs of width 1, two of width 2.
    let mut held = held(&[(1, 1), (1, 1), (1, 2), (1, 1), (3, 2)]);
    let lost = |held: &mut HeldJobs, limit| {
        let batch = held.take_batch(limit_of(limit), soon(false), alone).unwrap();
        (batch.rows, batch.lost_to_shapes, batch.chosen_from)
    };
    assert_eq!(lost(&mut held, 6), (4, 2, 7), "the wider shape has more rows");
    assert_eq!(lost(&mut held, 2), (2, 0, 3));
    assert_eq!(lost(&mut held, 8), (1, 0, 1));
}

#[test]
fn small_jobs_run_in_every_batch_and_a_large_job_fills_it_up() {
    let mut held = held(&[(20, 1)]);
    let mut next = 1;
    for expected in [&[(0, 8)][..], &[(1, 1), (2, 3), (0, 4)], &[(3, 1), (4, 3), (0, 4)]] {
        let batch = held.take_batch(limit_of(8), soon(false), alone).unwrap();
        assert_eq!((parts(&batch), batch.release), (expected.to_vec(), Release::Full));
        run(&mut held, batch);
        held.extend([delivery(next, 1, 1), delivery(next + 1, 3, 1)].map(held_job));
        next += 2;
    }
}

#[test]
fn a_large_job_takes_every_second_batch_if_small_ones_fill_all() {
    let mut held = held(&[(20, 1)]);
    let mut led_by_large = Vec::new();
    for round in 0..5 {
        held.extend((0..8).map(|index| held_job(delivery(100 * round + index + 1, 1, 1))));
        let batch = held.take_batch(limit_of(8), soon(false), alone).unwrap();
        led_by_large.push(batch.jobs[0].is_large(limit_of(8)));
        assert_eq!(batch.rows, 8);
        run(&mut held, batch);
    }
    assert_eq!(led_by_large, [false, true, false, true, false]);
}

#[test]
fn a_large_job_that_would_be_late_is_not_overtaken() {
    let jobs = (1..20).map(|index| delivery(index, 8, 1));
    let leads = |unit_ms| {
        let mut held = hold([delivery(0, 24, 1)].into_iter().chain(jobs.clone()));
        let first = held.iter().next().unwrap();
        // Nothing is urgent that fits into a batch.
        let soon = first.delivery.deadline - Duration::from_millis(100);
        let urgency = Urgency { soon, unit: Duration::from_millis(unit_ms) };
        let mut batches = Vec::new();
        for _ in 0..4 {
            let batch = held.take_batch(limit_of(8), urgency, alone).unwrap();
            batches.push(batch.jobs[0].delivery.job.id.0);
            run(&mut held, batch);
        }
        batches
    };
    assert_eq!(leads(1), [1, 0, 2, 0]);
    assert_eq!(leads(7), [0, 0, 1, 0], "the last part is in time without haste");
    assert_eq!(leads(20), [0, 0, 0, 1]);
}

#[test]
fn a_large_job_of_another_shape_or_class_takes_turns_too() {
    let of = |priority: Priority, mut delivery: Delivery| {
        delivery.job.priority = priority;
        delivery
    };
    let [critical, default, low] = Priority::ALL;
    let turns = |large: Priority, small: Priority| {
        let mut held = hold([of(large, delivery(0, 60, 2))]);
        let mut leads = Vec::new();
        for index in 1..7 {
            held.extend([held_job(of(small, delivery(index, 1, 1)))]);
            let batch = held.take_batch(limit_of(8), soon(false), alone).unwrap();
            leads.push(u8::from(batch.jobs[0].is_large(limit_of(8))));
            run(&mut held, batch);
        }
        leads
    };
    assert_eq!(turns(default, default), [0, 1, 0, 1, 0, 1]);
    assert_eq!(turns(low, default), [0, 0, 0, 1, 0, 0]);
    // A small job of a lower class is overtaken three times, as by any job of a higher class.
    assert_eq!(turns(critical, default), [1, 1, 1, 0, 1, 1]);
}

#[test]
fn the_oldest_large_job_runs_first_and_the_next_fills_up_its_last_batch() {
    let mut held = held(&[(10, 1), (12, 1), (9, 2)]);
    let mut batches = Vec::new();
    while let Some(batch) = held.take_batch(limit_of(8), soon(false), alone) {
        batches.push(parts(&batch));
        run(&mut held, batch);
    }
    assert_eq!(
        batches,
        [vec![(0, 8)], vec![(0, 2), (1, 6)], vec![(1, 6)], vec![(2, 8)], vec![(2, 1)],]
    );
}

#[test]
fn a_batch_knows_why_it_left() {
    for (rows, limit, release) in [
        (&[(1, 1), (1, 1)][..], 4, Release::Drained),
        (&[(1, 1), (3, 1)], 4, Release::Full),
        (&[(2, 1), (3, 1)], 4, Release::Full),
        (&[(2, 1), (1, 2)], 4, Release::Shape),
        (&[(5, 1), (1, 2)], 4, Release::Shape),
        (&[(5, 1)], 4, Release::Full),
        (&[(1, 1), (1, 1)], 1, Release::Full),
    ] {
        let batch = held(rows).take_batch(limit_of(limit), soon(true), alone).unwrap();
        assert_eq!(batch.release, release, "{rows:?}");
    }
}

#[test]
fn most_rows_go_first_but_never_before_a_higher_class() {
    let widths = |jobs: &[(u64, Priority)]| {
        let job = |(index, &(width, priority)): (usize, &(u64, Priority))| {
            let mut delivery = delivery(index, 1, width);
            delivery.job.priority = priority;
            delivery
        };
        let mut held = hold(jobs.iter().enumerate().map(job));
        width(&held.take_batch(limit_of(8), soon(false), alone).unwrap().jobs[0])
    };
    let [critical, default, _] = Priority::ALL;
    assert_eq!(widths(&[(1, default), (2, default), (2, default)]), 2);
    assert_eq!(widths(&[(1, default), (2, default)]), 1, "the oldest of equals");
    assert_eq!(widths(&[(2, default), (2, default), (1, critical)]), 1);
    assert_eq!(widths(&[(2, critical), (1, critical), (1, default)]), 1);
}

#[test]
fn jobs_of_one_batch_that_is_not_full_have_room() {
    assert!(held(&[]).has_room(limit_of(4)));
    assert!(held(&[(1, 1), (2, 1)]).has_room(limit_of(4)));
    assert!(!held(&[(1, 1), (3, 1)]).has_room(limit_of(4)));
    assert!(!held(&[(1, 1), (1, 2)]).has_room(limit_of(4)));
    let mut begun = held(&[(5, 1)]);
    let batch = begun.take_batch(limit_of(4), soon(false), alone).unwrap();
    run(&mut begun, batch);
    assert!(!begun.has_room(limit_of(4)));
}

#[test]
fn jobs_are_taken_by_index() {
    let mut held = held(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
    let rows = |jobs: Vec<HeldJob>| jobs.iter().map(HeldJob::rows_left).collect::<Vec<_>>();
    assert_eq!(rows(held.take_at(&[0, 2, 3])), [1, 3, 4]);
    assert_eq!(rows(held.take_at(&[])), [0; 0]);
    assert_eq!(rows(held.take_all()), [2]);
}

#[test]
fn a_model_that_does_not_batch_gets_one_job_as_it_is() {
    let single = Layout::of(&spec(0));
    let mut held = HeldJobs::new(single.clone());
    held.extend((0..3).map(|index| held_job(delivery(index, 1, 5))));
    let batch = held.take_batch(limit_of(1), soon(false), alone).unwrap();
    assert_eq!((parts(&batch), held.iter().len()), (vec![(0, 1)], 2));
    assert_eq!(batch.lay_out(&single, 0).join().0[0].shape, [1, 5]);
}

/// A layout that pads the width of rows of bytes with zeros.
fn padded() -> Layout {
    let parameters = [("pad".to_owned(), "X:1=0".to_owned())].into();
    let padding = Padding::declared(&parameters, &spec(64), &Graph::default()).unwrap();
    layout().with_padding(padding.map(Arc::new))
}

#[test]
fn jobs_of_different_lengths_run_together_with_the_companions_that_are_chosen() {
    let mut held = HeldJobs::new(padded());
    let jobs = [(1, 10), (1, 500), (1, 12), (30, 11), (1, 480)];
    held.extend(
        (0..).zip(jobs).map(|(index, (rows, width))| held_job(delivery(index, rows, width))),
    );
    let mut seen = Vec::new();
    let short = |waiting: &[WaitingRows]| {
        seen.extend_from_slice(waiting);
        (0..waiting.len()).filter(|&at| waiting[at].rows == 1).collect()
    };
    let batch = held.take_batch(limit_of(8), soon(true), short).unwrap();
    // Of the large job only a part may run.
    assert_eq!(seen.iter().map(|waiting| waiting.rows).collect::<Vec<_>>(), [1, 1, 1, 8, 1]);
    assert_eq!(parts(&batch), [(0, 1), (1, 1), (2, 1), (4, 1)]);
    assert_eq!(batch.release, Release::Shape);
    let left: Vec<u32> = held.iter().map(HeldJob::part_rows).collect();
    assert_eq!(left, [30], "a job that was not chosen is not cut");
}
