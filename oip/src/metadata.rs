//! The metadata of the server and its models, in the protocol's form.

use std::num::NonZeroU32;

use batchfleet_broker::{Datatype, ModelSpec, TensorSpec};
use serde::{Deserialize, Serialize, Serializer};

use crate::problem::{Problem, quote};

/// The protocol extensions that this server implements. Clients query the list. Of
/// `model_repository`, a fleet has only the index: its workers choose by themselves what they load.
const EXTENSIONS: [&str; 5] = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
];

/// The response to `GET /v2`.
#[derive(Clone, Debug, Serialize)]
pub struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 5],
}

/// Describes this server.
pub const fn server() -> ServerMetadata {
    ServerMetadata {
        name: "batchfleet",
        version: env!("CARGO_PKG_VERSION"),
        extensions: EXTENSIONS,
    }
}

/// The response to `GET /v2/models/{model}`.
#[derive(Clone, Debug, Serialize)]
pub struct ModelMetadata<'a> {
    name: &'a str,
    versions: Vec<String>,
    platform: &'a str,
    inputs: Vec<TensorMetadata<'a>>,
    outputs: Vec<TensorMetadata<'a>>,
}

/// An input or output in [`ModelMetadata`].
#[derive(Clone, Debug, Serialize)]
struct TensorMetadata<'a> {
    name: &'a str,
    datatype: Datatype,
    shape: &'a [i64],
    /// Whether a request may leave out this input. Only written if true, because the protocol itself
    /// has no optional inputs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
}

impl<'a> TensorMetadata<'a> {
    fn all(tensors: &'a [TensorSpec]) -> Vec<Self> {
        let metadata = |tensor: &'a TensorSpec| Self {
            name: &tensor.name,
            datatype: tensor.datatype,
            shape: &tensor.shape,
            optional: tensor.optional,
        };
        tensors.iter().map(metadata).collect()
    }
}

/// Describes a model; `versions` are all its known versions.
pub fn model<'a>(model: &'a ModelSpec, versions: &[u64]) -> ModelMetadata<'a> {
    ModelMetadata {
        name: &model.queue.model,
        versions: versions.iter().map(u64::to_string).collect(),
        platform: &model.platform,
        inputs: TensorMetadata::all(&model.inputs),
        outputs: TensorMetadata::all(&model.outputs),
    }
}

/// The response to `GET /v2/models/{model}/config` for a model whose workers do not announce its
/// config: what its spec implies. Clients read `max_batch_size`, and whether requests are batched.
#[derive(Clone, Debug, Serialize)]
pub struct ModelConfig<'a> {
    name: &'a str,
    platform: &'a str,
    backend: &'a str,
    version_policy: VersionPolicy,
    max_batch_size: u32,
    input: Vec<ConfigInput<'a>>,
    output: Vec<ConfigOutput<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dynamic_batching: Option<DynamicBatching>,
}

#[derive(Clone, Debug, Serialize)]
struct VersionPolicy {
    all: Nothing,
}

/// An object without fields: `{}`.
#[derive(Clone, Debug, Serialize)]
struct Nothing {}

#[derive(Clone, Debug, Serialize)]
struct DynamicBatching {
    preferred_batch_size: [u32; 0],
    max_queue_delay_microseconds: u64,
}

#[derive(Clone, Debug, Serialize)]
struct ConfigInput<'a> {
    name: &'a str,
    data_type: &'static str,
    format: &'static str,
    dims: Vec<i64>,
    is_shape_tensor: bool,
    allow_ragged_batch: bool,
    optional: bool,
}

#[derive(Clone, Debug, Serialize)]
struct ConfigOutput<'a> {
    name: &'a str,
    data_type: &'static str,
    dims: Vec<i64>,
    label_filename: &'static str,
    is_shape_tensor: bool,
}

/// Describes how a model runs, as far as its spec implies it.
pub fn config(model: &ModelSpec) -> ModelConfig<'_> {
    let dims = |tensor: &TensorSpec| without_rows(tensor, model.batches());
    let input = model.inputs.iter().map(|tensor| ConfigInput {
        name: &tensor.name,
        data_type: config_type(tensor.datatype),
        format: "FORMAT_NONE",
        dims: dims(tensor),
        is_shape_tensor: false,
        allow_ragged_batch: false,
        optional: tensor.optional,
    });
    let output = model.outputs.iter().map(|tensor| ConfigOutput {
        name: &tensor.name,
        data_type: config_type(tensor.datatype),
        dims: dims(tensor),
        label_filename: "",
        is_shape_tensor: false,
    });
    ModelConfig {
        name: &model.queue.model,
        platform: &model.platform,
        backend: &model.backend,
        version_policy: VersionPolicy { all: Nothing {} },
        max_batch_size: model.max_batch.map_or(0, NonZeroU32::get),
        input: input.collect(),
        output: output.collect(),
        dynamic_batching: model.batches().then_some(DynamicBatching {
            preferred_batch_size: [],
            max_queue_delay_microseconds: 0,
        }),
    }
}

/// The dimensions of a tensor without the dimension that counts rows.
fn without_rows(tensor: &TensorSpec, batches: bool) -> Vec<i64> {
    let mut dims = tensor.shape.clone();
    let axis = tensor.row_axis.filter(|_| batches).and_then(|axis| usize::try_from(axis).ok());
    if let Some(axis) = axis.filter(|&axis| axis < dims.len()) {
        dims.remove(axis);
    }
    dims
}

const fn config_type(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "TYPE_BOOL",
        Datatype::Uint8 => "TYPE_UINT8",
        Datatype::Uint16 => "TYPE_UINT16",
        Datatype::Uint32 => "TYPE_UINT32",
        Datatype::Uint64 => "TYPE_UINT64",
        Datatype::Int8 => "TYPE_INT8",
        Datatype::Int16 => "TYPE_INT16",
        Datatype::Int32 => "TYPE_INT32",
        Datatype::Int64 => "TYPE_INT64",
        Datatype::Fp16 => "TYPE_FP16",
        Datatype::Fp32 => "TYPE_FP32",
        Datatype::Fp64 => "TYPE_FP64",
        Datatype::Bf16 => "TYPE_BF16",
        Datatype::Bytes => "TYPE_STRING",
    }
}

/// One entry of the response to `POST /v2/repository/index`. Sorted by name, then version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct IndexEntry {
    name: String,
    #[serde(serialize_with = "number_or_nothing")]
    version: Option<u64>,
    state: &'static str,
    reason: String,
}

/// The state of a model that a worker is ready to serve.
const READY: &str = "READY";

impl IndexEntry {
    /// A version that a worker is ready to serve.
    pub fn ready(model: &str, version: u64) -> Self {
        let reason = String::new();
        Self { name: model.to_owned(), version: Some(version), state: READY, reason }
    }

    /// A model that no worker is ready to serve, with the reason if one is known. `version` is
    /// `None` if no version of the model can be named.
    pub fn unavailable(model: &str, version: Option<u64>, reason: Option<&str>) -> Self {
        let reason = reason.unwrap_or("no worker is ready").to_owned();
        Self { name: model.to_owned(), version, state: "UNAVAILABLE", reason }
    }

    /// The name of the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a worker is ready to serve the model.
    pub fn is_ready(&self) -> bool {
        self.state == READY
    }
}

/// Serializes `None` as an empty text: clients expect the field.
#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn number_or_nothing<S: Serializer>(number: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&number.map_or_else(String::new, |number| number.to_string()))
}

/// The body of `POST /v2/repository/index`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct IndexRequest {
    /// List only ready models.
    #[serde(default)]
    pub ready: bool,
}

impl IndexRequest {
    /// Reads the body, which may be empty.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(body).map_err(|error| {
            let code = if error.is_data() { "bad_request" } else { "bad_json" };
            Problem::bad(code, format!("repository index: {}", quote(&error.to_string())))
        })
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::QueueName;
    use serde_json::{Value, json};

    use super::*;

    fn spec(max_batch: u32) -> ModelSpec {
        let tensor = |name: &str, datatype, shape: &[i64]| TensorSpec::new(name, datatype, shape);
        ModelSpec {
            queue: QueueName::new("digits", 3),
            platform: "onnxruntime_onnx".into(),
            backend: "onnxruntime".into(),
            max_batch: NonZeroU32::new(max_batch),
            inputs: vec![tensor("x", Datatype::Fp32, &[-1, 64])],
            outputs: vec![tensor("label", Datatype::Bytes, &[-1, 1])],
        }
    }

    fn value(of: impl Serialize) -> Value {
        serde_json::to_value(of).unwrap()
    }

    #[test]
    fn the_server_lists_its_extensions() {
        let server = value(server());
        assert_eq!(server["name"], "batchfleet");
        assert!(server["extensions"].as_array().unwrap().contains(&json!("statistics")));
    }

    #[test]
    fn metadata_shows_shapes_with_the_batch_dimension() {
        assert_eq!(
            value(model(&spec(8), &[1, 3])),
            json!({
                "name": "digits", "versions": ["1", "3"], "platform": "onnxruntime_onnx",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
                "outputs": [{"name": "label", "datatype": "BYTES", "shape": [-1, 1]}],
            })
        );
    }

    #[test]
    fn config_omits_the_batch_dimension_of_a_model_that_batches() {
        let batching = value(config(&spec(8)));
        assert_eq!(batching["max_batch_size"], 8);
        assert_eq!(batching["input"][0]["dims"], json!([64]));
        assert_eq!(batching["input"][0]["data_type"], "TYPE_FP32");
        assert_eq!(batching["output"][0]["data_type"], "TYPE_STRING");
        assert!(batching["dynamic_batching"].is_object());
        let single = value(config(&spec(0)));
        assert_eq!(single["input"][0]["dims"], json!([-1, 64]));
        assert!(single.get("dynamic_batching").is_none());
    }

    #[test]
    fn the_body_of_an_index_request_may_be_empty() {
        for empty in [&b""[..], b" \n", b"{}", b"[]"] {
            assert!(!IndexRequest::parse(empty).unwrap().ready);
        }
        assert!(IndexRequest::parse(br#"{"ready": true}"#).unwrap().ready);
        assert_eq!(IndexRequest::parse(b"{").unwrap_err().code, "bad_json");
        assert_eq!(IndexRequest::parse(br#"{"ready": 1}"#).unwrap_err().code, "bad_request");
    }

    #[test]
    fn the_index_has_an_empty_version_if_none_can_be_named() {
        assert_eq!(
            value(IndexEntry::ready("m", 3)),
            json!({"name": "m", "version": "3", "state": "READY", "reason": ""})
        );
        assert_eq!(
            value(IndexEntry::unavailable("m", None, Some("its config.pbtxt is broken"))),
            json!({"name": "m", "version": "", "state": "UNAVAILABLE", "reason": "its config.pbtxt is broken"})
        );
        let unknown = IndexEntry::unavailable("m", Some(1), None);
        assert_eq!(value(&unknown)["reason"], "no worker is ready");
        assert!(!unknown.is_ready());
    }
}
