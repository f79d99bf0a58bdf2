//! Held jobs, which are claimed but have not run, and the choice of the next batch. Pure.

use std::{cmp::Reverse, collections::VecDeque, mem};

use batchfleet_broker::{Delivery, Job, Priority, Release};
use tokio::time::Instant;

use crate::{batch::Batch, layout::Layout};

/// Maximum number of batches that overtake a job of a rare shape, while more jobs of its shape
/// gather.
const MOST_OVERTAKEN: u32 = 3;

/// Jobs that wait for their batch.
#[derive(Debug)]
pub(super) struct HeldJobs {
    layout: Layout,
    /// In the order they were claimed.
    jobs: VecDeque<Delivery>,
    /// How many batches in a row have overtaken the oldest job.
    overtaken: u32,
    mixed: bool,
}

impl HeldJobs {
    /// Starts without jobs.
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, jobs: VecDeque::new(), overtaken: 0, mixed: false }
    }

    /// Whether no jobs are held.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Rows of all jobs.
    pub(super) fn rows(&self) -> u32 {
        self.iter().map(|delivery| delivery.job.rows).sum()
    }

    /// All jobs, oldest first.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Delivery> {
        self.jobs.iter()
    }

    /// Appends jobs, which should be younger than all held jobs.
    pub(super) fn extend(&mut self, jobs: impl IntoIterator<Item = Delivery>) {
        self.jobs.extend(jobs);
    }

    /// Takes the oldest `count` jobs.
    pub(super) fn take_oldest(&mut self, count: usize) -> Vec<Delivery> {
        self.jobs.drain(..count.min(self.jobs.len())).collect()
    }

    /// Takes all jobs.
    pub(super) fn take_all(&mut self) -> Vec<Delivery> {
        mem::take(&mut self.jobs).into()
    }

    /// Whether some held jobs could not have joined the last batch.
    pub(super) fn is_mixed(&self) -> bool {
        self.mixed
    }

    /// Whether the next batch must include the oldest job: it has been overtaken often enough, or
    /// its deadline is `soon` or earlier.
    pub(super) fn oldest_is_next(&self, soon: Instant) -> bool {
        let is_urgent = self.jobs.front().is_some_and(|front| front.deadline <= soon);
        is_urgent || self.overtaken >= MOST_OVERTAKEN
    }

    /// Takes the next batch, of at most `limit` rows. `soon` as for
    /// [`oldest_is_next`](Self::oldest_is_next).
    pub(super) fn take_batch(&mut self, limit: u32, soon: Instant) -> Option<Batch> {
        let oldest = self.jobs.front()?.entry;
        let in_order = self.oldest_is_next(soon);
        let batch = take(&mut self.jobs, &self.layout, limit, in_order)?;
        let is_overtaken = self.jobs.front().is_some_and(|front| front.entry == oldest);
        self.overtaken = if is_overtaken { self.overtaken + 1 } else { 0 };
        let first = &batch.deliveries[0].job;
        self.mixed = self.jobs.iter().any(|left| !self.layout.can_join(first, &left.job));
        Some(batch)
    }
}

/// Takes jobs that `layout` can join and that fit into `limit` rows together, oldest first. Jobs
/// are never split. The first job that does not fit ends the batch, so that no job is overtaken by
/// a younger job of its shape.
///
/// Among several shapes, the shape with the most rows runs first, provided that one of its jobs is
/// of the highest priority class held. Batches take about the same time, so running the most rows
/// first minimizes the total wait of all rows (Smith's rule: least time per weight first; W. E.
/// Smith, 1956). With `in_order`, the shape of the oldest job runs first.
fn take(
    held: &mut VecDeque<Delivery>,
    layout: &Layout,
    limit: u32,
    in_order: bool,
) -> Option<Batch> {
    let mut index = if in_order { 0 } else { first_of_most(held, layout) };
    let first = held.remove(index)?;
    let mut rows = first.job.rows;
    let mut deliveries = vec![first];
    let mut release = match rows {
        rows if rows == limit => Release::Full,
        rows if rows > limit => Release::Oversize,
        _ => Release::Drained,
    };
    while release == Release::Drained
        && let Some(next) = held.get(index)
    {
        if !layout.can_join(&deliveries[0].job, &next.job) {
            index += 1;
        } else if next.job.rows > limit - rows {
            release = Release::Full;
        } else {
            rows += next.job.rows;
            deliveries.extend(held.remove(index));
            if rows == limit {
                release = Release::Full;
            }
        }
    }
    if release == Release::Drained && !held.is_empty() {
        release = Release::Shape;
    }
    Some(Batch { deliveries, rows, release })
}

/// The index of the oldest job of the shape with the most rows, among the shapes with a job of the
/// highest priority class held.
fn first_of_most(held: &VecDeque<Delivery>, layout: &Layout) -> usize {
    struct Shape<'a> {
        first: usize,
        job: &'a Job,
        rows: u32,
        class: Priority,
    }
    let mut shapes: Vec<Shape> = Vec::with_capacity(1);
    for (index, Delivery { job, .. }) in held.iter().enumerate() {
        match shapes.iter_mut().find(|shape| layout.can_join(shape.job, job)) {
            Some(shape) => {
                shape.rows += job.rows;
                shape.class = shape.class.min(job.priority);
            }
            None => shapes.push(Shape { first: index, job, rows: job.rows, class: job.priority }),
        }
    }
    let order = |shape: &&Shape| (shape.class, Reverse(shape.rows), shape.first);
    shapes.iter().min_by_key(order).map_or(0, |shape| shape.first)
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::RequestId;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::examples::{delivery, spec};

    fn width(delivery: &Delivery) -> u64 {
        delivery.job.inputs[0].shape[1]
    }

    proptest! {
        #[test]
        fn batches_are_of_one_shape_within_the_limit_oldest_first_and_lose_no_job(
            jobs in prop::collection::vec((1_u32..9, 1_u64..4), 0..60),
            limit in 1_u32..17,
            in_order: bool,
        ) {
            let mut held: VecDeque<Delivery> = jobs
                .iter()
                .enumerate()
                .map(|(index, &(rows, width))| delivery(index, rows, width))
                .collect();
            let mut taken: Vec<Vec<RequestId>> = vec![Vec::new(); 4];
            while let Some(oldest) = held.front().map(|delivery| delivery.job.id) {
                let of = |shape| held.iter().filter(move |job| width(job) == shape);
                let rows = |shape| of(shape).map(|job| job.job.rows).sum::<u32>();
                let most = (1..4).map(rows).max();
                let rows_of = [0, rows(1), rows(2), rows(3)];
                let batch = take(&mut held, &Layout::of(&spec(64)), limit, in_order).unwrap();
                let first = &batch.deliveries[0];
                if in_order {
                    prop_assert_eq!(first.job.id, oldest);
                } else {
                    prop_assert_eq!(Some(rows_of[usize::try_from(width(first)).unwrap()]), most);
                }
                let rows = batch.deliveries.iter().map(|delivery| delivery.job.rows);
                prop_assert_eq!(batch.rows, rows.sum::<u32>());
                prop_assert!(batch.rows <= limit || batch.deliveries.len() == 1);
                let shape = width(&batch.deliveries[0]);
                for delivery in &batch.deliveries {
                    prop_assert_eq!(width(delivery), shape);
                    taken[usize::try_from(shape).unwrap()].push(delivery.job.id);
                }
            }
            prop_assert_eq!(taken.iter().map(Vec::len).sum::<usize>(), jobs.len());
            prop_assert!(taken.iter().all(|ids| ids.is_sorted()));
        }
    }

    #[test]
    fn a_batch_knows_why_it_left() {
        for (rows, limit, release) in [
            (&[(1, 1), (1, 1)][..], 4, Release::Drained),
            (&[(1, 1), (3, 1)], 4, Release::Full),
            (&[(2, 1), (3, 1)], 4, Release::Full),
            (&[(2, 1), (1, 2)], 4, Release::Shape),
            (&[(5, 1), (1, 1)], 4, Release::Oversize),
            (&[(1, 1), (1, 1)], 1, Release::Full),
        ] {
            let mut held = rows.iter().map(|&(rows, width)| delivery(0, rows, width)).collect();
            let batch = take(&mut held, &Layout::of(&spec(64)), limit, true).unwrap();
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
            let mut held: VecDeque<_> = jobs.iter().enumerate().map(job).collect();
            width(&take(&mut held, &Layout::of(&spec(64)), 8, false).unwrap().deliveries[0])
        };
        let [critical, default, _] = Priority::ALL;
        assert_eq!(widths(&[(1, default), (2, default), (2, default)]), 2);
        assert_eq!(widths(&[(1, default), (2, default)]), 1, "the oldest of equals");
        assert_eq!(widths(&[(2, default), (2, default), (1, critical)]), 1);
        assert_eq!(widths(&[(2, critical), (1, critical), (1, default)]), 1);
    }

    #[test]
    fn a_model_that_does_not_batch_gets_one_job_as_it_is() {
        let single = Layout::of(&spec(0));
        let mut held: VecDeque<_> = (0..3).map(|index| delivery(index, 1, 5)).collect();
        let batch = take(&mut held, &single, 1, false).unwrap();
        assert_eq!((batch.deliveries.len(), held.len()), (1, 2));
        assert_eq!(batch.deliveries[0].job.id, RequestId(0));
        assert_eq!(batch.lay_out(&single, 0).join().0[0].shape, [1, 5]);
    }
}
