//! The errors that end a worker.

use batchfleet_broker::QueueName;
use batchfleet_service::{InvalidSettings, TaskEnded};

use crate::{
    engine::{EngineError, onnx::ModelLoadError},
    proof::{Mismatch, Objection},
    repository::RepositoryError,
};

/// Why a worker cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Settings contradict each other, or the machine lacks something.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// The model repository cannot be served.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A model cannot be loaded.
    #[error(transparent)]
    Load(#[from] ModelLoadError),
    /// A model fails on all inputs that the warm-up tries.
    #[error(
        "model {model} cannot be warmed up: {error}; model_warmup in its config.pbtxt gives \
         dimensions it can run with"
    )]
    WarmUp {
        /// The model.
        model: QueueName,
        /// The error of the run.
        error: EngineError,
    },
    /// The config wants batches, but the model's requests cannot be joined.
    #[error(
        "model {model}: config.pbtxt says max_batch_size {max_batch}, but {objection}; \
         max_batch_size: 0 serves it one request at a time"
    )]
    Batch {
        /// The model.
        model: QueueName,
        /// The rows in the config.
        max_batch: u32,
        /// Why requests cannot be joined.
        objection: Box<Objection>,
    },
    /// A model computes something else for the same rows in larger batches.
    #[error(
        "model {model} does not compute in every batch size what it computes in small batches: \
         {mismatch}; the device or its driver may be broken; a smaller max_batch_size in its \
         config.pbtxt avoids this size"
    )]
    Golden {
        /// The model.
        model: QueueName,
        /// The first difference.
        mismatch: Mismatch,
    },
    /// The process has lost the device, and must exit immediately with
    /// [`EXIT_DEVICE`](crate::EXIT_DEVICE).
    #[error("the device of model {model} is lost: {error}")]
    Device {
        /// The model that ran.
        model: QueueName,
        /// The error of the run.
        error: EngineError,
    },
    /// The metrics cannot be registered, because two workers share one registry.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// A thread cannot be started.
    #[error("cannot start an engine: {0}")]
    Thread(#[from] std::io::Error),
    /// The thread of an engine has ended.
    #[error("the engine of model {0} has crashed")]
    EngineGone(QueueName),
    /// A worker that found several models cannot serve any of them.
    #[error("no model can be served: {}", list(.0))]
    NoModel(Vec<WorkerError>),
    /// A task that must run until the shutdown has ended.
    #[error("{0}")]
    Task(#[from] TaskEnded),
    /// A task of the worker has crashed.
    #[error("a part of the worker has crashed: {0}")]
    Crashed(#[from] tokio::task::JoinError),
}

impl WorkerError {
    /// Whether the cause is in the settings or the repository, so that a restart would not help.
    pub fn is_settings(&self) -> bool {
        match self {
            Self::NoModel(errors) => errors.iter().all(Self::is_settings),
            Self::Settings(_)
            | Self::Repository(_)
            | Self::Load(
                ModelLoadError::Library { .. }
                | ModelLoadError::Provider { .. }
                | ModelLoadError::TensorRt { .. },
            ) => true,
            _ => false,
        }
    }

    /// Whether the error concerns one model, so that the worker can serve others.
    pub(crate) const fn is_of_model(&self) -> bool {
        match self {
            Self::Load(
                ModelLoadError::Library { .. }
                | ModelLoadError::Provider { .. }
                | ModelLoadError::TensorRt { .. },
            )
            | Self::Device { .. }
            | Self::Metrics(_)
            | Self::Thread(_)
            | Self::NoModel(_)
            | Self::Task(_)
            | Self::Crashed(_) => false,
            Self::Settings(_)
            | Self::Repository(_)
            | Self::Load(_)
            | Self::WarmUp { .. }
            | Self::Batch { .. }
            | Self::Golden { .. }
            | Self::EngineGone(_) => true,
        }
    }

    /// Whether the process must exit immediately, because all later outputs of its device may be
    /// garbage.
    pub const fn is_device(&self) -> bool {
        matches!(self, Self::Device { .. })
    }

    /// Converts the error for [`batchfleet_service::run`]: invalid settings end the process with
    /// status 64, the end of a task with [`EXIT_TASK`](batchfleet_service::EXIT_TASK), other errors
    /// with status 1.
    pub fn report(self) -> anyhow::Error {
        if self.is_settings() {
            return InvalidSettings::new(self).into();
        }
        if matches!(self, Self::EngineGone(_)) {
            return anyhow::Error::new(TaskEnded::panicked("engine")).context(self);
        }
        self.into()
    }
}

fn list(errors: &[WorkerError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
