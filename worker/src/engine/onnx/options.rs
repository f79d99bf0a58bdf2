//! The options of a session of ONNX Runtime: what the worker's settings and the model's config say.
//! The names and values of the config are those of Triton's backend for ONNX Runtime. Pure.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ort::session::builder::GraphOptimizationLevel;

use crate::{config::ModelConfig, settings::ExecutionProvider};

/// Prefixes of the parameters that are passed to ONNX Runtime as session options of the same name.
const ENTRIES: [&str; 4] = ["session.", "optimization.", "mlas.", "ep."];

/// Parameters that only GPUs have.
const CUDA_PARAMETERS: [&str; 3] =
    ["cudnn_conv_algo_search", "gpu_mem_limit", "arena_extend_strategy"];

/// The options of one session.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SessionOptions {
    /// Where the session runs.
    pub(super) provider: ExecutionProvider,
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
    /// Options that only a GPU has.
    pub(super) cuda: CudaOptions,
    /// What the config says and this session does not do, as sentences for users.
    pub(super) notes: Vec<String>,
}

/// Options of the CUDA execution provider; `None` leaves the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CudaOptions {
    /// How algorithms for convolutions are found: 0 tries all, 1 estimates, 2 takes the default.
    pub(super) conv_algorithm_search: Option<u8>,
    /// The most bytes of device memory.
    pub(super) memory_limit: Option<usize>,
    /// How memory grows: 0 by powers of two, 1 by what is requested.
    pub(super) arena_extend_strategy: Option<u8>,
}

impl SessionOptions {
    /// The options of a session on `provider` with `threads` threads, unless `config` changes them.
    /// `folders` are searched for libraries of custom operators. The error is a sentence.
    pub(super) fn read(
        config: &ModelConfig,
        provider: ExecutionProvider,
        threads: usize,
        folders: &[&Path],
    ) -> Result<Self, String> {
        let parameters = Parameters(&config.parameters);
        // 0 stands for the default, as in Triton.
        let count = |name| Ok::<_, String>(parameters.number(name)?.filter(|&count| count > 0));
        let entries = config.parameters.iter().filter(|(name, _)| is_entry(name));
        let libraries = config.operator_libraries.iter().map(|file| library(file, folders));
        let mut notes = accelerators(&config.accelerators, provider)?;
        notes.extend(cuda_on_cpu(&config.parameters, provider));
        let arena = parameters.flag("enable_mem_arena")?;
        let shrinkage = config.parameters.get("memory.enable_memory_arena_shrinkage").cloned();
        if arena == Some(false) && shrinkage.is_some() {
            return Err(
                "the parameter memory.enable_memory_arena_shrinkage returns the memory of the \
                        arena, which enable_mem_arena 0 switches off: drop one of them"
                    .to_owned(),
            );
        }
        Ok(Self {
            provider,
            intra_threads: count("intra_op_thread_count")?.unwrap_or(threads),
            inter_threads: count("inter_op_thread_count")?,
            is_parallel: parameters.one_of("execution_mode", &["0", "1"])? == Some(1),
            level: level(config.graph_level)?,
            arena,
            memory_pattern: parameters.flag("enable_mem_pattern")?,
            shrinkage,
            entries: entries.map(|(name, value)| (name.clone(), value.clone())).collect(),
            libraries: libraries.collect::<Result<_, _>>()?,
            cuda: CudaOptions {
                conv_algorithm_search: parameters
                    .one_of("cudnn_conv_algo_search", &["0", "1", "2"])?,
                memory_limit: parameters.number("gpu_mem_limit")?,
                arena_extend_strategy: parameters.one_of("arena_extend_strategy", &["0", "1"])?,
            },
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
fn accelerators(names: &[String], provider: ExecutionProvider) -> Result<Vec<String>, String> {
    let note = |name: &String| match (name.as_str(), provider) {
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
    Ok(names.iter().map(note).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// A note for each parameter of GPUs that a session on the processor does not use.
fn cuda_on_cpu(parameters: &BTreeMap<String, String>, provider: ExecutionProvider) -> Vec<String> {
    let unused = CUDA_PARAMETERS.iter().filter(|name| parameters.contains_key(**name));
    let unused = unused.filter(|_| provider == ExecutionProvider::Cpu);
    unused
        .map(|name| {
            format!("the parameter {name} has no effect, because the model runs on the processor")
        })
        .collect()
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
        match value.trim().to_ascii_lowercase().as_str() {
            "1" | "true" => Ok(Some(true)),
            "0" | "false" => Ok(Some(false)),
            _ => Err(wrong(name, value, "1 or 0")),
        }
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
        SessionOptions::read(&config, ExecutionProvider::Cpu, 3, &[])
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
        assert!(all.notes[0].starts_with("the parameter cudnn_conv_algo_search has no effect"));
        assert_eq!(
            all.cuda,
            CudaOptions {
                conv_algorithm_search: Some(2),
                memory_limit: Some(4 << 30),
                arena_extend_strategy: Some(1),
            }
        );
    }

    #[test]
    fn a_wrong_value_is_refused_with_the_allowed_values() {
        for (name, value, expected) in [
            ("intra_op_thread_count", "-1", "is \"-1\": expected a number from 0 on"),
            ("inter_op_thread_count", "two", "is \"two\": expected a number from 0 on"),
            ("execution_mode", "2", "is \"2\": expected 0 or 1"),
            ("enable_mem_arena", "yes", "is \"yes\": expected 1 or 0"),
            ("cudnn_conv_algo_search", "3", "is \"3\": expected 0 or 1 or 2"),
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
        let notes = |name: &str, provider| accelerators(&[name.to_owned()], provider).unwrap();
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
        let unknown = accelerators(&["tensortr".to_owned()], ExecutionProvider::Tensorrt);
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
