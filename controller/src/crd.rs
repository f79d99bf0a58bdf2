//! The custom resource `ModelFleet`. Its YAML is generated from these types; their doc comments
//! become the descriptions that `kubectl explain` shows.

#![expect(
    unreachable_pub,
    reason = "`KubeSchema` repeats each struct, with its visibility, inside a function"
)]

mod pod;
mod schema;
mod status;
#[cfg(test)]
mod tests;

pub use self::{
    pod::{
        Amount, EmptyDirSource, EngineCache, ExecutionProvider, Gpu, ImageSource, ModelSource,
        ObjectStoreSource, PodOverrides, Resources, VolumeClaimSource, Worker,
    },
    schema::{definition, yaml},
    status::ModelFleetStatus,
};

use batchfleet_policy::UTILIZATION;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The desired fleet of workers for one model.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "batchfleet.dev",
    version = "v1alpha1",
    kind = "ModelFleet",
    plural = "modelfleets",
    shortname = "mf",
    category = "batchfleet",
    namespaced,
    status = "ModelFleetStatus",
    derive = "PartialEq",
    doc = "A fleet of workers that serves one model and is scaled to its load.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Workers", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Wanted", type_ = "integer", json_path = ".status.wantedReplicas"),
    printcolumn(name = "HPA", type_ = "integer", json_path = ".status.autoscalerReplicas"),
    printcolumn(name = "N", type_ = "integer", json_path = ".status.n"),
    printcolumn(name = "Offered", type_ = "number", json_path = ".status.offeredRowsPerSecond"),
    printcolumn(name = "Capacity", type_ = "number", json_path = ".status.capacityRowsPerSecond"),
    printcolumn(name = "P99", type_ = "integer", json_path = ".status.p99Ms"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("the name of a fleet may have at most 40 characters, because the names of its pods begin with it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.replicas) || self.replicas <= self.scaling.max")
    .message("replicas must not be more than scaling.max"))]
pub struct ModelFleetSpec {
    /// The model that the fleet serves, and its source.
    pub model: Model,
    /// The latency target.
    #[serde(default)]
    pub slo: Slo,
    /// How requests are batched.
    #[serde(default)]
    pub batch: Batch,
    /// A fixed number of workers, whatever the load; `kubectl scale` sets this field. If absent,
    /// the number follows the load, within the bounds of `scaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Bounds of the number of workers, and how the number follows the load.
    #[serde(default)]
    pub scaling: Scaling,
    /// The worker container: its image, execution provider and resources.
    #[serde(default)]
    pub worker: Worker,
    /// Further settings of the workers' pods.
    #[serde(default)]
    pub pod: PodOverrides,
}

/// The model that a fleet serves.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.sha256) || has(self.version)")
    .message("model.sha256 applies to one version: set model.version"))]
pub struct Model {
    /// Folder of the model in the repository, and its name in requests. Defaults to the name of the
    /// `ModelFleet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,128}$"))]
    pub name: Option<String>,
    /// The version to serve. If absent, workers serve the versions of the model's `version_policy`.
    /// The fleet is scaled to the load of this version, plus that of other versions which its
    /// workers still serve during a rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub version: Option<u32>,
    /// The digest of `version`, in hexadecimal digits, as `batchfleet digest` prints it: the SHA-256
    /// of the model's file, or of the manifest of all its files if the model has external data.
    /// Workers refuse to load anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{64}$"))]
    pub sha256: Option<String>,
    /// Source of the model repository, which has Triton's layout: `<name>/<version>/model.onnx`.
    pub source: ModelSource,
}

/// The latency target of a model.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Slo {
    /// Target for the 99th percentile of the time from the arrival of a request until its reply, in
    /// milliseconds.
    #[serde(default = "Slo::p99_ms")]
    #[schemars(range(min = 1, max = 600_000))]
    pub p99_ms: u32,
}

impl Slo {
    const fn p99_ms() -> u32 {
        100
    }
}

impl Default for Slo {
    fn default() -> Self {
        Self { p99_ms: Self::p99_ms() }
    }
}

/// How requests are batched.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode != 'fixed' || has(self.rows)")
        .message("batch.mode fixed needs batch.rows"),
    validation = Rule::new("self.mode == 'fixed' || !has(self.rows)")
        .message("batch.rows has no effect with batch.mode auto: remove batch.rows or set batch.mode to fixed"),
    validation = Rule::new("!has(self.rows) || self.rows <= self.max")
        .message("batch.rows must not be more than batch.max"),
    validation = Rule::new("!has(self.sizes) || self.sizes.all(size, size <= self.max)")
        .message("no size in batch.sizes may be more than batch.max"),
    validation = Rule::new("has(self.pad) || (!has(self.padSizes) && !has(self.cut))")
        .message("batch.padSizes and batch.cut have no effect without batch.pad")
)]
pub struct Batch {
    /// How N, the largest number of rows in a batch, is chosen: `auto`, from measured batch times and
    /// the latency target, or `fixed`, as `rows`.
    #[serde(default)]
    pub mode: BatchMode,
    /// N, for mode `fixed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub rows: Option<u32>,
    /// Upper bound of N, in rows.
    #[serde(default = "Batch::max")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max: u32,
    /// Time for which an idle worker waits for more requests before it runs a batch that is not
    /// full, in milliseconds. Adds latency and makes batches larger. With 0, an only worker waits for
    /// requests that follow answers at once, if that raises the rate.
    #[serde(default)]
    #[schemars(range(max = 60_000))]
    pub linger_ms: u32,
    /// The only batch sizes to run, in rows. Smaller batches are padded. For engines that prepare
    /// each size, such as TensorRT.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 1)))]
    pub sizes: Vec<u32>,
    /// Dimensions of the inputs that are filled up at their end, so that requests of different lengths
    /// share a batch: `INPUT:DIMENSION=VALUE`, such as `input_ids:1=0`, or `NAME=VALUE` with a name
    /// that the model's file gives a dimension. Workers check at start that this changes no answer. A
    /// `config.pbtxt` with the parameter `pad` takes precedence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(regex(pattern = r"^[^\s,=]+=[^\s,]*$"), length(max = 256)))]
    pub pad: Vec<String>,
    /// Lengths to which requests are padded. If absent, to the longest request of a batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 1)))]
    pub pad_sizes: Vec<u32>,
    /// Outputs that follow the length, `OUTPUT:DIMENSION`, such as `logits:1`: they are cut back to the
    /// length of each request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(regex(pattern = r"^[^\s,]+:[0-9]+$"), length(max = 256)))]
    pub cut: Vec<String>,
    /// A batch that runs longer than this counts as hung and ends its worker, in seconds. The pods'
    /// termination grace period follows from it: three times this, plus 10 seconds.
    #[serde(default = "Batch::max_seconds")]
    #[schemars(range(min = 1, max = 3_600))]
    pub max_seconds: u32,
}

impl Batch {
    const fn max() -> u32 {
        64
    }

    const fn max_seconds() -> u32 {
        10
    }
}

impl Default for Batch {
    fn default() -> Self {
        let (max, max_seconds) = (Self::max(), Self::max_seconds());
        Self {
            mode: BatchMode::Auto,
            rows: None,
            max,
            linger_ms: 0,
            sizes: Vec::new(),
            pad: Vec::new(),
            pad_sizes: Vec::new(),
            cut: Vec::new(),
            max_seconds,
        }
    }
}

/// How N is chosen: `auto`, from measured batch times and the latency target, or `fixed`, as
/// `rows`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum BatchMode {
    /// Each worker chooses N from measured batch times and the latency target.
    #[default]
    Auto,
    /// N is `rows`.
    Fixed,
}

/// Bounds of the number of workers, and how the number follows the load.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.min <= self.max")
        .message("scaling.min must not be more than scaling.max"),
    validation = Rule::new("self.min > 0 || has(self.scaleToZeroAfterSeconds)")
        .message("scaling.min 0 needs scaling.scaleToZeroAfterSeconds, the time without a request after which the last worker stops"),
    validation = Rule::new("self.min == 0 || !has(self.scaleToZeroAfterSeconds)")
        .message("scaling.scaleToZeroAfterSeconds has no effect unless scaling.min is 0")
)]
pub struct Scaling {
    /// What sets the number of workers. `hpa`: a `HorizontalPodAutoscaler`, which adds workers for waiting
    /// requests to the minimum that the controller computes from the load; while it cannot read the metric
    /// `batchfleet_queue_depth`, the controller sets the number itself. `direct`: the controller alone.
    /// `external`: another autoscaler, such as KEDA, which can read `status.wantedReplicas`. The condition
    /// `AutoscalerActive` tells which one is in use.
    #[serde(default)]
    pub mode: ScalingMode,
    /// Smallest number of workers. 0 lets the fleet scale to zero after `scaleToZeroAfterSeconds`.
    #[serde(default = "Scaling::min")]
    pub min: u32,
    /// Largest number of workers.
    #[serde(default = "Scaling::max")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max: u32,
    /// Time without a request after which the last worker stops, in seconds. Needs `min: 0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60))]
    pub scale_to_zero_after_seconds: Option<u32>,
    /// Time for which workers are kept after the load last needed them, in seconds.
    #[serde(default = "Scaling::hold_seconds")]
    #[schemars(range(max = 86_400))]
    pub hold_seconds: u32,
    /// Target utilization of the workers, in percent of their capacity within the latency target.
    #[serde(default = "Scaling::utilization_percent")]
    #[schemars(range(min = 10, max = 100))]
    pub utilization_percent: u32,
    /// Whether to start workers for the load that a rising trend will reach after a cold start.
    /// Useful where requests queue instead of being refused.
    #[serde(default)]
    pub trend: bool,
    /// Estimated cold start of a worker, from the creation of its pod until it is ready, in
    /// seconds. Measured starts replace the estimate.
    #[serde(default = "Scaling::cold_start_seconds")]
    #[schemars(range(min = 1, max = 3_600))]
    pub cold_start_seconds: u32,
}

impl Scaling {
    const fn min() -> u32 {
        1
    }

    const fn max() -> u32 {
        10
    }

    const fn hold_seconds() -> u32 {
        300
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole percent")]
    const fn utilization_percent() -> u32 {
        (UTILIZATION * 100.0) as u32
    }

    const fn cold_start_seconds() -> u32 {
        60
    }
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            mode: ScalingMode::default(),
            min: Self::min(),
            max: Self::max(),
            scale_to_zero_after_seconds: None,
            hold_seconds: Self::hold_seconds(),
            utilization_percent: Self::utilization_percent(),
            trend: false,
            cold_start_seconds: Self::cold_start_seconds(),
        }
    }
}

/// What sets the number of workers.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ScalingMode {
    /// A `HorizontalPodAutoscaler`, above the controller's floor.
    #[default]
    Hpa,
    /// The controller.
    Direct,
    /// Another autoscaler.
    External,
}
