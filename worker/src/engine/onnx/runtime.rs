//! ONNX Runtime's shared library and the sessions that it opens.
//!
//! The library is loaded once per process. A missing execution provider is an error, because ONNX
//! Runtime itself would silently fall back to the CPU.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use batchfleet_broker::TensorSpec;
use ort::{
    environment::Environment,
    ep::{CPU, ExecutionProviderDispatch},
    logging::LogLevel,
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
};

use super::{
    convert::tensor_spec, load_error, log, options::SessionOptions, placement::Placement, tensorrt,
};
use crate::{
    repository::{ModelBytes, ModelSource},
    settings::ExecutionProvider,
};

/// Option of a session: use the files in memory where they are. The files must outlive the session.
const IN_PLACE: &str = "session.use_external_initializer_file_buffers_directly";

/// ONNX Runtime.
#[derive(Debug)]
pub(crate) struct Runtime {
    environment: Environment,
    /// The folder of the library.
    pub(super) folder: PathBuf,
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelLoadError {
    /// The library cannot be used.
    #[error("{path}: {problem}")]
    Library {
        /// The library's file.
        path: String,
        /// The loader's message.
        problem: String,
    },
    /// The requested execution provider is missing.
    #[error(
        "--execution-provider {provider} cannot be used: {problem} It needs its device and driver, \
         and a library of ONNX Runtime built for it (see --onnxruntime)"
    )]
    Provider {
        /// The name of the provider.
        provider: &'static str,
        /// The runtime's message.
        problem: String,
    },
    /// TensorRT's libraries are missing.
    #[error(
        "--execution-provider tensorrt cannot be used: {problem}; use the image worker-tensorrt, or \
         --execution-provider cuda"
    )]
    TensorRt {
        /// What is missing.
        problem: String,
    },
    /// The model's file is invalid, or contradicts its config.
    #[error("model {model}: {problem}")]
    Model {
        /// Name and version.
        model: String,
        /// What is wrong.
        problem: String,
    },
}

impl Runtime {
    /// Loads the library, unless the process has already loaded it.
    pub(crate) fn open(library: &Path) -> Result<Self, ModelLoadError> {
        static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
        let environment = ENVIRONMENT.get_or_init(|| {
            let builder = ort::init_from(library).map_err(|error| error.to_string())?;
            let builder = builder.with_name("batchfleet").with_telemetry(false);
            let environment = builder
                .with_logger(Arc::new(log::log))
                .build()
                .map_err(|error| error.to_string())?;
            environment.set_log_level(LogLevel::Warning);
            Ok(environment)
        });
        let problem = |problem: &String| ModelLoadError::Library {
            path: library.display().to_string(),
            problem: problem.clone(),
        };
        let environment = environment.as_ref().map_err(problem)?.clone();
        let folder = library.parent().unwrap_or(Path::new(".")).to_owned();
        Ok(Self { environment, folder })
    }

    /// Loads a model from memory: files that are mapped could change while the model is served. The
    /// caller must keep the external data of `bytes` for as long as the session. Returns also where
    /// the operators run.
    pub(super) fn session(
        &self,
        source: &ModelSource,
        bytes: &ModelBytes,
        options: &SessionOptions,
    ) -> Result<(Session, Placement), ModelLoadError> {
        let model = |error: ort::Error| ModelLoadError::Model {
            model: source.queue.to_string(),
            problem: load_error::explain(&error.to_string()),
        };
        let provider = |error: ort::Error<SessionBuilder>| {
            let (provider, problem) = (options.provider.name(), error.to_string());
            match tensorrt::missing_in(&problem) {
                Some(problem) if options.provider == ExecutionProvider::Tensorrt => {
                    ModelLoadError::TensorRt { problem }
                }
                _ => ModelLoadError::Provider { provider, problem },
            }
        };
        let builder = self.builder(options).map_err(model)?;
        let builder = builder.with_execution_providers(providers(options)).map_err(provider)?;
        let builder = libraries(builder, &options.libraries).map_err(model)?;
        let mut builder = external_data(builder, bytes).map_err(model)?;
        let (session, warnings) = log::warnings_of(|| builder.commit_from_memory(&bytes.model));
        Ok((session.map_err(model)?, Placement::of(&warnings)))
    }

    /// The inputs of a model, from a session on the processor that computes nothing.
    pub(super) fn inputs(&self, bytes: &ModelBytes) -> Result<Vec<TensorSpec>, String> {
        let session = || {
            let builder = Session::builder(&self.environment)?
                .with_intra_threads(1)?
                .with_optimization_level(GraphOptimizationLevel::Disable)?;
            external_data(builder, bytes)?.commit_from_memory(&bytes.model)
        };
        let session: ort::Result<Session> = session();
        let session = session.map_err(|error| load_error::explain(&error.to_string()))?;
        session.inputs().iter().map(tensor_spec).collect()
    }

    /// A session with every option but its providers and libraries.
    fn builder(&self, options: &SessionOptions) -> ort::Result<SessionBuilder> {
        let mut builder = Session::builder(&self.environment)?
            .with_intra_threads(options.intra_threads)?
            .with_intra_op_spinning(false)?
            .with_parallel_execution(options.is_parallel)?
            .with_optimization_level(options.level)?;
        if let Some(threads) = options.inter_threads {
            builder = builder.with_inter_threads(threads)?;
        }
        if let Some(pattern) = options.memory_pattern {
            builder = builder.with_memory_pattern(pattern)?;
        }
        for (name, value) in &options.entries {
            builder = builder.with_config_entry(name, value)?;
        }
        Ok(builder)
    }
}

/// The execution providers of a session, the preferred first.
fn providers(options: &SessionOptions) -> Vec<ExecutionProviderDispatch> {
    let device = options.device.into();
    let cuda = || options.gpu.cuda.clone().with_device_id(device).build().error_on_failure();
    let tensorrt =
        || options.gpu.tensorrt.clone().with_device_id(device).build().error_on_failure();
    let mut providers = match options.provider {
        ExecutionProvider::Cpu => Vec::new(),
        ExecutionProvider::Cuda => vec![cuda()],
        ExecutionProvider::Tensorrt => vec![tensorrt(), cuda()],
    };
    if let Some(arena) = options.arena {
        providers.push(CPU::default().with_arena_allocator(arena).build());
    }
    providers
}

/// Registers the operators of each library.
fn libraries(mut builder: SessionBuilder, files: &[PathBuf]) -> ort::Result<SessionBuilder> {
    for file in files {
        builder = builder.with_operator_library(file)?;
    }
    Ok(builder)
}

/// Adds the files with the data of initializers. If possible, the session uses the data in place:
/// copies would need up to three times their size while the model is loaded.
fn external_data(mut builder: SessionBuilder, bytes: &ModelBytes) -> ort::Result<SessionBuilder> {
    if bytes.in_place {
        builder = builder.with_config_entry(IN_PLACE, "1")?;
    }
    for (name, data) in &bytes.external {
        builder = builder.with_external_initializer_file_in_memory(name, data.clone())?;
    }
    Ok(builder)
}
