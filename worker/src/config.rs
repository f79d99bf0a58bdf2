//! A model's optional `config.pbtxt`, with the fields that Triton defines.

use std::collections::BTreeMap;

use batchfleet_broker::{Datatype, TensorSpec};

use crate::{
    instances::{InstanceGroup, InstanceKind},
    pbtxt::{self, Field, Message, SyntaxError},
};

/// How to serve a model. The default applies to models without a `config.pbtxt`.
#[derive(Clone, Debug)]
pub(crate) struct ModelConfig {
    /// The model's name; must equal the name of its folder.
    pub(crate) name: Option<String>,
    /// The engine that runs the model.
    pub(crate) backend: Backend,
    /// The maximum number of rows per batch; 0 switches batching off, `None` leaves the bound to
    /// the settings.
    pub(crate) max_batch: Option<u32>,
    /// The versions to serve.
    pub(crate) versions: VersionPolicy,
    /// The model's file inside a version's folder.
    pub(crate) file: String,
    /// The inputs; their shapes exclude the batch dimension.
    pub(crate) inputs: Vec<TensorSpec>,
    /// The outputs; their shapes exclude the batch dimension.
    pub(crate) outputs: Vec<TensorSpec>,
    /// The backend's settings.
    pub(crate) parameters: BTreeMap<String, String>,
    /// How many copies of the model run side by side, and on which devices.
    pub(crate) instances: Vec<InstanceGroup>,
    /// How far ONNX Runtime optimises the graph, as in `optimization.graph.level`.
    pub(crate) graph_level: Option<i32>,
    /// The names in `optimization.execution_accelerators`.
    pub(crate) accelerators: Vec<String>,
    /// Libraries with custom operators, as in `model_operations.op_library_filename`.
    pub(crate) operator_libraries: Vec<String>,
    /// Input shapes for the warm-up, without the batch dimension, by input name.
    pub(crate) warmup: BTreeMap<String, Vec<u64>>,
}

/// The engine that runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// ONNX Runtime.
    OnnxRuntime,
    /// Returns its inputs as outputs; for tests.
    Echo,
}

/// Which versions of a model are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VersionPolicy {
    /// The given number of highest versions.
    Latest(usize),
    /// All versions.
    All,
    /// The listed versions.
    Specific(Vec<u64>),
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            name: None,
            backend: Backend::OnnxRuntime,
            max_batch: None,
            versions: VersionPolicy::Latest(1),
            file: "model.onnx".to_owned(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            parameters: BTreeMap::new(),
            instances: Vec::new(),
            graph_level: None,
            accelerators: Vec::new(),
            operator_libraries: Vec::new(),
            warmup: BTreeMap::new(),
        }
    }
}

impl ModelConfig {
    /// Reads a `config.pbtxt`; unknown fields are ignored.
    pub(crate) fn parse(text: &str) -> Result<Self, SyntaxError> {
        let message = pbtxt::parse(text)?;
        let default = Self::default();
        Ok(Self {
            name: message.one("name").map(Field::text).transpose()?.map(str::to_owned),
            backend: backend(&message)?,
            max_batch: message.one("max_batch_size").map(Field::number).transpose()?,
            versions: versions(&message)?,
            file: match message.one("default_model_filename") {
                Some(file) => file.text()?.to_owned(),
                None => default.file,
            },
            inputs: message.all("input").map(tensor).collect::<Result<_, _>>()?,
            outputs: message.all("output").map(tensor).collect::<Result<_, _>>()?,
            parameters: message.all("parameters").map(parameter).collect::<Result<_, _>>()?,
            instances: message.all("instance_group").map(instance).collect::<Result<_, _>>()?,
            graph_level: graph_level(&message)?,
            accelerators: accelerators(&message)?,
            operator_libraries: operator_libraries(&message)?,
            warmup: warmup(&message)?,
        })
    }
}

/// Checks whether `text` is a valid `config.pbtxt`.
///
/// # Errors
///
/// If the text is invalid. The error names the problem and its line.
pub fn check(text: &str) -> Result<(), SyntaxError> {
    ModelConfig::parse(text).map(drop)
}

fn backend(message: &Message) -> Result<Backend, SyntaxError> {
    let Some(field) = message.one("backend").or_else(|| message.one("platform")) else {
        return Ok(Backend::OnnxRuntime);
    };
    match field.text()? {
        "" | "onnxruntime" | "onnxruntime_onnx" => Ok(Backend::OnnxRuntime),
        "batchfleet_echo" => Ok(Backend::Echo),
        other => Err(field
            .error(&format!("{other:?} is not supported: onnxruntime and batchfleet_echo are"))),
    }
}

fn versions(message: &Message) -> Result<VersionPolicy, SyntaxError> {
    let Some(field) = message.one("version_policy") else {
        return Ok(VersionPolicy::Latest(1));
    };
    let policy = field.message()?;
    if let Some(latest) = policy.one("latest") {
        let count = latest.message()?.one("num_versions").map_or(Ok(1), Field::number)?;
        return Ok(VersionPolicy::Latest(count));
    }
    if let Some(specific) = policy.one("specific") {
        let versions = specific.message()?.all("versions").map(Field::number);
        return Ok(VersionPolicy::Specific(versions.collect::<Result<_, _>>()?));
    }
    match policy.one("all") {
        Some(_) => Ok(VersionPolicy::All),
        None => Err(field.error("names none of latest, all and specific")),
    }
}

fn tensor(field: &Field) -> Result<TensorSpec, SyntaxError> {
    let message = field.message()?;
    let name = message.one("name").ok_or_else(|| field.error("has no name"))?.text()?.to_owned();
    let kind = message.one("data_type").ok_or_else(|| field.error("has no data_type"))?;
    let datatype = match kind.word()?.strip_prefix("TYPE_") {
        Some("STRING") => Some(Datatype::Bytes),
        Some(name) => name.parse().ok(),
        None => None,
    };
    let datatype = datatype.ok_or_else(|| kind.error("is not a TYPE_ of the protocol"))?;
    let shape: Vec<i64> = message.all("dims").map(Field::number).collect::<Result<_, _>>()?;
    Ok(TensorSpec::new(name, datatype, shape))
}

fn parameter(field: &Field) -> Result<(String, String), SyntaxError> {
    let message = field.message()?;
    let key = message.one("key").ok_or_else(|| field.error("has no key"))?.text()?;
    let value = message.one("value").ok_or_else(|| field.error("has no value"))?.message()?;
    let value = value.one("string_value").ok_or_else(|| field.error("has no string_value"))?;
    Ok((key.to_owned(), value.text()?.to_owned()))
}

fn instance(field: &Field) -> Result<InstanceGroup, SyntaxError> {
    let message = field.message()?;
    let kind = match message.one("kind").map(Field::word).transpose()? {
        None | Some("KIND_AUTO" | "KIND_MODEL") => InstanceKind::Auto,
        Some("KIND_CPU") => InstanceKind::Cpu,
        Some("KIND_GPU") => InstanceKind::Gpu,
        Some(_) => return Err(field.error("has an unknown kind")),
    };
    let count = message.one("count").map_or(Ok(1), Field::number)?;
    let gpus = message.all("gpus").map(Field::number).collect::<Result<_, _>>()?;
    Ok(InstanceGroup { count, kind, gpus })
}

fn graph_level(message: &Message) -> Result<Option<i32>, SyntaxError> {
    let Some(optimization) = message.one("optimization") else { return Ok(None) };
    let Some(graph) = optimization.message()?.one("graph") else { return Ok(None) };
    graph.message()?.one("level").map(Field::number).transpose()
}

fn accelerators(message: &Message) -> Result<Vec<String>, SyntaxError> {
    let Some(optimization) = message.one("optimization") else { return Ok(Vec::new()) };
    let Some(all) = optimization.message()?.one("execution_accelerators") else {
        return Ok(Vec::new());
    };
    let all = all.message()?;
    let name = |field: &Field| {
        let name = field.message()?.one("name").map(Field::text).transpose()?;
        Ok(name.unwrap_or_default().to_owned())
    };
    let gpu = all.all("gpu_execution_accelerator");
    gpu.chain(all.all("cpu_execution_accelerator")).map(name).collect()
}

fn operator_libraries(message: &Message) -> Result<Vec<String>, SyntaxError> {
    let Some(operations) = message.one("model_operations") else { return Ok(Vec::new()) };
    let files = operations.message()?.all("op_library_filename");
    files.map(|file| file.text().map(str::to_owned)).collect()
}

/// The shapes of the first `model_warmup` sample.
fn warmup(message: &Message) -> Result<BTreeMap<String, Vec<u64>>, SyntaxError> {
    let Some(sample) = message.all("model_warmup").next() else {
        return Ok(BTreeMap::new());
    };
    let input = |field: &Field| {
        let input = field.message()?;
        let key = input.one("key").ok_or_else(|| field.error("has no key"))?.text()?;
        let value = input.one("value").ok_or_else(|| field.error("has no value"))?.message()?;
        let dims = value.all("dims").map(Field::number).collect::<Result<_, _>>()?;
        Ok((key.to_owned(), dims))
    };
    sample.message()?.all("inputs").map(input).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_triton_users_write() {
        let config = ModelConfig::parse(
            r#"
            name: "digits"
            platform: "onnxruntime_onnx"
            max_batch_size: 32
            input [ { name: "X" data_type: TYPE_FP32 dims: [ 64 ] } ]
            output { name: "Y", data_type: TYPE_STRING, dims: [ -1 ] }
            instance_group [ { count: 2 kind: KIND_CPU } ]
            dynamic_batching { preferred_batch_size: [ 4, 8 ] }
            version_policy: { specific { versions: [ 1, 3 ] } }
            parameters { key: "row_ms" value: { string_value: "2" } }
            model_warmup [ { name: "w" batch_size: 1
                inputs { key: "X" value { data_type: TYPE_FP32 dims: 64 zero_data: true } } } ]
            "#,
        )
        .unwrap();
        assert_eq!(config.name.as_deref(), Some("digits"));
        assert_eq!(config.max_batch, Some(32));
        assert_eq!(config.inputs[0].shape, [64]);
        assert_eq!(config.outputs[0].datatype, Datatype::Bytes);
        assert_eq!(config.versions, VersionPolicy::Specific(vec![1, 3]));
        assert_eq!(config.parameters["row_ms"], "2");
        assert_eq!(config.warmup["X"], [64]);
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let config = ModelConfig::parse("").unwrap();
        assert_eq!(config.versions, VersionPolicy::Latest(1));
        assert_eq!(config.backend, Backend::OnnxRuntime);
        assert_eq!(config.max_batch, None);
    }

    #[test]
    fn unsupported_fields_are_refused_with_their_line() {
        for (text, problem) in [
            ("\nbackend: \"tensorflow\"", "line 2: backend \"tensorflow\" is not supported"),
            ("max_batch_size: -1", "line 1: max_batch_size is not a number"),
            ("input { data_type: TYPE_FP32 }", "line 1: input has no name"),
            ("input { name: \"X\"\ndata_type: TYPE_FP8 }", "line 2: data_type is not a TYPE_"),
            ("version_policy { newest {} }", "line 1: version_policy names none"),
        ] {
            let error = ModelConfig::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{error}");
        }
    }
}
