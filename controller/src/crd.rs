//! The custom resource `ModelFleet`: what a person asks for. Its YAML is generated from these types,
//! doc comments and all.

#![expect(
    unreachable_pub,
    reason = "`KubeSchema` repeats each struct inside a function, visibility and all"
)]

mod pod;
mod schema;
mod status;
#[cfg(test)]
mod tests;

pub use self::{
    pod::{
        Amount, EmptyDirSource, ExecutionProvider, Gpu, ImageSource, ModelSource,
        ObjectStoreSource, PodOverrides, Resources, VolumeClaimSource, Worker,
    },
    schema::{definition, yaml},
    status::ModelFleetStatus,
};

use batchfleet_policy::UTILIZATION;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One fleet of workers, for one model.
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
    doc = "A fleet of workers that serve one model, as large as its load needs.",
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
    printcolumn(name = "Workers", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Wanted", type_ = "integer", json_path = ".status.wantedReplicas"),
    printcolumn(name = "N", type_ = "integer", json_path = ".status.n"),
    printcolumn(name = "Offered", type_ = "number", json_path = ".status.offeredRowsPerSecond"),
    printcolumn(name = "Capacity", type_ = "number", json_path = ".status.capacityRowsPerSecond"),
    printcolumn(name = "P99", type_ = "integer", json_path = ".status.p99Ms"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("the name of a fleet may have 40 characters at most: its pods are named after it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.replicas) || self.replicas <= self.scaling.max")
    .message("replicas must not be more than scaling.max"))]
pub struct ModelFleetSpec {
    /// The model, and where it lies.
    pub model: Model,
    /// What is promised to those who ask.
    #[serde(default)]
    pub slo: Slo,
    /// How requests are batched.
    #[serde(default)]
    pub batch: Batch,
    /// This many workers, whatever the load; `kubectl scale` sets it. Without it the fleet is as
    /// large as its load needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// How large the fleet may be.
    #[serde(default)]
    pub scaling: Scaling,
    /// The program that serves the model, and what it computes with.
    #[serde(default)]
    pub worker: Worker,
    /// What the workers' pods have beside that.
    #[serde(default)]
    pub pod: PodOverrides,
}

/// The model of a fleet.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.sha256) || has(self.version)")
    .message("model.sha256 is that of one version: set model.version"))]
pub struct Model {
    /// Its folder in the repository, and its name in requests. Without it: the fleet's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,128}$"))]
    pub name: Option<String>,
    /// The version that workers serve, and whose load decides about the fleet's size, as does that of
    /// another which some of its workers still serve. Without it: those that the model's
    /// `version_policy` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub version: Option<u32>,
    /// The SHA-256 that the version's model file must have, in hexadecimal digits: workers refuse
    /// any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{64}$"))]
    pub sha256: Option<String>,
    /// Where the model repository comes from: `<name>/<version>/model.onnx`, as Triton has it.
    pub source: ModelSource,
}

/// What is promised to those who ask.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Slo {
    /// The 99th percentile of a request's latency, queue and batch together, in milliseconds.
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
        .message("batch.mode fixed needs batch.rows, the N to run"),
    validation = Rule::new("self.mode == 'fixed' || !has(self.rows)")
        .message("batch.rows means nothing with batch.mode auto: drop the one or change the other"),
    validation = Rule::new("!has(self.rows) || self.rows <= self.max")
        .message("batch.rows must not be more than batch.max"),
    validation = Rule::new("!has(self.sizes) || self.sizes.all(size, size <= self.max)")
        .message("no size in batch.sizes may be more than batch.max")
)]
pub struct Batch {
    /// How N, the most rows that run together, is chosen.
    #[serde(default)]
    pub mode: BatchMode,
    /// N, where the mode is `fixed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub rows: Option<u32>,
    /// The most rows N may reach.
    #[serde(default = "Batch::max")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max: u32,
    /// How long a batch that is not full waits for more requests, in milliseconds: adds latency,
    /// saves compute.
    #[serde(default)]
    #[schemars(range(max = 60_000))]
    pub linger_ms: u32,
    /// Run batches of these sizes only, padded: for engines that prepare each size, such as
    /// TensorRT.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 1)))]
    pub sizes: Vec<u32>,
    /// A batch that takes longer hangs, and ends its worker, in seconds. What a worker is given to
    /// finish when it must go follows from this.
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
            max_seconds,
        }
    }
}

/// How N is chosen: `auto`, from measured batch times and the latency target, or `fixed`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum BatchMode {
    /// From measured batch times and the latency target.
    #[default]
    Auto,
    /// By hand.
    Fixed,
}

/// How large the fleet may be, and who sets its size.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.min <= self.max")
        .message("scaling.min must not be more than scaling.max"),
    validation = Rule::new("self.min > 0 || has(self.scaleToZeroAfterSeconds)")
        .message("scaling.min 0 needs scaling.scaleToZeroAfterSeconds: after how long without a request the last worker goes"),
    validation = Rule::new("self.min == 0 || !has(self.scaleToZeroAfterSeconds)")
        .message("scaling.scaleToZeroAfterSeconds means nothing unless scaling.min is 0")
)]
pub struct Scaling {
    /// Who sets the number of workers.
    #[serde(default)]
    pub mode: ScalingMode,
    /// The fewest workers.
    #[serde(default = "Scaling::min")]
    pub min: u32,
    /// The most workers.
    #[serde(default = "Scaling::max")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max: u32,
    /// After how long without a request the last worker goes, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60))]
    pub scale_to_zero_after_seconds: Option<u32>,
    /// How long a number of workers is kept that was needed, in seconds.
    #[serde(default = "Scaling::hold_seconds")]
    #[schemars(range(max = 86_400))]
    pub hold_seconds: u32,
    /// How busy workers are to be, in percent of what they can do within the latency target.
    #[serde(default = "Scaling::utilization_percent")]
    #[schemars(range(min = 10, max = 100))]
    pub utilization_percent: u32,
    /// Whether to order workers for where a rising load will be once they have started. Pays where
    /// requests queue instead of being refused.
    #[serde(default)]
    pub trend: bool,
    /// From the order of a worker to its first batch, in seconds: a guess, until starts were
    /// measured.
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

/// Who sets the number of workers: `hpa`, a `HorizontalPodAutoscaler` above a floor that the
/// controller sets; `direct`, the controller alone; `external`, somebody else, by the number in the
/// status.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ScalingMode {
    /// An autoscaler, above a floor.
    #[default]
    Hpa,
    /// The controller.
    Direct,
    /// Somebody else.
    External,
}
