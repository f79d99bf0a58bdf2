//! What a worker's pod is made of, as far as a person may say.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Toleration, apimachinery::pkg::util::intstr::IntOrString};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a model repository comes from.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum ModelSource {
    /// A volume that holds it.
    PersistentVolumeClaim(VolumeClaimSource),
    /// An image that holds it, mounted as a volume (needs Kubernetes 1.35, or the feature gate
    /// `ImageVolume`).
    Image(ImageSource),
    /// An object store, from which the worker fetches the model when it starts.
    ObjectStore(ObjectStoreSource),
    /// An empty folder that a container fills before the worker starts.
    EmptyDir(EmptyDirSource),
}

/// A volume that holds a model repository.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaimSource {
    /// The claim's name. Workers only read it.
    pub claim_name: String,
    /// The repository's folder in the volume. Without it: the whole volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
}

/// An image that holds a model repository.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// The image, by digest if it is not to change.
    pub reference: String,
    /// When it is pulled: `Always`, `IfNotPresent` or `Never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<String>,
    /// The repository's folder in the image. Without it: the whole image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
}

/// A model repository in an object store.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStoreSource {
    /// Where the repository begins: `s3://bucket/path`, `gs://`, `az://`, or `https://` with
    /// `WebDAV`.
    #[schemars(regex(pattern = r"^(s3|s3a|gs|az|adl|azure|abfss?|https?)://[^ ]+$"))]
    pub url: String,
    /// A secret with a key for each option of the store, such as `aws_access_key_id`,
    /// `aws_secret_access_key`, `aws_region` or `aws_endpoint`. Mounted as files. Without it: what
    /// the service account of the pod may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options_secret: Option<String>,
    /// How much of the node's disk the model may take, such as `10Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<IntOrString>,
}

/// An empty folder, and what fills it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDirSource {
    /// The image of the container that fills `/models` before the worker starts.
    pub image: String,
    /// Its command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// How large the folder may grow, such as `10Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<IntOrString>,
}

/// The program that serves the model, and what it computes with.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.executionProvider == 'cpu' || has(self.gpu)")
        .message("worker.executionProvider cuda and tensorrt need worker.gpu"),
    validation = Rule::new("self.executionProvider != 'cpu' || !has(self.gpu)")
        .message("worker.gpu means nothing with worker.executionProvider cpu: drop the one or change the other")
)]
pub struct Worker {
    /// The workers' image. Without it: the controller's setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What computes.
    #[serde(default)]
    pub execution_provider: ExecutionProvider,
    /// What a worker asks for, such as `cpu: 2`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: Resources,
    /// What a worker may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: Resources,
    /// The GPU of each worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

/// Amounts by the name of what they are of.
pub type Resources = BTreeMap<String, Amount>;

/// An amount: a number, or one with a unit such as `500m` or `2Gi`.
pub type Amount = IntOrString;

/// What computes: `cpu`, `cuda`, or `tensorrt`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ExecutionProvider {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An NVIDIA GPU through TensorRT.
    Tensorrt,
}

impl ExecutionProvider {
    /// As the worker's setting has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tensorrt => "tensorrt",
        }
    }
}

/// The GPU of a worker.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// As the device plugin calls it, such as `nvidia.com/gpu` or `nvidia.com/mig-1g.5gb`.
    #[serde(default = "Gpu::resource")]
    pub resource: String,
    /// How many.
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

/// What the workers' pods have beside what they must have.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodOverrides {
    /// More labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// More annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the nodes that may run them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that they bear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// The container runtime, such as `nvidia`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<String>,
    /// How they rank among other pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Who they are to Kubernetes, whose API they never use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Names of the secrets by which images are pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
}
