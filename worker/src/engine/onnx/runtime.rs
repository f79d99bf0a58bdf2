//! ONNX Runtime's shared library and the sessions that it opens.
//!
//! The library is loaded once per process. A missing execution provider is an error, because ONNX
//! Runtime itself would silently fall back to the CPU.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use ort::{
    environment::Environment,
    ep::{
        ArenaExtendStrategy, CUDA, ExecutionProviderDispatch, TensorRT, cuda::ConvAlgorithmSearch,
    },
    logging::LogLevel,
    session::Session,
};

use crate::{repository::ModelSource, settings::ExecutionProvider};

/// ONNX Runtime, and the options of every session in this process.
#[derive(Debug)]
pub(crate) struct Runtime {
    environment: Environment,
    provider: ExecutionProvider,
    device: i32,
    threads: usize,
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
    pub(crate) fn open(
        library: &Path,
        provider: ExecutionProvider,
        device: i32,
        threads: usize,
    ) -> Result<Self, ModelLoadError> {
        static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
        let environment = ENVIRONMENT.get_or_init(|| {
            let builder = ort::init_from(library).map_err(|error| error.to_string())?;
            let builder = builder.with_name("batchfleet").with_telemetry(false);
            let environment =
                builder.with_logger(Arc::new(log)).build().map_err(|error| error.to_string())?;
            environment.set_log_level(LogLevel::Warning);
            Ok(environment)
        });
        let problem = |problem: &String| ModelLoadError::Library {
            path: library.display().to_string(),
            problem: problem.clone(),
        };
        let environment = environment.as_ref().map_err(problem)?.clone();
        Ok(Self { environment, provider, device, threads })
    }

    fn providers(&self) -> Vec<ExecutionProviderDispatch> {
        let cuda = || {
            CUDA::default()
                .with_device_id(self.device)
                // The default, an exhaustive search, tries every algorithm again for each new batch
                // size.
                .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
                .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
                .build()
                .error_on_failure()
        };
        let tensorrt =
            || TensorRT::default().with_device_id(self.device).build().error_on_failure();
        match self.provider {
            ExecutionProvider::Cpu => Vec::new(),
            ExecutionProvider::Cuda => vec![cuda()],
            ExecutionProvider::Tensorrt => vec![tensorrt(), cuda()],
        }
    }

    /// The name of the execution provider.
    pub(super) fn provider(&self) -> &'static str {
        self.provider.name()
    }

    /// Loads a model.
    pub(super) fn session(&self, source: &ModelSource) -> Result<Session, ModelLoadError> {
        let model = |error: ort::Error| ModelLoadError::Model {
            model: source.queue.to_string(),
            problem: error.to_string(),
        };
        let options = || -> ort::Result<_> {
            Ok(Session::builder(&self.environment)?
                .with_intra_threads(self.threads)?
                .with_intra_op_spinning(false)?)
        };
        options()
            .map_err(model)?
            .with_execution_providers(self.providers())
            .map_err(|error| ModelLoadError::Provider {
                provider: self.provider.name(),
                problem: error.to_string(),
            })?
            .commit_from_file(&source.file)
            .map_err(model)
    }
}

/// Logs the messages of the library.
fn log(level: LogLevel, category: &str, id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Error | LogLevel::Fatal => {
            tracing::error!(category, id, location, "onnxruntime: {message}");
        }
        LogLevel::Warning => tracing::warn!(category, id, location, "onnxruntime: {message}"),
        _ => tracing::debug!(category, id, location, "onnxruntime: {message}"),
    }
}
