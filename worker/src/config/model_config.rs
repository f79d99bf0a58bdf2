//! How to serve a model: what the worker needs of a `config.pbtxt`.

use std::{collections::BTreeMap, time::Duration};

use batchfleet_broker::QueuePolicy;

use super::{
    batching,
    effect::{self, Effect},
    message::{Accelerator, Message},
    mistake::Mistake,
    runtime::{self, InstanceGroup},
    tensor::{self, RowAxis, TensorConfig},
    warmup::{self, WarmupSample},
};
use crate::pbtxt::{self, SyntaxError};

/// How to serve a model. The default applies to models without a `config.pbtxt`.
#[derive(Clone, Debug)]
pub(crate) struct ModelConfig {
    /// The file's content. Fields that no other field of this struct represents are read from here.
    pub(crate) message: Message,
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
    /// The inputs as clients see them.
    pub(crate) inputs: Vec<TensorConfig>,
    /// The outputs as clients see them.
    pub(crate) outputs: Vec<TensorConfig>,
    /// How many copies of the model run side by side, and on which devices.
    pub(crate) instances: Vec<InstanceGroup>,
    /// How far ONNX Runtime optimises the graph, as in `optimization.graph.level`.
    pub(crate) graph_level: Option<i32>,
    /// The `optimization.execution_accelerators`.
    pub(crate) accelerators: Vec<Accelerator>,
    /// Whether each batch size runs as one CUDA graph, as in `optimization.cuda.graphs`.
    pub(crate) cuda_graphs: bool,
    /// Libraries with custom operators, as in `model_operations.op_library_filename`.
    pub(crate) operator_libraries: Vec<String>,
    /// Which dimension of a tensor counts rows, where the config declares it.
    pub(crate) row_axes: BTreeMap<String, RowAxis>,
    /// The backend's settings.
    pub(crate) parameters: BTreeMap<String, String>,
    /// The requests to warm up the model with.
    pub(crate) samples: Vec<WarmupSample>,
    /// How long a batch that is not full waits for more jobs; `None` leaves it to `--linger`.
    pub(crate) linger: Option<Duration>,
    /// How long requests may wait, and how many.
    pub(crate) queue_policy: QueuePolicy,
    /// A sentence about each field without effect.
    pub(crate) ignored_notes: Vec<String>,
    /// The fields without effect.
    pub(crate) ignored: Vec<&'static str>,
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
            message: Message::default(),
            name: None,
            backend: Backend::OnnxRuntime,
            max_batch: None,
            versions: VersionPolicy::Latest(1),
            file: DEFAULT_FILE.to_owned(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            instances: Vec::new(),
            graph_level: None,
            accelerators: Vec::new(),
            cuda_graphs: false,
            operator_libraries: Vec::new(),
            row_axes: BTreeMap::new(),
            parameters: BTreeMap::new(),
            samples: Vec::new(),
            linger: None,
            queue_policy: QueuePolicy::default(),
            ignored_notes: Vec::new(),
            ignored: Vec::new(),
            warmup: BTreeMap::new(),
        }
    }
}

/// The model's file unless the config names another.
const DEFAULT_FILE: &str = "model.onnx";

impl ModelConfig {
    /// Reads a `config.pbtxt`. An unknown field is an error, and so is a field that is refused.
    pub(crate) fn parse(text: &str) -> Result<Self, SyntaxError> {
        let tree = pbtxt::parse(text)?;
        Self::of(tree.read()?).map_err(|mistake| SyntaxError {
            line: tree.line(mistake.field, mistake.index),
            problem: mistake.problem,
        })
    }

    fn of(message: Message) -> Result<Self, Mistake> {
        let (ignored, ignored_notes) = effects(&message)?;
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        let parameters: BTreeMap<String, String> = message
            .parameters
            .iter()
            .map(|(key, value)| (key.clone(), value.string_value.clone()))
            .collect();
        let samples = warmup::samples(&message)?;
        Ok(Self {
            name: some(&message.name),
            backend: backend(&message)?,
            max_batch: max_batch(&message)?,
            versions: versions(&message)?,
            file: some(&message.default_model_filename).unwrap_or_else(|| DEFAULT_FILE.to_owned()),
            linger: batching::linger(&message),
            queue_policy: batching::queue_policy(&message)?,
            warmup: samples.first().map(WarmupSample::shapes).unwrap_or_default(),
            inputs: tensor::inputs(&message)?,
            outputs: tensor::outputs(&message)?,
            instances: runtime::instances(&message)?,
            graph_level: runtime::graph_level(&message),
            accelerators: runtime::accelerators(&message),
            cuda_graphs: runtime::cuda_graphs(&message),
            operator_libraries: runtime::operator_libraries(&message),
            row_axes: tensor::row_axes(&parameters)?,
            parameters,
            samples,
            ignored_notes,
            ignored,
            message,
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

/// The fields without effect, and a sentence about each. The error is the first field that is
/// refused.
fn effects(message: &Message) -> Result<(Vec<&'static str>, Vec<String>), Mistake> {
    let (mut ignored, mut notes) = (Vec::new(), Vec::new());
    for set in effect::set_fields(message) {
        match set.effect {
            Effect::Honoured => {}
            Effect::Ignored(why) => {
                ignored.push(set.path);
                notes.push(format!("{} in config.pbtxt has no effect, because {why}", set.path));
            }
            Effect::Refused(why) => {
                let outermost = set.path.split('.').next().unwrap_or(set.path);
                let problem = format!("{} is not supported: {why}", set.path);
                return Err(Mistake::at(outermost, set.index, problem));
            }
        }
    }
    if batching::delays(message) {
        ignored.push("dynamic_batching: timeout_action DELAY");
        notes.push(
            "timeout_action DELAY in config.pbtxt has no effect, because no request runs after its \
             deadline; say REJECT for a shorter deadline"
                .to_owned(),
        );
    }
    Ok((ignored, notes))
}

/// The engine that `backend` and `platform` name.
fn backend(message: &Message) -> Result<Backend, Mistake> {
    let named = |field: &'static str, text: &str| match text {
        "" => Ok(None),
        "onnxruntime" | "onnxruntime_onnx" => Ok(Some(Backend::OnnxRuntime)),
        "batchfleet_echo" => Ok(Some(Backend::Echo)),
        other => Err(Mistake::new(
            field,
            format!("{field} {other:?} is not supported: onnxruntime and batchfleet_echo are"),
        )),
    };
    match (named("backend", &message.backend)?, named("platform", &message.platform)?) {
        (Some(backend), Some(platform)) if backend != platform => {
            let (backend, platform) = (&message.backend, &message.platform);
            Err(Mistake::new(
                "platform",
                format!("platform {platform:?} contradicts backend {backend:?}: give one of them"),
            ))
        }
        (backend, platform) => Ok(backend.or(platform).unwrap_or(Backend::OnnxRuntime)),
    }
}

fn max_batch(message: &Message) -> Result<Option<u32>, Mistake> {
    let Some(rows) = message.max_batch_size else { return Ok(None) };
    let negative = |_| {
        let problem = "is negative; 0 switches batching off";
        Mistake::new("max_batch_size", format!("max_batch_size {rows} {problem}"))
    };
    u32::try_from(rows).map(Some).map_err(negative)
}

fn versions(message: &Message) -> Result<VersionPolicy, Mistake> {
    let Some(policy) = &message.version_policy else { return Ok(VersionPolicy::Latest(1)) };
    let mistake = |problem: String| Mistake::new("version_policy", problem);
    match (&policy.latest, &policy.all, &policy.specific) {
        (Some(latest), None, None) => match latest.num_versions {
            Some(0) => Err(mistake(
                "version_policy latest with num_versions 0 serves no version: give 1 or more"
                    .to_owned(),
            )),
            count => Ok(VersionPolicy::Latest(count.unwrap_or(1) as usize)),
        },
        (None, Some(_), None) => Ok(VersionPolicy::All),
        (None, None, Some(specific)) => {
            let version = |&version: &i64| {
                u64::try_from(version).ok().filter(|&version| version > 0).ok_or_else(|| {
                    mistake(format!("version_policy names version {version}: versions start at 1"))
                })
            };
            let versions: Vec<u64> =
                specific.versions.iter().map(version).collect::<Result<_, _>>()?;
            if versions.is_empty() {
                return Err(mistake("version_policy specific names no version".to_owned()));
            }
            Ok(VersionPolicy::Specific(versions))
        }
        (None, None, None) => {
            Err(mistake("version_policy names none of latest, all and specific".to_owned()))
        }
        _ => Err(mistake(
            "version_policy names more than one of latest, all and specific".to_owned(),
        )),
    }
}
