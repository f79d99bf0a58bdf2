//! The options of a session of ONNX Runtime: what the worker's settings and the model's config say.
//! The names and values of the config are those of Triton's backend for ONNX Runtime. Pure.

mod gpu;
mod provider;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ort::session::builder::GraphOptimizationLevel;

pub(super) use self::gpu::GpuOptions;
use self::provider::flag;
use crate::{
    config::{Accelerator, ModelConfig},
    instances::Instance,
    settings::ExecutionProvider,
};

/// Prefixes of the parameters that are passed to ONNX Runtime as session options of the same name.
const ENTRIES: [&str; 4] = ["session.", "optimization.", "mlas.", "ep."];

/// The options of one session.
#[derive(Clone, Debug)]
pub(super) struct SessionOptions {
    /// Where the session runs.
    pub(super) provider: ExecutionProvider,
    /// The number of the provider's device.
    pub(super) device: u16,
    /// Threads that compute one operator.
    pub(super) intra_threads: usize,
    /// Threads that compute operators side by side; `None` leaves the number to ONNX Runtime.
    pub(super) inter_threads: Option<usize>,
    /// Whether operators that do not depend on each other run side by side.
    pub(super) is_parallel: bool,
    /// How far the graph is optimised.
    pub(super) level: GraphOptimizationLevel,
    /// Whether memory of the processor is kept for the next run.
    pub(super) arena: Option<bool>,
    /// Whether the memory of a run is planned from the run before.
    pub(super) memory_pattern: Option<bool>,
    /// The devices, such as `cpu:0;gpu:0`, that return unused memory after each run.
    pub(super) shrinkage: Option<String>,
    /// Further options by name, passed to ONNX Runtime as they are.
    pub(super) entries: Vec<(String, String)>,
    /// Libraries with custom operators.
    pub(super) libraries: Vec<PathBuf>,
    /// Options of sessions on a GPU.
    pub(super) gpu: GpuOptions,
    /// What the config says and this session does not do, as sentences for users.
    pub(super) notes: Vec<String>,
}

impl SessionOptions {
    /// The options of the session of `instance`, unless `config` changes them. `flags` are options
    /// of the execution provider for all models. `folders` are searched for libraries of custom
    /// operators. The error is a sentence.
    pub(super) fn read(
        config: &ModelConfig,
        flags: &BTreeMap<String, String>,
        instance: Instance,
        folders: &[&Path],
    ) -> Result<Self, String> {
        let Instance { provider, device, threads } = instance;
        let parameters = Parameters(&config.parameters);
        // 0 stands for the default, as in Triton.
        let count = |name| Ok::<_, String>(parameters.number(name)?.filter(|&count| count > 0));
        let entries = config.parameters.iter().filter(|(name, _)| is_entry(name));
        let libraries = config.operator_libraries.iter().map(|file| library(file, folders));
        let mut notes = accelerators(&config.accelerators, provider)?;
        let (gpu, without_effect) = GpuOptions::read(config, flags, provider)?;
        notes.extend(without_effect);
        let arena = parameters.flag("enable_mem_arena")?;
        let shrinkage = config.parameters.get("memory.enable_memory_arena_shrinkage").cloned();
        if arena == Some(false) && shrinkage.is_some() {
            return Err(
                "the parameter memory.enable_memory_arena_shrinkage returns the memory of the \
                        arena, which enable_mem_arena 0 switches off: drop one of them"
                    .to_owned(),
            );
        }
        if gpu.graphs && shrinkage.is_some() {
            return Err(
                "the parameter memory.enable_memory_arena_shrinkage returns memory that CUDA graphs \
                 still use: drop one of them"
                    .to_owned(),
            );
        }
        Ok(Self {
            provider,
            device,
            intra_threads: count("intra_op_thread_count")?.unwrap_or(threads),
            inter_threads: count("inter_op_thread_count")?,
            is_parallel: parameters.one_of("execution_mode", &["0", "1"])? == Some(1),
            level: level(config.graph_level)?,
            arena,
            memory_pattern: parameters.flag("enable_mem_pattern")?,
            shrinkage,
            entries: entries.map(|(name, value)| (name.clone(), value.clone())).collect(),
            libraries: libraries.collect::<Result<_, _>>()?,
            gpu,
            notes,
        })
    }
}

/// Whether a parameter is an option that ONNX Runtime reads under the same name.
fn is_entry(name: &str) -> bool {
    ENTRIES.iter().any(|prefix| name.starts_with(prefix))
}

/// The meaning of `optimization { graph { level } }`, as in Triton.
fn level(level: Option<i32>) -> Result<GraphOptimizationLevel, String> {
    Ok(match level {
        None | Some(0) => GraphOptimizationLevel::All,
        Some(-1) => GraphOptimizationLevel::Level1,
        Some(1) => GraphOptimizationLevel::Level2,
        Some(2) => GraphOptimizationLevel::Disable,
        Some(other) => {
            return Err(format!(
                "config.pbtxt says optimization.graph.level {other}: say -1 (basic), 0 (all), 1 \
                 (basic and extended) or 2 (none)"
            ));
        }
    })
}

/// A note for each of the `optimization.execution_accelerators` that the session does not use.
fn accelerators(all: &[Accelerator], provider: ExecutionProvider) -> Result<Vec<String>, String> {
    let note = |Accelerator { name, .. }: &Accelerator| match (name.as_str(), provider) {
        ("tensorrt", ExecutionProvider::Tensorrt)
        | ("cuda", ExecutionProvider::Cuda | ExecutionProvider::Tensorrt) => Ok(None),
        ("tensorrt" | "cuda", _) => Ok(Some(format!(
            "the execution accelerator {name:?} has no effect, because the model runs on {}: start \
             the worker with --execution-provider {name}",
            provider.name()
        ))),
        ("openvino", _) => Ok(Some(format!(
            "the execution accelerator {name:?} has no effect, because it is not supported"
        ))),
        _ => Err(format!(
            "config.pbtxt asks for the unknown execution accelerator {name:?}: tensorrt and cuda are \
             known"
        )),
    };
    Ok(all.iter().map(note).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// The file of a library: an absolute path, or the first of `folders` that contains the file.
fn library(file: &str, folders: &[&Path]) -> Result<PathBuf, String> {
    // `join` returns an absolute path as it is.
    let tried: Vec<PathBuf> = folders.iter().map(|folder| folder.join(file)).collect();
    if let Some(found) = tried.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let mut tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
    tried.dedup();
    Err(format!("there is no op_library_filename {}", tried.join(" or ")))
}

/// The `parameters` of a config.
struct Parameters<'a>(&'a BTreeMap<String, String>);

impl Parameters<'_> {
    /// A number that is not negative.
    fn number(&self, name: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let number = value.trim().parse().map_err(|_| wrong(name, value, "a number from 0 on"))?;
        Ok(Some(number))
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        flag(value).map(Some).ok_or_else(|| wrong(name, value, "1 or 0"))
    }

    /// The position of the value among `allowed`.
    fn one_of(&self, name: &str, allowed: &[&str]) -> Result<Option<u8>, String> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let place = (0..).zip(allowed).find(|(_, one)| **one == value.trim());
        place.map(|(place, _)| Some(place)).ok_or_else(|| wrong(name, value, &allowed.join(" or ")))
    }
}

fn wrong(name: &str, value: &str, expected: &str) -> String {
    format!("the parameter {name} in config.pbtxt is {value:?}: expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<SessionOptions, String> {
        let parameters =
            parameters.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let config = ModelConfig { parameters, ..ModelConfig::default() };
        let instance = Instance { provider: ExecutionProvider::Cpu, device: 0, threads: 3 };
        SessionOptions::read(&config, &BTreeMap::new(), instance, &[])
    }

    #[test]
    fn parameters_of_tritons_backend_are_options_of_the_session() {
        let default = read(&[("golden_check", "off"), ("intra_op_thread_count", "0")]).unwrap();
        assert_eq!((default.intra_threads, default.inter_threads), (3, None));
        assert_eq!(
            (default.is_parallel, default.arena, default.memory_pattern),
            (false, None, None)
        );
        assert_eq!((default.level, default.entries.len()), (GraphOptimizationLevel::All, 0));
        let all = read(&[
            ("intra_op_thread_count", "2"),
            ("inter_op_thread_count", "4"),
            ("execution_mode", "1"),
            ("enable_mem_arena", "1"),
            ("enable_mem_pattern", "True"),
            ("memory.enable_memory_arena_shrinkage", "cpu:0"),
            ("session.use_device_allocator_for_initializers", "1"),
            ("cudnn_conv_algo_search", "2"),
            ("gpu_mem_limit", "4294967296"),
            ("arena_extend_strategy", "1"),
        ])
        .unwrap();
        assert_eq!((all.intra_threads, all.inter_threads), (2, Some(4)));
        assert_eq!(
            (all.is_parallel, all.arena, all.memory_pattern),
            (true, Some(true), Some(true))
        );
        assert_eq!(all.shrinkage.as_deref(), Some("cpu:0"));
        let entry = ("session.use_device_allocator_for_initializers".to_owned(), "1".to_owned());
        assert_eq!(all.entries, [entry]);
        assert_eq!(all.notes.len(), 3, "{:?}", all.notes);
        for (note, name) in all.notes.iter().zip([
            "arena_extend_strategy",
            "cudnn_conv_algo_search",
            "gpu_mem_limit",
        ]) {
            let expected = format!(
                "the parameter {name} in config.pbtxt has no effect, because the model runs on the \
                 processor"
            );
            assert_eq!(*note, expected);
        }
        assert!(all.gpu.given.contains_key("gpu_mem_limit"));
    }

    #[test]
    fn a_wrong_value_is_refused_with_the_allowed_values() {
        for (name, value, expected) in [
            ("intra_op_thread_count", "-1", "is \"-1\": expected a number from 0 on"),
            ("inter_op_thread_count", "two", "is \"two\": expected a number from 0 on"),
            ("execution_mode", "2", "is \"2\": expected 0 or 1"),
            ("enable_mem_arena", "yes", "is \"yes\": expected 1 or 0"),
            (
                "cudnn_conv_algo_search",
                "3",
                "is \"3\": expected 0 (EXHAUSTIVE) or 1 (HEURISTIC) or 2 (DEFAULT)",
            ),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert_eq!(error, format!("the parameter {name} in config.pbtxt {expected}"));
        }
    }

    #[test]
    fn the_level_of_graph_optimisation_is_tritons() {
        for (number, expected) in [
            (None, GraphOptimizationLevel::All),
            (Some(0), GraphOptimizationLevel::All),
            (Some(-1), GraphOptimizationLevel::Level1),
            (Some(1), GraphOptimizationLevel::Level2),
            (Some(2), GraphOptimizationLevel::Disable),
        ] {
            assert_eq!(level(number), Ok(expected));
        }
        assert!(level(Some(3)).unwrap_err().contains("level 3: say -1"));
    }

    #[test]
    fn an_accelerator_that_the_worker_has_not_is_noted() {
        let named =
            |name: &str| [Accelerator { name: name.to_owned(), parameters: BTreeMap::new() }];
        let notes = |name: &str, provider| accelerators(&named(name), provider).unwrap();
        for (name, provider) in [
            ("tensorrt", ExecutionProvider::Tensorrt),
            ("cuda", ExecutionProvider::Tensorrt),
            ("cuda", ExecutionProvider::Cuda),
        ] {
            assert!(notes(name, provider).is_empty(), "{name}");
        }
        for (name, provider, problem) in [
            (
                "tensorrt",
                ExecutionProvider::Cuda,
                "start the worker with --execution-provider tensorrt",
            ),
            ("tensorrt", ExecutionProvider::Cpu, "because the model runs on cpu: start"),
            ("cuda", ExecutionProvider::Cpu, "start the worker with --execution-provider cuda"),
            (
                "openvino",
                ExecutionProvider::Cpu,
                "\"openvino\" has no effect, because it is not supported",
            ),
        ] {
            assert!(notes(name, provider)[0].contains(problem), "{name}");
        }
        let unknown = accelerators(&named("tensortr"), ExecutionProvider::Tensorrt);
        assert!(unknown.unwrap_err().contains("unknown execution accelerator \"tensortr\""));
    }

    #[test]
    fn a_library_is_searched_in_the_folders_of_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let (version, model) = (folder.path().join("m/1"), folder.path().join("m"));
        std::fs::create_dir_all(&version).unwrap();
        std::fs::write(model.join("ops.so"), "").unwrap();
        let folders = [version.as_path(), model.as_path()];
        assert_eq!(library("ops.so", &folders), Ok(model.join("ops.so")));
        let absolute = model.join("ops.so").display().to_string();
        assert_eq!(library(&absolute, &folders), Ok(model.join("ops.so")));
        let error = library("no.so", &folders).unwrap_err();
        assert!(error.contains("m/1/no.so or ") && error.ends_with("m/no.so"), "{error}");
    }
}
