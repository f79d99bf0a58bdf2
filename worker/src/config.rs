//! A model's optional `config.pbtxt`, with the fields that Triton defines.
//!
//! [`message`] reads the file as it is, [`effect`] states for each field whether it is honoured,
//! refused or without effect, and [`model_config`] derives from the message what the worker needs.

mod batching;
mod effect;
mod fit;
mod message;
mod mistake;
mod model_config;
mod runtime;
mod served;
mod tensor;
mod warmup;

pub use self::model_config::check;
pub(crate) use self::{
    fit::ModelOutput,
    message::{Accelerator, Agent},
    model_config::{Backend, ModelConfig, VersionPolicy},
    runtime::{InstanceGroup, InstanceKind},
    served::Served,
    tensor::TensorConfig,
    warmup::{WarmupData, WarmupInput, WarmupSample},
};

#[cfg(test)]
mod tests;
