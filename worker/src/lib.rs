//! The worker: claims batches of jobs, runs them through a model, answers every caller.
//!
//! [`Worker::start`] finds the models of a repository, loads each on a thread of its own, times it
//! at growing batch sizes, and serves its queue: claim, run, settle.

mod announce;
mod app;
mod batch;
mod check;
mod config;
mod engine;
mod error;
mod intake;
mod metrics;
mod model;
mod pbtxt;
mod pipeline;
mod repository;
mod retry;
mod settings;
mod settle;
mod tensors;
mod warmup;

pub use app::Worker;
pub use engine::{EngineError, onnx::LoadError};
pub use error::WorkerError;
pub use pbtxt::SyntaxError;
pub use repository::RepositoryError;
pub use settings::{ExecutionProvider, ModelSettings, WorkerSettings};
