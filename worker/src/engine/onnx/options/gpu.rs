//! What a session on a GPU does differently: the options from the worker's flag, from a model's
//! `parameters` and from its `optimization`, in this order. A later one replaces an earlier one.
//! Pure.

use std::collections::BTreeMap;

use ort::ep::{ArenaExtendStrategy, CUDA, TensorRT, cuda::ConvAlgorithmSearch};

use super::provider::{
    CUDA_OPTIONS, REFUSED_OPTIONS, Setter, TENSORRT_OPTIONS, UNUSED_OPTIONS, find, flag,
};
use crate::{config::ModelConfig, settings::ExecutionProvider};

/// The option of ONNX Runtime that records the operators of a run as a CUDA graph.
const GRAPHS: &str = "enable_cuda_graph";
/// The option of the worker that keeps the memory of inputs and outputs for the next run.
const KEPT_MEMORY: &str = "io_binding";

/// The options of a session on a GPU.
#[derive(Clone, Debug, Default)]
pub(in crate::engine::onnx) struct GpuOptions {
    /// The CUDA execution provider.
    pub(in crate::engine::onnx) cuda: CUDA,
    /// The TensorRT execution provider.
    pub(in crate::engine::onnx) tensorrt: TensorRT,
    /// Whether each prepared batch size runs as one CUDA graph.
    pub(in crate::engine::onnx) graphs: bool,
    /// Whether inputs and outputs are in memory that stays between runs.
    pub(in crate::engine::onnx) kept_memory: bool,
    /// All options that were given, by name.
    pub(in crate::engine::onnx) given: BTreeMap<String, String>,
}

/// The source of an option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The worker's flag.
    Flag,
    /// The `parameters` of the config.
    Parameter,
    /// The `parameters` of an execution accelerator.
    Accelerator,
}

/// An option as it was given.
struct Given<'a> {
    source: Source,
    name: &'a str,
    value: &'a str,
}

impl Given<'_> {
    /// What the option is, for users.
    fn described(&self) -> String {
        let name = self.name;
        match self.source {
            Source::Flag => format!("the --provider-option {name}"),
            Source::Parameter => format!("the parameter {name} in config.pbtxt"),
            Source::Accelerator => {
                format!("the parameter {name} of an execution accelerator in config.pbtxt")
            }
        }
    }

    fn wrong(&self, expected: &str) -> String {
        format!("{} is {:?}: expected {expected}", self.described(), self.value)
    }
}

impl GpuOptions {
    /// The options of a session on `provider`, and sentences about those without effect. `flags`
    /// are the options of the worker. The error is a sentence.
    pub(super) fn read(
        config: &ModelConfig,
        flags: &BTreeMap<String, String>,
        provider: ExecutionProvider,
    ) -> Result<(Self, Vec<String>), String> {
        let mut options = Self {
            cuda: CUDA::default()
                // ONNX Runtime's default, an exhaustive search, tries every algorithm again for each
                // new batch size.
                .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
                .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested),
            kept_memory: provider == ExecutionProvider::Cuda,
            ..Self::default()
        };
        let mut notes = Vec::new();
        for given in all(config, flags) {
            let has_effect = options.set(&given, provider)?;
            // The worker's flag is for models on its GPU.
            if !has_effect && given.source != Source::Flag {
                notes.push(without_effect(&given, provider));
            }
        }
        let wants_graphs = config.cuda_graphs || options.graphs;
        options.graphs = match provider {
            // Only tests of this path keep memory on the processor.
            ExecutionProvider::Cpu => wants_graphs && options.kept_memory,
            ExecutionProvider::Cuda => wants_graphs,
            ExecutionProvider::Tensorrt => false,
        };
        if options.graphs && !options.kept_memory {
            return Err(format!(
                "CUDA graphs need memory that stays between runs, which {KEPT_MEMORY} 0 switches \
                 off: drop one of them"
            ));
        }
        if wants_graphs && !options.graphs {
            notes.push(no_graphs(provider));
        }
        Ok((options, notes))
    }

    /// Sets one option. Returns whether it has an effect on `provider`.
    fn set(&mut self, given: &Given<'_>, provider: ExecutionProvider) -> Result<bool, String> {
        let Given { name, value, .. } = *given;
        if let Some((_, why)) = REFUSED_OPTIONS.iter().find(|(known, _)| *known == name) {
            return Err(format!("{} cannot be set: {why}", given.described()));
        }
        let on_gpu = provider != ExecutionProvider::Cpu;
        let wrong = |expected: String| given.wrong(&expected);
        let has_effect = if let Some(setter) = find(CUDA_OPTIONS, name) {
            self.cuda = apply(setter, &self.cuda, value).map_err(wrong)?;
            on_gpu
        } else if let Some(setter) = find(TENSORRT_OPTIONS, name) {
            self.tensorrt = apply(setter, &self.tensorrt, value).map_err(wrong)?;
            provider == ExecutionProvider::Tensorrt
        } else if name == GRAPHS {
            self.graphs = flag(value).ok_or_else(|| given.wrong("1 or 0"))?;
            true
        } else if name == KEPT_MEMORY {
            // Also on the processor, for tests of this path without a GPU.
            self.kept_memory = flag(value).ok_or_else(|| given.wrong("1 or 0"))?;
            true
        } else if UNUSED_OPTIONS.iter().any(|(known, _)| *known == name) {
            return Ok(false);
        } else {
            return Err(unknown(given));
        };
        self.given.insert(name.to_owned(), value.to_owned());
        Ok(has_effect)
    }
}

fn apply<P: Clone>(setter: &Setter<P>, provider: &P, value: &str) -> Result<P, String> {
    setter.set(provider.clone(), value)
}

/// All options, the strongest last. Of the `parameters` of a config, only the names of the tables
/// are options.
fn all<'a>(
    config: &'a ModelConfig,
    flags: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = Given<'a>> {
    let given =
        |source| move |(name, value): (&'a String, &'a String)| Given { source, name, value };
    let parameters = config.parameters.iter().filter(|(name, _)| is_known(name));
    let accelerators = config.accelerators.iter().filter(|one| is_of_gpus(&one.name));
    flags
        .iter()
        .map(given(Source::Flag))
        .chain(parameters.map(given(Source::Parameter)))
        .chain(accelerators.flat_map(|one| &one.parameters).map(given(Source::Accelerator)))
}

/// Whether an execution accelerator is one of NVIDIA's GPUs.
pub(super) fn is_of_gpus(name: &str) -> bool {
    ["tensorrt", "cuda"].contains(&name)
}

/// Whether a name is that of an option.
pub(crate) fn is_known(name: &str) -> bool {
    find(CUDA_OPTIONS, name).is_some()
        || find(TENSORRT_OPTIONS, name).is_some()
        || UNUSED_OPTIONS.iter().chain(REFUSED_OPTIONS).any(|(known, _)| *known == name)
        || [GRAPHS, KEPT_MEMORY].contains(&name)
}

/// A sentence about an option that is not known, with the one that may be meant.
fn unknown(given: &Given<'_>) -> String {
    let names = CUDA_OPTIONS.iter().map(|(name, _)| *name);
    let names = names.chain(TENSORRT_OPTIONS.iter().map(|(name, _)| *name)).chain([GRAPHS]);
    let closest = names.min_by_key(|name| strsim::levenshtein(name, given.name));
    let closest = closest.filter(|name| strsim::levenshtein(name, given.name) <= 4);
    let meant = closest.map(|name| format!(": did you mean {name}?")).unwrap_or_default();
    format!("{} is not known{meant}", given.described())
}

/// A sentence about an option that `provider` does not use.
fn without_effect(given: &Given<'_>, provider: ExecutionProvider) -> String {
    let unused = UNUSED_OPTIONS.iter().find(|(known, _)| *known == given.name);
    let why = match (unused, provider) {
        (_, ExecutionProvider::Cpu) => "the model runs on the processor",
        (Some((_, why)), _) => why,
        (None, _) => "the model does not run on TensorRT",
    };
    format!("{} has no effect, because {why}", given.described())
}

fn no_graphs(provider: ExecutionProvider) -> String {
    let why = match provider {
        ExecutionProvider::Tensorrt => "TensorRT has its own: set trt_cuda_graph_enable",
        _ => "the model runs on the processor",
    };
    format!("CUDA graphs in config.pbtxt have no effect, because {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        config: &str,
        flags: &[(&str, &str)],
        provider: ExecutionProvider,
    ) -> Result<(GpuOptions, Vec<String>), String> {
        let flags = flags.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        GpuOptions::read(&ModelConfig::parse(config).unwrap(), &flags.collect(), provider)
    }

    fn accelerator(name: &str, parameters: &[(&str, &str)]) -> String {
        let parameter = |(key, value): &(&str, &str)| {
            format!("parameters {{ key: \"{key}\" value: \"{value}\" }}")
        };
        let parameters = parameters.iter().map(parameter).collect::<Vec<_>>().join(" ");
        format!(
            "optimization {{ execution_accelerators {{ gpu_execution_accelerator [ {{ \
             name: \"{name}\" {parameters} }} ] }} }}"
        )
    }

    /// The options of CUDA and of TensorRT as they reach ONNX Runtime.
    fn passed(options: &GpuOptions) -> String {
        format!("{:?} {:?}", options.cuda, options.tensorrt)
    }

    #[test]
    fn a_model_that_says_nothing_gets_the_defaults() {
        let (options, notes) = read("", &[], ExecutionProvider::Cuda).unwrap();
        let passed = passed(&options);
        assert!(passed.contains("HEURISTIC") && passed.contains("kSameAsRequested"), "{passed}");
        assert_eq!((options.graphs, options.kept_memory, notes.len()), (false, true, 0));
        let (options, _) = read("", &[], ExecutionProvider::Cpu).unwrap();
        assert!(!options.kept_memory);
    }

    #[test]
    fn a_model_takes_precedence_over_the_worker_and_the_accelerator_over_the_parameters() {
        let config = accelerator("cuda", &[("gpu_mem_limit", "3000")])
            + " parameters { key: \"gpu_mem_limit\" value { string_value: \"2000\" } }"
            + " parameters { key: \"use_tf32\" value { string_value: \"0\" } }";
        let flags = [("gpu_mem_limit", "1000"), ("use_tf32", "1"), ("prefer_nhwc", "1")];
        let (options, notes) = read(&config, &flags, ExecutionProvider::Cuda).unwrap();
        let given: Vec<(&str, &str)> =
            options.given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(given, [("gpu_mem_limit", "3000"), ("prefer_nhwc", "1"), ("use_tf32", "0")]);
        assert!(passed(&options).contains("3000") && notes.is_empty(), "{options:?}");
    }

    #[test]
    fn tensorrt_gets_tritons_options_and_cuda_the_rest() {
        let config = accelerator(
            "tensorrt",
            &[
                ("precision_mode", "FP16"),
                ("max_workspace_size_bytes", "1073741824"),
                ("trt_engine_cache_enable", "true"),
            ],
        );
        let (options, notes) = read(&config, &[], ExecutionProvider::Tensorrt).unwrap();
        for text in ["trt_fp16_enable", "trt_max_workspace_size", "trt_engine_cache_enable"] {
            assert!(passed(&options).contains(text), "{text}: {options:?}");
        }
        assert!(notes.is_empty(), "{notes:?}");
        let (_, notes) = read(&config, &[], ExecutionProvider::Cuda).unwrap();
        assert_eq!(notes.len(), 3);
        assert!(notes[0].ends_with("because the model does not run on TensorRT"), "{notes:?}");
    }

    #[test]
    fn nothing_is_dropped_without_a_word() {
        let on_cuda = |parameters: &[(&str, &str)]| {
            read(&accelerator("cuda", parameters), &[], ExecutionProvider::Cuda)
        };
        let (_, notes) = on_cuda(&[("do_copy_in_default_stream", "1")]).unwrap();
        assert!(notes[0].ends_with("because copies always use the stream of the model"));
        for (name, value, problem) in [
            (
                "device_id",
                "1",
                "device_id of an execution accelerator in config.pbtxt cannot be set",
            ),
            ("use_tf23", "1", "is not known: did you mean use_tf32?"),
            ("colour", "blue", "colour of an execution accelerator in config.pbtxt is not known"),
            ("use_tf32", "on", "is \"on\": expected 1 or 0"),
        ] {
            let error = on_cuda(&[(name, value)]).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        let error = read("", &[("use_tf23", "1")], ExecutionProvider::Cuda).unwrap_err();
        assert!(error.starts_with("the --provider-option use_tf23 is not known"), "{error}");
        // Parameters that are no options are the model's own business.
        let own = "parameters { key: \"colour\" value { string_value: \"blue\" } }";
        assert!(read(own, &[], ExecutionProvider::Cuda).is_ok());
    }

    #[test]
    fn cuda_graphs_need_a_gpu_and_memory_that_stays() {
        let config = "optimization { cuda { graphs: true } }";
        assert!(read(config, &[], ExecutionProvider::Cuda).unwrap().0.graphs);
        let (options, notes) = read(config, &[], ExecutionProvider::Cpu).unwrap();
        assert!(!options.graphs && notes[0].ends_with("the model runs on the processor"));
        let (options, notes) = read(config, &[], ExecutionProvider::Tensorrt).unwrap();
        assert!(!options.graphs && notes[0].contains("trt_cuda_graph_enable"), "{notes:?}");
        let error = read(config, &[("io_binding", "0")], ExecutionProvider::Cuda).unwrap_err();
        assert!(error.starts_with("CUDA graphs need memory that stays"), "{error}");
        let by_accelerator = accelerator("cuda", &[("enable_cuda_graph", "1")]);
        assert!(read(&by_accelerator, &[], ExecutionProvider::Cuda).unwrap().0.graphs);
    }
}
