//! The messages of a `config.pbtxt`, with the fields that Triton's `model_config.proto` defines and
//! describes.
//!
//! The same structs read the text format and write the JSON form, in which clients get the config.
//! A field that is a message is an `Option`, so that an empty message differs from a missing one.

mod enums;
mod optimization;
mod scheduling;
mod switch;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) use self::{
    enums::{BatchInputKind, BatchOutputKind, DataType, Format, InstanceKind, SecondaryDeviceKind},
    optimization::{Accelerator, Optimization},
    scheduling::{DynamicBatching, QueuePolicy, TimeoutAction},
    switch::Switch,
};

/// A complete config.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) platform: String,
    pub(crate) backend: String,
    pub(crate) runtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version_policy: Option<Versions>,
    /// `None` if the config leaves the maximum to Batchfleet. Triton reads this as 0, and then
    /// replaces the number by the model's own if the model batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_batch_size: Option<i32>,
    pub(crate) input: Vec<Input>,
    pub(crate) output: Vec<Output>,
    pub(crate) batch_input: Vec<BatchInput>,
    pub(crate) batch_output: Vec<BatchOutput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) optimization: Option<Optimization>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dynamic_batching: Option<DynamicBatching>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sequence_batching: Option<Unread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ensemble_scheduling: Option<Unread>,
    pub(crate) instance_group: Vec<InstanceGroup>,
    pub(crate) default_model_filename: String,
    pub(crate) cc_model_filenames: BTreeMap<String, String>,
    pub(crate) metric_tags: BTreeMap<String, String>,
    pub(crate) parameters: BTreeMap<String, Parameter>,
    pub(crate) model_warmup: Vec<Warmup>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model_operations: Option<Operations>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model_transaction_policy: Option<TransactionPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model_repository_agents: Option<RepositoryAgents>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_cache: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model_metrics: Option<Metrics>,
}

/// A message that Batchfleet refuses whatever it contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unread;

impl Serialize for Unread {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(true)
    }
}

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// `ModelInput`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "Triton defines the message")]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    pub(crate) format: Format,
    pub(crate) dims: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reshape: Option<Reshape>,
    pub(crate) is_shape_tensor: bool,
    pub(crate) allow_ragged_batch: bool,
    pub(crate) optional: bool,
    pub(crate) is_non_linear_format_io: bool,
}

/// `ModelOutput`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    pub(crate) dims: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reshape: Option<Reshape>,
    pub(crate) label_filename: String,
    pub(crate) is_shape_tensor: bool,
    pub(crate) is_non_linear_format_io: bool,
}

/// `ModelTensorReshape`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Reshape {
    pub(crate) shape: Vec<i64>,
}

/// `BatchInput`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BatchInput {
    pub(crate) kind: BatchInputKind,
    pub(crate) target_name: Vec<String>,
    pub(crate) data_type: DataType,
    pub(crate) source_input: Vec<String>,
}

/// `BatchOutput`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BatchOutput {
    pub(crate) target_name: Vec<String>,
    pub(crate) kind: BatchOutputKind,
    pub(crate) source_input: Vec<String>,
}

/// `ModelVersionPolicy`; at most one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Versions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latest: Option<Latest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) all: Option<All>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) specific: Option<Specific>,
}

/// `ModelVersionPolicy.Latest`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Latest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) num_versions: Option<u32>,
}

/// `ModelVersionPolicy.All`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct All {}

/// `ModelVersionPolicy.Specific`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Specific {
    pub(crate) versions: Vec<i64>,
}

/// `ModelInstanceGroup`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct InstanceGroup {
    pub(crate) name: String,
    pub(crate) kind: InstanceKind,
    pub(crate) count: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate_limiter: Option<RateLimiter>,
    pub(crate) gpus: Vec<i32>,
    pub(crate) secondary_devices: Vec<SecondaryDevice>,
    pub(crate) profile: Vec<String>,
    pub(crate) passive: bool,
    pub(crate) host_policy: String,
}

/// `ModelRateLimiter`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RateLimiter {
    pub(crate) resources: Vec<Resource>,
    pub(crate) priority: u32,
}

/// `ModelRateLimiter.Resource`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Resource {
    pub(crate) name: String,
    pub(crate) global: bool,
    pub(crate) count: u32,
}

/// `ModelInstanceGroup.SecondaryDevice`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SecondaryDevice {
    pub(crate) kind: SecondaryDeviceKind,
    pub(crate) device_id: i64,
}

/// `ModelParameter`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Parameter {
    pub(crate) string_value: String,
}

/// `ModelWarmup`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Warmup {
    pub(crate) name: String,
    pub(crate) batch_size: u32,
    pub(crate) inputs: BTreeMap<String, WarmupInput>,
    pub(crate) count: u32,
}

/// `ModelWarmup.Input`; at most one of the last three fields is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WarmupInput {
    pub(crate) data_type: DataType,
    pub(crate) dims: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zero_data: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) random_data: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) input_data_file: Option<String>,
}

/// `ModelOperations`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Operations {
    pub(crate) op_library_filename: Vec<String>,
}

/// `ModelTransactionPolicy`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TransactionPolicy {
    pub(crate) decoupled: bool,
}

/// `ModelRepositoryAgents`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RepositoryAgents {
    pub(crate) agents: Vec<Agent>,
}

/// `ModelRepositoryAgents.Agent`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) parameters: BTreeMap<String, String>,
}

/// `ModelMetrics`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Metrics {
    pub(crate) metric_control: Vec<MetricControl>,
}

/// `ModelMetrics.MetricControl`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MetricControl {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metric_identifier: Option<MetricIdentifier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) histogram_options: Option<HistogramOptions>,
}

/// `ModelMetrics.MetricControl.MetricIdentifier`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MetricIdentifier {
    pub(crate) family: String,
}

/// `ModelMetrics.MetricControl.HistogramOptions`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HistogramOptions {
    pub(crate) buckets: Vec<f64>,
}
