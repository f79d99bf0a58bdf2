//! Batches: jobs that run together.

use batchfleet_broker::Release;

use crate::{
    job::HeldJob,
    layout::{BatchInputs, JobRows, Layout},
    limit::whole_units,
};

/// Jobs, or parts of large jobs, that run together; the model's layout can join them.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The jobs; never empty.
    pub(crate) jobs: Vec<HeldJob>,
    /// Rows of all jobs that run in the batch.
    pub(crate) rows: u32,
    /// What these rows cost, in units.
    pub(crate) units: u32,
    /// Why the batch was released.
    pub(crate) release: Release,
    /// Rows of held jobs of other shapes that the batch had room for.
    pub(crate) lost_to_shapes: u32,
    /// What all jobs cost, in units, of which the jobs of the batch were chosen; 0 if none was chosen.
    pub(crate) chosen_from: u32,
}

impl Batch {
    /// Makes a batch of `jobs`.
    pub(crate) fn new(jobs: Vec<HeldJob>, release: Release) -> Self {
        let rows = jobs.iter().map(HeldJob::part_rows).sum();
        // All rows are padded to the longest.
        let row_units = jobs.iter().map(HeldJob::row_units).fold(0.0, f64::max);
        let units = whole_units(f64::from(rows) * row_units);
        Self { jobs, rows, units, release, lost_to_shapes: 0, chosen_from: 0 }
    }

    /// Splits the batch into its first and its second half of jobs. Returns a batch of one job
    /// unchanged.
    pub(crate) fn halves(mut self) -> Result<[Self; 2], Self> {
        if self.jobs.len() < 2 {
            return Err(self);
        }
        let second = self.jobs.split_off(self.jobs.len().div_ceil(2));
        Ok([Self::new(self.jobs, self.release), Self::new(second, self.release)])
    }

    /// The length of the longest row.
    pub(crate) fn length(&self) -> u64 {
        self.jobs.iter().map(|job| job.waiting_rows().length).max().unwrap_or(1)
    }

    /// The length of all rows together, padded to the longest, and without padding.
    pub(crate) fn positions(&self) -> (u64, u64) {
        let of = |job: &HeldJob| u64::from(job.part_rows()).saturating_mul(job.own_length());
        let needed = self.jobs.iter().map(of).fold(0, u64::saturating_add);
        (u64::from(self.rows).saturating_mul(self.length()), needed)
    }

    /// What all rows cost without padding to the longest, in units.
    pub(crate) fn own_units(&self) -> f64 {
        self.jobs.iter().map(HeldJob::part_units).sum()
    }

    /// What each row costs, padded to the longest, in units.
    pub(crate) fn row_units(&self) -> f64 {
        self.jobs.iter().map(HeldJob::row_units).fold(0.0, f64::max)
    }

    /// About the bytes of the inputs of all rows.
    pub(crate) fn input_bytes(&self) -> u64 {
        let of = |job: &HeldJob| {
            let inputs = &job.delivery.job.inputs;
            let bytes: u64 = inputs.iter().map(|input| input.data.len() as u64).sum();
            bytes / u64::from(job.delivery.job.rows.max(1)) * u64::from(job.part_rows())
        };
        self.jobs.iter().map(of).sum()
    }

    /// Lays out the inputs of the jobs, followed by `padding` rows of zeros or empty strings.
    pub(crate) fn lay_out(&self, layout: &Layout, padding: u32) -> BatchInputs {
        let parts: Vec<JobRows<'_>> = self.jobs.iter().map(HeldJob::rows).collect();
        layout.lay_out(&parts, padding)
    }
}

/// Jobs for the tests of other modules.
#[cfg(test)]
pub(crate) mod examples {
    use std::{num::NonZeroU32, time::Duration};

    use batchfleet_broker::{
        Datatype, Delivery, EntryId, GatewayId, Job, ModelSpec, Priority, QueueName, RequestId,
        Tensor, TensorSpec,
    };
    use tokio::time::Instant;

    use super::HeldJob;
    use crate::{lengths::RowLengths, limit::BatchLimit};

    /// A held job whose rows cost one unit each.
    pub(crate) fn held_job(delivery: Delivery) -> HeldJob {
        HeldJob::new(delivery, &RowLengths::default())
    }

    /// The limit of batches of at most `rows` rows that cost one unit each.
    pub(crate) fn limit_of(rows: u32) -> BatchLimit {
        BatchLimit { rows, units: f64::from(rows) }
    }

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
            offer: None,
        };
        let priority = Priority::Default;
        let entry = EntryId { priority, sequence: index as u64, ..EntryId::default() };
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
