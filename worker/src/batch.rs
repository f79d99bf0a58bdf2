//! Which of the jobs a worker holds run together. Pure.

use std::{cmp::Reverse, collections::VecDeque};

use batchfleet_broker::{Delivery, Job, Priority, Release};

use crate::tensors::{self, Column};

/// Jobs that run together: all of one shape.
#[derive(Debug)]
pub(crate) struct Batch {
    /// In the order they were claimed; never empty.
    pub(crate) deliveries: Vec<Delivery>,
    /// Rows of all of them.
    pub(crate) rows: u32,
    /// Why it left now.
    pub(crate) release: Release,
}

/// Takes jobs of one shape that fit into `limit` rows together, oldest first; whole requests only.
/// The first that does not fit ends the batch, so that no request is overtaken by a younger one of
/// its shape. `limit` 0 takes one job: the model does not batch.
///
/// Which shape: the one of most rows, as long as they are of no lower class than any other. A batch
/// takes about as long whatever is in it, so rows wait least in total if the most go first (Smith's
/// rule: least time per weight first; W. E. Smith, 1956). `in_order` it is the oldest job's.
pub(crate) fn take(held: &mut VecDeque<Delivery>, limit: u32, in_order: bool) -> Option<Batch> {
    let mut index = if in_order || limit == 0 { 0 } else { first_of_most(held) };
    let first = held.remove(index)?;
    let mut rows = first.job.rows;
    let mut deliveries = vec![first];
    let mut release = match rows {
        _ if limit == 0 || rows == limit => Release::Full,
        rows if rows > limit => Release::Oversize,
        _ => Release::Drained,
    };
    while release == Release::Drained
        && let Some(next) = held.get(index)
    {
        if !same_shape(&deliveries[0].job, &next.job) {
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

/// The place of the oldest job of the shape that most rows are of, among shapes of which a job is of
/// the highest class there is.
fn first_of_most(held: &VecDeque<Delivery>) -> usize {
    struct Shape {
        first: usize,
        rows: u32,
        class: Priority,
    }
    let mut shapes: Vec<Shape> = Vec::with_capacity(1);
    for (index, Delivery { job, .. }) in held.iter().enumerate() {
        match shapes.iter_mut().find(|shape| same_shape(&held[shape.first].job, job)) {
            Some(shape) => {
                shape.rows += job.rows;
                shape.class = shape.class.min(job.priority);
            }
            None => shapes.push(Shape { first: index, rows: job.rows, class: job.priority }),
        }
    }
    let order = |shape: &&Shape| (shape.class, Reverse(shape.rows), shape.first);
    shapes.iter().min_by_key(order).map_or(0, |shape| shape.first)
}

/// Whether two jobs of one model can be joined: equal but for the first dimension of each input.
fn same_shape(one: &Job, other: &Job) -> bool {
    one.inputs.len() == other.inputs.len()
        && one
            .inputs
            .iter()
            .zip(&other.inputs)
            .all(|(a, b)| a.datatype == b.datatype && a.shape.get(1..) == b.shape.get(1..))
}

impl Batch {
    /// Some jobs of one shape.
    pub(crate) fn new(deliveries: Vec<Delivery>, release: Release) -> Self {
        let rows = deliveries.iter().map(|delivery| delivery.job.rows).sum();
        Self { deliveries, rows, release }
    }

    /// Whether this job can be joined to it.
    pub(crate) fn fits(&self, job: &Job) -> bool {
        self.deliveries.first().is_none_or(|first| same_shape(&first.job, job))
    }

    /// Its older and its younger half, if it is to be `split`; itself if not, or if it is of one job.
    pub(crate) fn halves_if(mut self, split: bool) -> Result<[Self; 2], Self> {
        if !split || self.deliveries.len() < 2 {
            return Err(self);
        }
        let younger = self.deliveries.split_off(self.deliveries.len().div_ceil(2));
        Ok([Self::new(self.deliveries, self.release), Self::new(younger, self.release)])
    }

    /// Its inputs, in parts, as the engine takes them; with so many rows of zeros, or of empty
    /// strings, at their end.
    pub(crate) fn columns(&self, batches: bool, padding: u32) -> Vec<Column> {
        let Some(first) = self.deliveries.first() else { return Vec::new() };
        let column = |index: usize| {
            let input = &first.job.inputs[index];
            let mut shape = input.shape.clone();
            if let Some(first) = shape.first_mut().filter(|_| batches) {
                *first = u64::from(self.rows + padding);
            }
            let part = |delivery: &Delivery| delivery.job.inputs[index].data.clone();
            let mut parts: Vec<_> = self.deliveries.iter().map(part).collect();
            if padding > 0 {
                let of_row: u64 = shape.iter().skip(1).product();
                parts.push(tensors::zeros(input.datatype, u64::from(padding) * of_row));
            }
            Column { name: input.name.clone(), datatype: input.datatype, shape, parts }
        };
        (0..first.job.inputs.len()).map(column).collect()
    }

    /// Rows of each request in it.
    pub(crate) fn rows_of_each(&self) -> Vec<u32> {
        self.deliveries.iter().map(|delivery| delivery.job.rows).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use batchfleet_broker::{Datatype, EntryId, GatewayId, Priority, RequestId, Tensor};
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;

    /// A job of so many rows, each of `width` bytes.
    fn delivery(index: usize, rows: u32, width: u64) -> Delivery {
        let data = vec![0; usize::try_from(u64::from(rows) * width).unwrap()];
        let input = Tensor {
            name: "X".to_owned(),
            datatype: Datatype::Uint8,
            shape: vec![u64::from(rows), width],
            data: data.into(),
        };
        let job = Job {
            id: RequestId(index as u128),
            gateway: GatewayId(0),
            attempt: 0,
            priority: Priority::Default,
            ttl: Duration::from_secs(1),
            rows,
            digest: 0,
            inputs: vec![input],
            outputs: Vec::new(),
            trace: None,
        };
        let priority = Priority::Default;
        let entry = EntryId { priority, milliseconds: 0, sequence: index as u64 };
        let now = Instant::now();
        Delivery {
            entry,
            job,
            deliveries: 1,
            waited: Duration::ZERO,
            claimed_at: now,
            deadline: now,
            awaited: true,
        }
    }

    fn width(delivery: &Delivery) -> u64 {
        delivery.job.inputs[0].shape[1]
    }

    proptest! {
        #[test]
        fn batches_are_of_one_shape_within_the_limit_oldest_first_and_lose_nobody(
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
                let batch = take(&mut held, limit, in_order).unwrap();
                let first = &batch.deliveries[0];
                if in_order {
                    prop_assert_eq!(first.job.id, oldest);
                } else {
                    prop_assert_eq!(Some(rows_of[usize::try_from(width(first)).unwrap()]), most);
                }
                prop_assert_eq!(batch.rows, batch.rows_of_each().iter().sum::<u32>());
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
            (&[(1, 1), (1, 1)], 0, Release::Full),
        ] {
            let mut held = rows.iter().map(|&(rows, width)| delivery(0, rows, width)).collect();
            assert_eq!(take(&mut held, limit, true).unwrap().release, release, "{rows:?}");
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
            width(&take(&mut held, 8, false).unwrap().deliveries[0])
        };
        let [critical, default, _] = Priority::ALL;
        assert_eq!(widths(&[(1, default), (2, default), (2, default)]), 2);
        assert_eq!(widths(&[(1, default), (2, default)]), 1, "the oldest of equals");
        assert_eq!(widths(&[(2, default), (2, default), (1, critical)]), 1);
        assert_eq!(widths(&[(2, critical), (1, critical), (1, default)]), 1);
    }

    #[test]
    fn a_model_that_does_not_batch_gets_one_job_as_it_is() {
        let mut held: VecDeque<_> = (0..3).map(|index| delivery(index, 1, 5)).collect();
        let batch = take(&mut held, 0, false).unwrap();
        assert_eq!((batch.deliveries.len(), held.len()), (1, 2));
        assert_eq!(batch.columns(false, 0)[0].shape, [1, 5]);
    }
}
