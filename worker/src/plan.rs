//! How a loaded model is served.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::ModelSpec;
use batchfleet_policy::{BatchPolicy, CostModel, SizeChange};
use batchfleet_service::trace::Tracer;

use crate::{classes::Labels, layout::Layout, lengths::RowLengths, padding::Padding};

/// Everything that does not change while a model is served.
#[derive(Clone, Debug)]
pub(crate) struct ServingPlan {
    /// The model.
    pub(crate) spec: Arc<ModelSpec>,
    /// The name of the execution provider that runs the model.
    pub(crate) provider: &'static str,
    /// Places where a run copies data between the device and the processor within the model.
    pub(crate) memcpy_nodes: u32,
    /// The labels of the outputs' values.
    pub(crate) labels: Arc<Labels>,
    /// Batch times as measured by the warm-up, by the units of their rows.
    pub(crate) cost: CostModel,
    /// What rows cost by their length.
    pub(crate) lengths: RowLengths,
    /// Which dimensions of the inputs may be padded.
    pub(crate) padding: Option<Arc<Padding>>,
    /// Chooses N, the maximum number of rows per batch.
    pub(crate) policy: BatchPolicy,
    /// What a change of the size of batches costs.
    pub(crate) size_change: SizeChange,
    /// How long a batch that is not full waits for more jobs.
    pub(crate) linger: Duration,
    /// Longer runs count as hung.
    pub(crate) max_batch_time: Duration,
    /// How often an answered request of a batch runs again alone; zero for never.
    pub(crate) sentinel_interval: Duration,
    /// Records spans of traced batches.
    pub(crate) tracer: Tracer,
    /// What users of the model should know about how it is served, as sentences.
    pub(crate) notes: Vec<String>,
    /// Lines that its `config.pbtxt` should have, as far as the load has found them.
    pub(crate) config_lines: Vec<String>,
}

impl ServingPlan {
    /// How the model's tensors hold the rows of a batch.
    pub(crate) fn layout(&self) -> Layout {
        Layout::of(&self.spec).with_padding(self.padding.clone())
    }
}
