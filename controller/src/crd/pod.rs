//! The part of a fleet's spec that describes the workers' pods.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Toleration, apimachinery::pkg::util::intstr::IntOrString};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The source of a model repository. Exactly one field is set.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum ModelSource {
    /// A volume that holds the repository.
    PersistentVolumeClaim(VolumeClaimSource),
    /// An image that holds the repository, mounted as a volume. Needs Kubernetes 1.35, or the
    /// feature gate `ImageVolume`.
    Image(ImageSource),
    /// An object store, from which the worker fetches the model when it starts.
    ObjectStore(ObjectStoreSource),
    /// An empty volume that an init container fills before the worker starts.
    EmptyDir(EmptyDirSource),
}

/// A volume that holds a model repository.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaimSource {
    /// Name of the claim. Workers mount it read-only.
    pub claim_name: String,
    /// Folder of the repository in the volume. Defaults to the root of the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
}

/// An image that holds a model repository.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// The image; by digest, if its content must not change.
    pub reference: String,
    /// When the image is pulled: `Always`, `IfNotPresent` or `Never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Always", "IfNotPresent", "Never", null]))]
    pub pull_policy: Option<String>,
    /// Folder of the repository in the image. Defaults to the root of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
}

/// A model repository in an object store.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStoreSource {
    /// URL of the repository: `s3://bucket/path`, `gs://`, `az://`, or `https://` for `WebDAV`.
    #[schemars(regex(pattern = r"^(s3|s3a|gs|az|adl|azure|abfss?|https?)://[^ ]+$"))]
    pub url: String,
    /// Name of a secret with a key for each option of the store, such as `aws_access_key_id`,
    /// `aws_secret_access_key`, `aws_region` or `aws_endpoint`. Mounted as files. If absent, the
    /// worker uses the identity of the pod's service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options_secret: Option<String>,
    /// Largest size of the downloaded model on the node's disk, such as `10Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = QUANTITY))]
    pub size_limit: Option<IntOrString>,
}

/// An empty volume, and the init container that fills it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDirSource {
    /// Image of the init container, which writes the repository to `/models`.
    pub image: String,
    /// Command of the init container. Defaults to the entry point of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments of the init container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Largest size of the volume, such as `10Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = QUANTITY))]
    pub size_limit: Option<IntOrString>,
}

/// The worker container: its image, execution provider and resources.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.executionProvider == 'cpu' || has(self.gpu)")
        .message("worker.executionProvider cuda and tensorrt need worker.gpu"),
    validation = Rule::new("self.executionProvider != 'cpu' || !has(self.gpu)")
        .message("worker.gpu has no effect with worker.executionProvider cpu: remove worker.gpu or set another execution provider"),
    validation = Rule::new("!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)")
        .message("worker.requests must not be more than worker.limits"),
    validation = Rule::new("self.executionProvider != 'tensorrt' || (has(self.image) && !self.image.contains('worker-cuda'))")
        .message("worker.executionProvider tensorrt needs worker.image with TensorRT, such as worker-tensorrt"),
    validation = Rule::new("!has(self.gpu) || !has(self.gpu.count) || self.gpu.count == 1 || !has(self.gpu.resource) || !self.gpu.resource.contains('mig-')")
        .message("worker.gpu.count must be 1 with parts of a GPU (MIG): a process can use only one of them"),
    validation = Rule::new("self.executionProvider == 'tensorrt' || !has(self.engineCache)")
        .message("worker.engineCache has no effect without worker.executionProvider tensorrt: remove it")
)]
pub struct Worker {
    /// Image of the workers. Defaults to the controller's setting `--worker-image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Execution provider of ONNX Runtime.
    #[serde(default)]
    pub execution_provider: ExecutionProvider,
    /// Resources that each worker requests, such as `cpu: 2`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = quantities)]
    pub requests: Resources,
    /// Resource limits of each worker.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = quantities)]
    pub limits: Resources,
    /// GPUs of each worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// Volume where TensorRT keeps the engines that it builds, so that later workers start sooner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_cache: Option<EngineCache>,
}

/// A volume for the engines of TensorRT.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EngineCache {
    /// Name of the claim. All workers write to it, so that workers on several nodes need the access
    /// mode `ReadWriteMany`. Engines are kept by model, GPU and version of TensorRT: fleets may share
    /// the claim.
    pub claim_name: String,
    /// Folder of the engines in the volume. Defaults to the root of the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
}

/// The quantities of Kubernetes, such as `500m`, `2Gi` or `1e3`.
pub(super) const QUANTITY: &str =
    r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$";

/// The most characters of a quantity.
const LONGEST_QUANTITY: u32 = 32;
/// The most resources of a worker.
const MOST_RESOURCES: u32 = 16;

/// Lets the API server refuse amounts that are no quantities, and compare amounts: it refuses rules
/// about maps without a bound, because their evaluation could take too long.
fn quantities(map: &mut Schema) {
    map.insert("maxProperties".to_owned(), MOST_RESOURCES.into());
    if let Some(Value::Object(amount)) = map.get_mut("additionalProperties") {
        amount.insert("pattern".to_owned(), QUANTITY.into());
        amount.insert("maxLength".to_owned(), LONGEST_QUANTITY.into());
    }
}

/// Amounts by the name of the resource.
pub type Resources = BTreeMap<String, Amount>;

/// An amount: a number, or one with a unit such as `500m` or `2Gi`.
pub type Amount = IntOrString;

/// The execution provider of ONNX Runtime: `cpu`, `cuda`, or `tensorrt`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ExecutionProvider {
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An NVIDIA GPU through TensorRT.
    Tensorrt,
}

impl ExecutionProvider {
    /// The value of the worker's flag.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tensorrt => "tensorrt",
        }
    }
}

/// The GPUs of a worker.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Name of the resource of the device plugin, such as `nvidia.com/gpu` or
    /// `nvidia.com/mig-1g.5gb`.
    #[serde(default = "Gpu::resource")]
    pub resource: String,
    /// Number of GPUs. Every model runs on each of them.
    #[serde(default = "Gpu::count")]
    #[schemars(range(min = 1))]
    pub count: u32,
}

impl Gpu {
    fn resource() -> String {
        "nvidia.com/gpu".to_owned()
    }

    const fn count() -> u32 {
        1
    }
}

/// Further settings of the workers' pods.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodOverrides {
    /// Additional labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Additional annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the nodes on which the pods may run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Runtime class of the pods, such as `nvidia`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<String>,
    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Service account of the pods. Workers do not use the API of Kubernetes; object stores may
    /// grant access to a service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Names of secrets for pulling images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
}
