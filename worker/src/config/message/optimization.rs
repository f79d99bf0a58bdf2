//! `ModelOptimizationPolicy` and its messages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{enums::proto_enum, switch::Switch};

/// `ModelOptimizationPolicy`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Optimization {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) graph: Option<Graph>,
    pub(crate) priority: ModelPriority,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cuda: Option<Cuda>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) execution_accelerators: Option<Accelerators>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) input_pinned_memory: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output_pinned_memory: Option<Switch>,
    pub(crate) gather_kernel_buffer_threshold: u32,
    pub(crate) eager_batching: bool,
}

proto_enum!(
    /// `ModelOptimizationPolicy.ModelPriority`
    ModelPriority { Default = "PRIORITY_DEFAULT", Max = "PRIORITY_MAX", Min = "PRIORITY_MIN" }
);

/// `ModelOptimizationPolicy.Graph`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Graph {
    pub(crate) level: i32,
}

/// `ModelOptimizationPolicy.Cuda`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Cuda {
    pub(crate) graphs: bool,
    pub(crate) busy_wait_events: bool,
    pub(crate) graph_spec: Vec<GraphSpec>,
    pub(crate) output_copy_stream: bool,
}

/// `ModelOptimizationPolicy.Cuda.GraphSpec`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GraphSpec {
    pub(crate) batch_size: i32,
    pub(crate) input: BTreeMap<String, GraphShape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) graph_lower_bound: Option<LowerBound>,
}

/// `ModelOptimizationPolicy.Cuda.GraphSpec.Shape`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GraphShape {
    pub(crate) dim: Vec<i64>,
}

/// `ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LowerBound {
    pub(crate) batch_size: i32,
    pub(crate) input: BTreeMap<String, GraphShape>,
}

/// `ModelOptimizationPolicy.ExecutionAccelerators`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Accelerators {
    pub(crate) gpu_execution_accelerator: Vec<Accelerator>,
    pub(crate) cpu_execution_accelerator: Vec<Accelerator>,
}

/// `ModelOptimizationPolicy.ExecutionAccelerators.Accelerator`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Accelerator {
    pub(crate) name: String,
    pub(crate) parameters: BTreeMap<String, String>,
}
