//! Which of the jobs a worker holds run together. Pure.

use std::collections::VecDeque;

use batchfleet_broker::{Delivery, Job};

use crate::tensors::Column;

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

/// Why a batch left when it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// No more rows fit.
    Full,
    /// Nobody else was waiting.
    Drained,
    /// It had waited as long as it may for others.
    Linger,
    /// The others that were waiting are of another shape.
    Shape,
    /// One request larger than N; it runs alone.
    Oversize,
}

impl Release {
    /// Every reason.
    pub(crate) const ALL: [Self; 5] =
        [Self::Full, Self::Drained, Self::Linger, Self::Shape, Self::Oversize];

    /// The bounded `reason` label.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Drained => "drained",
            Self::Linger => "linger",
            Self::Shape => "shape",
            Self::Oversize => "oversize",
        }
    }
}

/// Takes the oldest job and those of its shape that fit into `limit` rows with it, oldest first.
///
/// Whole requests only; the first that does not fit ends the batch, so that no request is overtaken
/// by a younger one of its shape. `limit` 0 takes one job: the model does not batch.
pub(crate) fn take(held: &mut VecDeque<Delivery>, limit: u32) -> Option<Batch> {
    let first = held.pop_front()?;
    let mut rows = first.job.rows;
    let mut deliveries = vec![first];
    let mut release = match rows {
        _ if limit == 0 || rows == limit => Release::Full,
        rows if rows > limit => Release::Oversize,
        _ => Release::Drained,
    };
    let mut index = 0;
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
    /// Its inputs, in parts, as the engine takes them.
    pub(crate) fn columns(&self, batches: bool) -> Vec<Column> {
        let Some(first) = self.deliveries.first() else { return Vec::new() };
        let column = |index: usize| {
            let input = &first.job.inputs[index];
            let mut shape = input.shape.clone();
            if batches {
                shape[0] = u64::from(self.rows);
            }
            let part = |delivery: &Delivery| delivery.job.inputs[index].data.clone();
            let parts = self.deliveries.iter().map(part).collect();
            Column { name: input.name.clone(), datatype: input.datatype, shape, parts }
        };
        (0..first.job.inputs.len()).map(column).collect()
    }

    /// Rows of each request in it.
    pub(crate) fn rows_of_each(&self) -> Vec<u32> {
        self.deliveries.iter().map(|delivery| delivery.job.rows).collect()
    }
}
