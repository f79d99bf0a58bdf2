//! Batches: jobs that run together.

use batchfleet_broker::{Delivery, Release};

use crate::layout::{BatchInputs, JobRows, Layout};

/// Jobs that run together; the model's layout can join them.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The jobs in the order they were claimed; never empty.
    pub(crate) deliveries: Vec<Delivery>,
    /// Rows of all jobs.
    pub(crate) rows: u32,
    /// Why the batch was released.
    pub(crate) release: Release,
}

impl Batch {
    /// Makes a batch of `deliveries`.
    pub(crate) fn new(deliveries: Vec<Delivery>, release: Release) -> Self {
        let rows = deliveries.iter().map(|delivery| delivery.job.rows).sum();
        Self { deliveries, rows, release }
    }

    /// Splits the batch into its older and its younger half. Returns a batch of one job unchanged.
    pub(crate) fn halves(mut self) -> Result<[Self; 2], Self> {
        if self.deliveries.len() < 2 {
            return Err(self);
        }
        let younger = self.deliveries.split_off(self.deliveries.len().div_ceil(2));
        Ok([Self::new(self.deliveries, self.release), Self::new(younger, self.release)])
    }

    /// Lays out the inputs of the jobs, followed by `padding` rows of zeros or empty strings.
    pub(crate) fn lay_out(&self, layout: &Layout, padding: u32) -> BatchInputs {
        let jobs = self.deliveries.iter().map(|delivery| &delivery.job);
        let parts: Vec<JobRows<'_>> = jobs.map(|job| JobRows { job, rows: 0..job.rows }).collect();
        layout.lay_out(&parts, padding)
    }
}

/// Jobs for the tests of other modules.
#[cfg(test)]
pub(crate) mod examples {
    use std::{num::NonZeroU32, time::Duration};

    use batchfleet_broker::{
        Datatype, EntryId, GatewayId, Job, ModelSpec, Priority, QueueName, RequestId, Tensor,
        TensorSpec,
    };
    use tokio::time::Instant;

    use super::*;

    /// A model that returns rows of bytes, of at most `max_batch` rows per request.
    pub(crate) fn spec(max_batch: u32) -> ModelSpec {
        let tensor = TensorSpec::new("X", Datatype::Uint8, [-1, -1]);
        ModelSpec {
            queue: QueueName::new("m", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: NonZeroU32::new(max_batch),
            inputs: vec![tensor.clone()],
            outputs: vec![tensor],
        }
    }

    /// A job of `rows` rows of `width` bytes.
    pub(crate) fn delivery(index: usize, rows: u32, width: u64) -> Delivery {
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
            classes: Vec::new(),
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
}
