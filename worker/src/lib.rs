//! The worker: claims batches of jobs, runs them through a model, replies to every job.
//!
//! [`Loaded::load`] finds the models of a repository, loads each model on its own thread, measures
//! batch times at growing sizes and checks the outputs. [`Loaded::serve`] then serves each model's
//! queue: claim, run, settle.

mod announce;
mod app;
mod batch;
mod busy;
mod ceiling;
mod check;
mod classes;
mod config;
mod drain;
mod engine;
mod error;
mod fault;
mod fetch;
mod gateways;
mod gpus;
mod graph;
mod instances;
mod intake;
mod job;
mod kept_buffers;
mod labels;
mod layout;
mod lengths;
mod limit;
mod machine;
mod metrics;
mod model;
mod padding;
mod pbtxt;
mod pipeline;
mod plan;
mod prepare;
mod probe;
mod proof;
mod protobuf;
mod report;
mod repository;
mod rescue;
mod reshape;
mod resources;
mod retry;
mod settings;
mod settle;
mod stretch;
mod tensors;
mod trace;
mod tuner;
mod unserved;
mod warmup;
mod watchdog;

pub use app::{Engines, Loaded, Worker};
pub use config::check as check_config;
pub use engine::{EngineError, RunError, onnx::ModelLoadError};
pub use error::WorkerError;
pub use layout::UnevenOutput;
pub use metrics::describe_metrics;
pub use pbtxt::SyntaxError;
pub use proof::{Mismatch, Objection};
pub use repository::{Digest, Location, RepositoryError, VersionDigest, Wanted, digests};
pub use resources::WorkerResources;
pub use settings::{ExecutionProvider, ModelSettings, PaddingSettings, WorkerSettings};
pub use watchdog::{EXIT_DEVICE, EXIT_HUNG, leave};
