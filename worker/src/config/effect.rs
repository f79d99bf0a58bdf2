//! What each field of a config does here. The table is complete: a test compares it with the
//! messages.

use serde_json::Value;

use super::message::Message;

/// What a field of a config does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The model is served as the field demands, or loading the model fails.
    Honoured,
    /// Nothing, for this reason. Users are told.
    Ignored(&'static str),
    /// A model with the field is refused for this reason.
    Refused(&'static str),
}

use Effect::{Honoured, Ignored, Refused};

/// The effect of every field, by path. A path stands for all fields below it; entries of lists and
/// maps have the path of their field.
pub(super) const EFFECTS: &[(&str, Effect)] = &[
    ("name", Honoured),
    ("platform", Honoured),
    ("backend", Honoured),
    ("runtime", Ignored("--onnxruntime names the library of ONNX Runtime")),
    ("version_policy", Honoured),
    ("max_batch_size", Honoured),
    ("input.name", Honoured),
    ("input.data_type", Honoured),
    ("input.format", Honoured),
    ("input.dims", Honoured),
    ("input.reshape", Honoured),
    ("input.is_shape_tensor", Refused(TENSORRT_ENGINES)),
    ("input.allow_ragged_batch", Refused("inputs of different shapes are never joined")),
    ("input.optional", Honoured),
    ("input.is_non_linear_format_io", Refused(TENSORRT_ENGINES)),
    ("output.name", Honoured),
    ("output.data_type", Honoured),
    ("output.dims", Honoured),
    ("output.reshape", Honoured),
    ("output.label_filename", Honoured),
    ("output.is_shape_tensor", Refused(TENSORRT_ENGINES)),
    ("output.is_non_linear_format_io", Refused(TENSORRT_ENGINES)),
    (
        "batch_input",
        Refused("the model would get inputs that describe ragged batches, which are never formed"),
    ),
    (
        "batch_output",
        Refused(
            "outputs of ragged batches cannot be split, because ragged batches are never formed",
        ),
    ),
    ("optimization.graph.level", Honoured),
    ("optimization.priority", Ignored("only TensorRT runs models at a priority")),
    ("optimization.cuda.graphs", Honoured),
    (
        "optimization.cuda.busy_wait_events",
        Ignored("the thread of an instance waits for its stream, not for events"),
    ),
    (
        "optimization.cuda.graph_spec",
        Ignored("a graph is recorded for each batch size that the warm-up runs"),
    ),
    ("optimization.cuda.output_copy_stream", Ignored("each instance of a model has one stream")),
    ("optimization.execution_accelerators", Honoured),
    ("optimization.input_pinned_memory", Ignored(MEMORY)),
    ("optimization.output_pinned_memory", Ignored(MEMORY)),
    ("optimization.gather_kernel_buffer_threshold", Ignored(MEMORY)),
    ("optimization.eager_batching", Ignored("a free worker takes what waits")),
    ("dynamic_batching.preferred_batch_size", Ignored("N follows from measured batch times")),
    ("dynamic_batching.max_queue_delay_microseconds", Honoured),
    (
        "dynamic_batching.preserve_ordering",
        Ignored("requests are independent of each other, and each is answered when it is ready"),
    ),
    ("dynamic_batching.priority_levels", Honoured),
    ("dynamic_batching.default_priority_level", Honoured),
    ("dynamic_batching.default_queue_policy", Honoured),
    ("dynamic_batching.priority_queue_policy", Honoured),
    (
        "sequence_batching",
        Refused(
            "requests of a sequence would not reach the worker that holds its state; pass the state in inputs and outputs instead",
        ),
    ),
    (
        "ensemble_scheduling",
        Refused(
            "a model cannot pass its outputs to another model; join the models into one ONNX file instead",
        ),
    ),
    ("instance_group.name", Ignored("instances have no names")),
    ("instance_group.kind", Honoured),
    ("instance_group.count", Honoured),
    ("instance_group.rate_limiter", Ignored("models do not share a limit of resources")),
    ("instance_group.gpus", Honoured),
    ("instance_group.secondary_devices", Ignored(TENSORRT_ENGINES)),
    ("instance_group.profile", Ignored(TENSORRT_ENGINES)),
    ("instance_group.passive", Ignored("every instance takes requests")),
    ("instance_group.host_policy", Ignored("the threads of an instance run on any core")),
    ("default_model_filename", Honoured),
    ("cc_model_filenames", Ignored("default_model_filename is used on every device")),
    ("metric_tags", Ignored("metrics have the labels that docs/reference/metrics.md lists")),
    ("parameters", Honoured),
    ("model_warmup", Honoured),
    ("model_operations", Honoured),
    ("model_transaction_policy.decoupled", Refused("each request gets exactly one answer")),
    ("model_repository_agents", Honoured),
    ("response_cache", Ignored("answers are not cached")),
    ("model_metrics", Ignored("metrics have the buckets that docs/reference/metrics.md lists")),
];

const TENSORRT_ENGINES: &str = "it describes TensorRT engines, and models are ONNX files";
const MEMORY: &str = "the memory between client and device is managed by the worker";

/// The names of the enums' first values, which are their defaults.
const ENUM_DEFAULTS: [&str; 5] =
    ["TYPE_INVALID", "FORMAT_NONE", "KIND_AUTO", "PRIORITY_DEFAULT", "REJECT"];

/// A field that differs from its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetField {
    /// The field's path in the table.
    pub(super) path: &'static str,
    pub(super) effect: Effect,
    /// For a field of a list, the index of its element.
    pub(super) index: usize,
}

/// The fields that differ from their defaults, in the order of the messages, each once.
pub(super) fn set_fields(message: &Message) -> Vec<SetField> {
    let mut found = Vec::new();
    // The conversion of these structs into JSON cannot fail.
    let json = serde_json::to_value(message).unwrap_or_default();
    collect("", &json, 0, &mut found);
    found
}

fn collect(path: &str, value: &Value, index: usize, found: &mut Vec<SetField>) {
    if let Some((path, effect)) = EFFECTS.iter().find(|(known, _)| *known == path) {
        if !is_default(value) && found.iter().all(|field| field.path != *path) {
            found.push(SetField { path, effect: *effect, index });
        }
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(&below, value, index, found);
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                collect(path, element, index, found);
            }
        }
        _ => {}
    }
}

/// Whether a value is what a missing field means.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || ENUM_DEFAULTS.contains(&text.as_str()),
        Value::Array(elements) => elements.is_empty(),
        Value::Object(fields) => fields.values().all(is_default),
    }
}
